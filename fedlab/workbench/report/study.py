"""The report of a study: one offline site, with an index of its runs and a page for each."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Template
from markupsafe import Markup
from nbformat import NotebookNode

from fedlab.core.validation import one_of
from fedlab.files import atomic
from fedlab.metrics.evenness import Better
from fedlab.study import finals, load_runs
from fedlab.study.comparing import effects
from fedlab.study.records import NOTEBOOK, RunRecord, latest
from fedlab.study.running import Planned
from fedlab.study.study import Standing, Study
from fedlab.workbench.batch.notebooks import load
from fedlab.workbench.batch.records import Record
from fedlab.workbench.notebook.cells import STYLE
from fedlab.workbench.report import html
from fedlab.workbench.report.measured import Figure, of_run, short

if TYPE_CHECKING:
    import pandas as pd

    from fedlab.workbench.figures.axes import Drawn


#: A page may have so many bytes.
LIMIT = 2_000_000
_OPTIONS, _CONTESTANTS, _METRICS, _MESSAGE = 30, 12, 4, 300
_SEEDS = ("seed", "seeds")
_HIGHER = re.compile(r"accuracy|auc|f1|precision|recall|score|ndcg")
_LOWER = re.compile(r"loss|error|perplexity")
_COSTS = ("bytes", "epsilon", "seconds", "joules")
_STATUSES = ("done", "failed", "stale", "unverified", "missing")


def write_study_site(
    study: Study | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    by: str | None = None,
    better: Mapping[str, Better] | None = None,
) -> tuple[str, ...]:
    """Write the report of a study: `index.html`, and a page for each run in ``runs/``.

    Parameters
    ----------
    study : Study or path-like
        A study, whose runs are told apart as done, failed, stale, unverified and missing; or the
        folder of one, where they are done or failed.
    folder : path-like
        Where pages go.
    by : str, optional
        The parameter whose values are the contestants of the curves; by default the one that takes
        the fewest values, seeds aside.
    better : mapping of metric to {"higher", "lower"}, optional
        What counts: the first is the metric of all figures, the first two make the trade-off. By
        default it is chosen by name: an accuracy or a loss, and what is spent.

    Returns
    -------
    tuple of str
        What is wrong with pages, each with its name. A page that can't be made says why, and the
        others are there.

    Raises
    ------
    NotADirectoryError
        If there is no such study.

    Notes
    -----
    Pages make no request, and their policy forbids any; the index's one script is named there by
    its digest. Paths of this machine are taken out of all text.

    Examples
    --------
    ::

        write_study_site("reports/alphas", "reports/alphas/site")
    """
    source = study.folder if isinstance(study, Study) else Path(study)
    frame = study.frame() if isinstance(study, Study) else load_runs(source)
    runs = study.standing() if isinstance(study, Study) else _found(source, frame)
    title = study.target.name if isinstance(study, Study) else source.name
    index = _index(runs, frame, title, by, better)
    pages = Path(folder) / "runs"
    pages.mkdir(parents=True, exist_ok=True)
    notebook = getattr(getattr(study, "target", None), "notebook", None)
    beside = notebook.path.parent if notebook else source
    template, _ = html.escaping("run.html.j2")
    told = frame[["run", *list(frame)[list(frame).index("round") :]]]
    measured = {str(name): rows.drop(columns="run") for name, rows in told.groupby("run")}
    nothing, wrong = told.head(0).drop(columns="run"), list[str]()
    with ThreadPoolExecutor() as pool:  # it waits for a disk, for the most part
        written = []
        for one in runs:
            if one.record is not None:
                rows = measured.get(one.planned.id, nothing)
                place = source / "runs" / one.record.folder
                page, reasons = _run_page(one, place, rows, beside, template)
                wrong += [f"{one.planned.id}: {reason}" for reason in reasons]
                written.append(pool.submit(_written, pages / f"{one.planned.id}.html", page))
        wrong += [reason for each in written for reason in each.result()]
    kept = {f"{one.planned.id}.html" for one in runs if one.record}
    for path in pages.glob("*.html"):  # of runs that are no part of it any more
        if path.name not in kept and re.fullmatch(r"[0-9a-f]{12}", path.stem):
            path.unlink()
    return (*wrong, *_written(Path(folder) / "index.html", index))


def _found(folder: Path, frame: pd.DataFrame) -> list[Standing]:
    """Return how the runs of a folder stand, where nobody says which are wanted."""
    about = frame.drop_duplicates("run").set_index("run")[["status", "error"]]
    return [
        Standing(
            Planned(name, record.parameters),
            str(about.status[name]),
            (str(about.error[name]),) if about.status[name] == "failed" else (),
            record,
        )
        for name, record in latest(folder).items()
    ]


def _written(path: Path, page: str) -> list[str]:
    content = page.encode()
    atomic.write_bytes(path, content)
    heavy = len(content) > LIMIT
    return [f"{path.stem}: the page has {len(content) / 1e6:.1f} MB"] if heavy else []


# -- a page for each run -------------------------------------------------------------------------


def _run_page(
    one: Standing, folder: Path, rows: pd.DataFrame, beside: Path, template: Template
) -> tuple[str, tuple[str, ...]]:
    """Return a run's page and what is wrong with it; a notebook that is broken costs itself."""
    record = one.record
    assert record is not None
    notes = [] if one.status in ("done", "failed") else [f"This run is {one.status}: {_why(one)}"]
    wrong = ""
    if (folder / NOTEBOOK).is_file():
        try:
            return _notebook_page(load(folder / NOTEBOOK), record, beside, notes)
        except Exception as error:
            wrong = f"its notebook can't be shown: {type(error).__name__}: {error}"
    lines, tables = of_run(record.id, rows)
    page = template.render(
        record=record,
        notes=[*notes, wrong] if wrong else notes,
        curves=lines,
        tables=tables,
        versions=_versions(record),
    )
    return html.scrubbed(page), (wrong,) if wrong else ()


