"""The report of a study: one offline site, with an index of its runs and a page for each."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from fedlab.core.validation import one_of
from fedlab.files import atomic
from fedlab.metrics.evenness import Better
from fedlab.study import effects, finals, load_runs
from fedlab.study.records import DONE, FAILED, NOTEBOOK, RunRecord, latest
from fedlab.study.running import Planned
from fedlab.study.study import Standing, Study
from fedlab.workbench.batch.notebooks import Notebook, load
from fedlab.workbench.notebook.cells import STYLE
from fedlab.workbench.report import html
from fedlab.workbench.report.measured import figure, of_run

if TYPE_CHECKING:
    import pandas as pd

_Ways = Mapping[str, Better]
#: A page may have so many bytes.
LIMIT = 2_000_000
_CONTESTANTS, _METRICS, _MESSAGE = 12, 4, 300
_SEEDS = ("seed", "seeds")
#: What is taken for what counts, the first that is there; and for what it costs.
_WAYS: dict[Better, str] = {
    "higher": "accuracy|auc|f1|precision|recall|score|ndcg",
    "lower": "loss|error|perplexity",
}
_COSTS = ("bytes", "epsilon", "seconds", "joules")


def write_study_site(
    study: Study | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    by: str | None = None,
    better: _Ways | None = None,
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
    names = [one.record.target for one in runs if one.record] or [source.name]
    title = study.target.name if isinstance(study, Study) else names[0]
    index, place = _index(runs, frame, title, by, better), Path(folder) / "runs"
    place.mkdir(parents=True, exist_ok=True)
    target = getattr(study, "target", None)
    beside = target.path.parent if isinstance(target, Notebook) else source
    told = frame[["run", *list(frame)[list(frame).index("round") :]]]
    measured = {str(name): rows.drop(columns="run") for name, rows in told.groupby("run")}
    with ThreadPoolExecutor() as pool:  # most of it is waiting for a disk
        written = [pool.submit(_write, Path(folder) / "index.html", index)]
        for one in runs:
            if record := one.record:
                rows = measured.get(record.id, told.head(0).drop(columns="run"))
                origin = source / "runs" / record.folder
                page = _run_page(one, record, origin, rows, beside)
                written.append(pool.submit(_write, place / f"{record.id}.html", *page))
    ours = {one.record.id for one in runs if one.record}
    for path in place.glob("*.html"):  # of runs that are no part of it any more
        if re.fullmatch(r"[0-9a-f]{12}", path.stem) and path.stem not in ours:
            path.unlink()
    return tuple(reason for each in written for reason in each.result())


def _write(path: Path, page: str, wrong: Sequence[str] = ()) -> list[str]:
    """Write a page, and return what is wrong with it."""
    content = page.encode()
    atomic.write_bytes(path, content)
    heavy = [f"the page has {len(content) / 1e6:.1f} MB"] if len(content) > LIMIT else []
    return [f"{path.stem}: {reason}" for reason in [*wrong, *heavy]]


def _found(folder: Path, frame: pd.DataFrame) -> list[Standing]:
    """Return how the runs of a folder stand, where nobody says which are wanted."""
    about = frame.drop_duplicates("run").set_index("run")
    found = []
    for name, record in latest(folder).items():
        why = () if about.status[name] == DONE else (str(about.error[name]),)
        planned = Planned(name, record.parameters)
        found.append(Standing(planned, str(about.status[name]), why, record))
    return found


def _run_page(
    one: Standing, record: RunRecord, folder: Path, rows: pd.DataFrame, beside: Path
) -> tuple[str, list[str]]:
    """Return a run's page and what is wrong with it; a notebook that is broken costs itself."""
    notes = [] if one.status in (DONE, FAILED) else [f"This run is {one.status}: {_why(one)}"]
    wrong = list[str]()
    if (folder / NOTEBOOK).is_file():
        try:
            made = _notebook_page(folder / NOTEBOOK, record, beside, notes)
            return made.html, [f"shown as code: {reason}" for reason in made.failed_formulas]
        except Exception as error:
            wrong = [f"its notebook can't be shown: {type(error).__name__}: {error}"]
    template, told = html.escaping("run.html.j2")[0], of_run(record.id, rows)
    page = template.render(record=record, notes=[*notes, *wrong], **told)
    return html.scrubbed(page), wrong