def _notebook_page(
    node: NotebookNode, record: RunRecord, beside: Path, notes: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    known = Record(
        name=record.id,
        notebook=record.target,
        title=record.target,
        question="",
        status=record.status,
        parameters=record.parameters,
        set_parameters={},
        started=record.started,
        seconds=record.seconds,
        cells=[],
        executed_digest="",
        versions=_versions(record),
        command=record.command,
        papermill="",
        error=record.error,
        recorded=record.recorded,
    )
    home = ("../index.html", "All runs")
    made = html.notebook_page(node, beside, known, None, home=home, notes=notes)
    if (excess := len(made.html.encode()) - LIMIT) > 0:
        left_out = _lightened(node, excess)
        said = f"{left_out} heavy outputs are left out here; the run's notebook.ipynb has them."
        made = html.notebook_page(node, beside, known, None, home=home, notes=[*notes, said])
    return made.html, tuple(f"shown as code: {reason}" for reason in made.failed_formulas)


def _lightened(node: NotebookNode, excess: int) -> int:
    """Put a word in the place of the heaviest outputs; return of how many."""
    found = [output for cell in node.cells for output in cell.get("outputs", [])]
    heaviest = sorted(found, key=_weight, reverse=True)
    for count, output in enumerate(heaviest):
        if excess <= 0:
            return count
        excess -= (weight := _weight(output)) - 200
        said = f'<p class="lost">An output of {weight / 1e6:.1f} MB is left out here.</p>'
        output.clear()
        output |= {"output_type": "display_data", "metadata": {}, "data": {"text/html": said}}
    return len(heaviest)


def _weight(output: NotebookNode) -> int:
    """Return what an output takes on a page, about: of several kinds, one is shown."""
    texts = [output.get("text", ""), *output.get("traceback", []), *output.get("data", {}).values()]
    return max((len("".join(text)) for text in texts if isinstance(text, str | list)), default=0)


def _versions(record: RunRecord) -> dict[str, str]:
    """Return the environment as one list: what is known of it, then distributions."""
    known = {n: str(v) for n, v in record.environment.items() if n != "distributions"}
    return known | dict(record.environment.get("distributions", {}))


def _why(one: Standing) -> str:
    bare = (os.path.basename(why) if os.path.isabs(why) else why for why in one.why)
    return replace(one, why=tuple(bare)).said


# -- the index -----------------------------------------------------------------------------------


def _index(
    runs: Sequence[Standing],
    frame: pd.DataFrame,
    title: str,
    by: str | None,
    better: Mapping[str, Better] | None,
) -> str:
    given = {name: None for one in runs for name in one.planned.parameters}
    values = {name: [one.planned.parameters.get(name) for one in runs] for name in given}
    varied = {name: each for name, each in values.items() if len({*map(str, each)}) > 1}
    table = finals(frame) if (frame.status == "done").any() else None
    metrics = _metrics(table, frame)
    for name in better or ():
        one_of(name, metrics, "a metric")
    if by is not None:
        one_of(by, table.attrs["parameters"] if table is not None else values, "a parameter")
    better = _judged(metrics, table) if better is None else better
    about = {name: _of_runs(table, name, runs) for name in [*dict.fromkeys([*better, *metrics])]}
    columns: list[tuple[str, list[Any]]] = [
        ("status", [one.status for one in runs]),
        *varied.items(),
    ]
    columns += [*list(about.items())[:_METRICS]]
    columns.append(("took (s)", [one.record.seconds if one.record else math.nan for one in runs]))
    if any(one.why for one in runs):
        columns.append(("why", [_why(one)[:_MESSAGE] for one in runs]))
    told = [_column(*column, column[0] in {*varied, "status"}) for column in columns]
    rows = [
        {
            "id": one.planned.id,
            "status": one.status,
            "link": f"runs/{one.planned.id}.html" if one.record else "",
            "cells": [column["cells"][place] for column in told],
        }
        for place, one in enumerate(runs)
    ]
    script = (html.TEMPLATES / "report" / "study.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    counts = Counter(one.status for one in runs)
    template, _ = html.escaping("study.html.j2")
    return html.scrubbed(
        template.render(
            title=next((one.record.target for one in runs if one.record), title),
            digest=f"sha256-{digest}",
            script=Markup(script),
            counts={name: counts[name] for name in _STATUSES if counts[name]},
            same={n: _cell(each[0])[0] for n, each in values.items() if n not in varied},
            figures=[*_figures(frame, table, metrics, better, by)] if table is not None else [],
            columns=told,
            rows=rows,
        )
    )


def _figures(
    frame: pd.DataFrame,
    table: pd.DataFrame,
    metrics: Sequence[str],
    better: Mapping[str, Better],
    by: str | None,
) -> Iterator[Figure]:
    """Yield those figures that the runs have something for."""
    import matplotlib.style

    from fedlab.workbench.figures import plot_contest, plot_effects, plot_pareto

    if not metrics:
        return
    metric = next(iter(better), metrics[0])
    over = next((name for name in _SEEDS if name in frame), _SEEDS[0])
    takes = {name: table[name].nunique() for name in table.attrs["parameters"] if name in table}
    varied = {name: count for name, count in takes.items() if count > 1 and name not in _SEEDS}
    few = [name for name in sorted(varied, key=lambda n: varied[n]) if varied[name] <= _CONTESTANTS]
    by_round = _by_round(frame)
    with matplotlib.style.context(STYLE):
        if by_round and (few or by or not varied):
            drawn = metric if metric in by_round else by_round[0]
            lines = frame if few or by else frame.assign(runs="all")
            by = by or (few[0] if few else "runs")
            title = f"{_words(drawn)} by round, a line for each {_words(by)}"
            yield Figure.of(title, "rounds", lambda: plot_contest(lines, by, drawn, over=over))
        if varied:
            title = f"{_words(metric)} by parameter"
            axis = _words(metric)

            def drawn_effects() -> Drawn:
                told = effects(table, metric, over=over)
                return plot_effects(told[told.parameter != over], xlabel=axis)

            yield Figure.of(title, "parameters", drawn_effects)
        if len(better) > 1 and varied:
            title = f"{_words(metric)} against {_words([*better][1])}"
            yield Figure.of(title, "trade-off", lambda: plot_pareto(table, better, over=over))


def _by_round(frame: pd.DataFrame) -> list[str]:
    told = frame[(frame.who == "server") & frame["round"].notna()]
    return [str(name) for name in told.metric.unique()]


def _metrics(table: pd.DataFrame | None, frame: pd.DataFrame) -> list[str]:
    """Return the names of a table's metrics, those by round first."""
    if table is None:
        return []
    others = {"run", "status", "error", *table.attrs["parameters"]}
    found = dict.fromkeys([*_by_round(frame), *map(str, table)])
    return [name for name in found if name in table and name not in others]


def _judged(metrics: Sequence[str], table: pd.DataFrame | None) -> dict[str, Better]:
    """Return what counts by its name: how good a model is, and what that takes."""
    ways: tuple[tuple[re.Pattern[str], Better], ...] = ((_HIGHER, "higher"), (_LOWER, "lower"))
    found: dict[str, Better] = {}
    for pattern, way in ways:
        named = [name for name in metrics if pattern.search(name)]
        if named and not found:
            found[min(named, key=lambda name: not name.startswith(("test", "valid")))] = way
    costs = [n for n in _COSTS if n in metrics and table is not None and len(table[n].unique()) > 1]
    return found | dict.fromkeys(costs[:1], "lower")


def _of_runs(table: pd.DataFrame | None, metric: str, runs: Sequence[Standing]) -> list[Any]:
    """Return each run's value; none, where one has several."""
    if table is None:
        return [math.nan] * len(runs)
    values = table.drop_duplicates(["run", metric])[["run", metric]]
    known = dict(values.drop_duplicates("run", keep=False).to_numpy())
    return [known.get(one.planned.id, math.nan) for one in runs]


def _column(name: str, values: Sequence[Any], filtered: bool) -> dict[str, Any]:
    number = all(isinstance(v, int | float | None) and not isinstance(v, bool) for v in values)
    cells = [(*_cell(value), number) for value in values]
    options = sorted({*zip(map(_order, values), (cell[:2] for cell in cells), strict=True)})
    few = filtered and len(options) <= _OPTIONS
    return {
        "name": name,
        "cells": cells,
        "number": number,
        "options": [option for _, option in options] if few else [],
        "range": filtered and number,
    }


def _order(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return (not number, value if number else 0.0, str(value))


def _cell(value: Any) -> tuple[str, str]:
    """Return a value as a table shows it, and all its digits where that has fewer."""
    if isinstance(value, float):
        said = "" if value != value else short(value)
        return said, "" if said in ("", str(value), f"{value:g}") else str(value)
    return json.dumps(value) if isinstance(value, list | dict) else str(value), ""


def _words(name: str) -> str:
    return name.replace("_", " ")