def _notebook_page(path: Path, record: RunRecord, beside: Path, notes: list[str]) -> html.Page:
    """Return the page of a run's notebook, without its heaviest outputs if it is too heavy."""
    node = load(path)
    outputs = [output for cell in node.cells for output in cell.get("outputs", [])]
    lightest, said = sorted(outputs, key=lambda output: len(json.dumps(output))), list[str]()
    while True:
        told, home = [*notes, *said], ("../index.html", "All runs")
        made = html.notebook_page(node, beside, record, None, home=home, notes=told)
        if len(made.html.encode()) <= LIMIT or not lightest:
            return made
        output = lightest.pop()
        words = f"An output of {len(json.dumps(output)) / 1e6:.1f} MB is left out here."
        output.clear()
        output |= {"output_type": "display_data", "metadata": {}}
        output["data"] = {"text/html": f'<p class="lost">{words}</p>'}
        left = len(outputs) - len(lightest)
        said = [f"Left out, since they are heavy: {left} outputs. The run's notebook has them."]


def _why(one: Standing) -> str:
    bare = (os.path.basename(why) if os.path.isabs(why) else why for why in one.why)
    return replace(one, why=tuple(bare)).said


def _index(
    runs: Sequence[Standing], frame: pd.DataFrame, title: str, by: str | None, better: _Ways | None
) -> str:
    names = dict.fromkeys(name for one in runs for name in one.planned.parameters)
    values = {name: [one.planned.parameters.get(name) for one in runs] for name in names}
    varied = {name: each for name, each in values.items() if len({*map(str, each)}) > 1}
    table, statuses = finals(frame), [one.status for one in runs]
    by_round = list(frame[(frame.who == "server") & frame["round"].notna()].metric.unique())
    others = {"run", "status", "error", *table.attrs["parameters"]}
    known = [name for name in dict.fromkeys([*by_round, *table]) if name in {*table} - others]
    for name in better or ():
        one_of(name, known, "a metric")
    one_of(by, [None, *table.attrs["parameters"]], "a parameter")
    better = _judged(known) if better is None else better
    shown = [*dict.fromkeys([*better, *known])][:_METRICS]
    single = table.drop_duplicates("run", keep=False).set_index("run")
    single = single.reindex([one.planned.id for one in runs])
    columns = {"status": statuses, **varied, **{name: single[name].tolist() for name in shown}}
    columns["took (s)"] = [one.record.seconds if one.record else float("nan") for one in runs]
    if any(one.why for one in runs):
        columns["why"] = [_why(one)[:_MESSAGE] for one in runs]
    script = (html.TEMPLATES / "report" / "study.js").read_text(encoding="utf-8")
    page = html.escaping("study.html.j2")[0].render(
        title=title,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        script=Markup(script),
        counts=Counter(sorted(statuses)),
        same={name: each[0] for name, each in values.items() if name not in varied},
        figures=list(_figures(frame, table, shown, by_round, better, by)),
        columns=columns,
        filtered={"status", *varied},
        rows=list(zip(runs, zip(*columns.values(), strict=True), strict=True)),
    )
    return html.scrubbed(page)


def _judged(metrics: Sequence[str]) -> _Ways:
    """Return what counts by its name, a test's before others: how good it is, and what it costs."""
    tested = sorted(metrics, key=lambda name: not name.startswith(("test", "valid")))
    named = [(name, way) for way in _WAYS for name in tested if re.search(_WAYS[way], name)]
    costs: list[tuple[str, Better]] = [(name, "lower") for name in _COSTS if name in metrics]
    return dict([*named[:1], *costs[:1]])


def _figures(
    frame: pd.DataFrame,
    table: pd.DataFrame,
    metrics: Sequence[str],
    by_round: Sequence[str],
    better: _Ways,
    by: str | None,
) -> Iterator[dict[str, Any]]:
    """Yield those figures that the runs have something for."""
    import matplotlib.style

    from fedlab.workbench.figures import plot_contest, plot_effects, plot_pareto

    over = next((name for name in _SEEDS if name in frame), _SEEDS[0])
    given = [name for name in table.attrs["parameters"] if name in table and name not in _SEEDS]
    takes = table[given].nunique()
    varied = takes[takes > 1].sort_values(kind="stable")
    way = by or [*varied[varied <= _CONTESTANTS].index, "all runs"][0]
    said = [name.replace("_", " ") for name in metrics]
    with matplotlib.style.context(STYLE):
        if by_round:
            drawn = next((name for name in metrics if name in by_round), by_round[0])
            rest = [*varied.index.drop(way, errors="ignore")]
            also = f", mean over {', '.join(rest)} as well" if rest else ""
            title = f"{drawn.replace('_', ' ')} by round, by {way}{also}"
            lines = frame if way in frame else frame.assign(**{way: ""})
            yield figure(title, "rounds", lambda: plot_contest(lines, way, drawn, over=over))
        if metrics and len(varied):
            yield figure(
                f"{said[0]} by parameter",
                "parameters",
                lambda: plot_effects(
                    effects(table, metrics[0], over=over).query("parameter != @over"),
                    xlabel=said[0],
                ),
            )
            if len(better) > 1:
                title = f"{said[0]} against {said[1]}"
                yield figure(title, "trade-off", lambda: plot_pareto(table, better, over=over))
