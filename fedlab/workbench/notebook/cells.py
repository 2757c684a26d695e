"""What a notebook's cells call to speak to their reader, live and in a report.

>>> from fedlab.workbench.notebook import cells
>>> cells.begin()
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fedlab.core import progress
from fedlab.core.extras import missing
from fedlab.study import results
from fedlab.workbench.notebook.sentences import filled
from fedlab.workbench.report.outputs import (
    ANSWER,
    CONTENTS,
    FIGURE,
    KEY,
    PROVENANCE,
    RECORD,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedlab.data import Origin

#: The style sheet of all figures.
STYLE = Path(__file__).with_name("fedlab.mplstyle")
# Above this an SVG is heavier than the same figure in pixels: thousands of points, or an image.
_SVG_BYTES = 120_000
_THUMBNAIL_DPI, _PIXELS_DPI = 110, 160
_CSS_DPI = 96
SVG, PNG = "image/svg+xml", "image/png"
_LOG_SECONDS = 10.0

T = TypeVar("T")


def begin(extra: str | None = None) -> None:
    """Set the workbench's figure style, and the progress output that fits how this runs.

    Call it once, in the import cell; calling it again changes nothing.

    Parameters
    ----------
    extra : str, optional
        What the notebook can't do without. Where it is not installed, the notebook says so as its
        answer, and no further cell does anything until it is.

    Raises
    ------
    ValueError
        If there is no such extra.
    """
    import matplotlib.style

    if extra is not None and (lacking := missing(extra)):
        _stand_still(extra, lacking)

    matplotlib.rcdefaults()  # a matplotlibrc of the reader's own changes no figure
    matplotlib.style.use(STYLE)
    progress.use(_log_lines if is_batch() else _live_bar)


def is_batch() -> bool:
    """Whether nobody sits in front of this: papermill, nbclient, or no IPython at all.

    Somebody sits in front of Voilà, which runs cells as nbclient does.

    Examples
    --------
    >>> is_batch()
    True
    """
    try:
        from IPython import get_ipython
    except ImportError:
        return True
    kernel, server = getattr(get_ipython(), "kernel", None), os.environ.get("SERVER_SOFTWARE", "")
    # A front end that can be typed into says so with each cell; papermill and nbclient don't.
    return not (getattr(kernel, "_allow_stdin", False) or server.startswith("voila/"))


def show(figure: Figure, alt: str, main: bool = False, **values: Any) -> None:
    """Show a figure with its alternative text, and close it.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Drawn as SVG, or as PNG where that would be heavy.
    alt : str
        What the figure shows, in a sentence or two, for somebody who can't see it.
    main : bool
        Whether it stands for the notebook in the report's index.
    **values
        What `alt` names in braces: ``alt="It ends at {last:.2f}.", last=0.93``. A frame, a Series
        or a mapping reads as words.

    Raises
    ------
    ValueError
        When `alt` is empty, or names a value that was not given.
    """
    alt = filled(alt, values)
    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the figure shows")
    from matplotlib import pyplot

    said = " ".join(alt.split())
    drawings = drawn(figure, thumbnail=main)
    width = round(figure.get_size_inches()[0] * _CSS_DPI)
    notes: dict[str, Any] = {kind: {"alt": said} for kind in drawings}
    if PNG in drawings:
        notes[PNG]["width"] = width
    marks = {"role": FIGURE, "alt": said, "main": main}
    _display({**drawings, "text/plain": said}, {KEY: marks, **notes})
    pyplot.close(figure)


def answer(text: str, **values: Any) -> None:
    """Show the notebook's answer, with this run's numbers, and mark it for the report's index.

    Parameters
    ----------
    text : str
        Markdown, one or two sentences.
    **values
        What the text names in braces (see `show`). Numbers, texts and truth values among them go
        into the run's record (see `record`).

    Raises
    ------
    ValueError
        When the text is empty, or names a value that was not given.
    """
    said = filled(text, values).strip()
    if not said:
        raise ValueError("the answer is empty: say in a sentence what this run found")
    kept = results.scalars(
        {n: v for n, v in values.items() if isinstance(v, str | Real | np.bool_)}
    )
    _display({"text/markdown": said, "text/plain": said}, {KEY: {"role": ANSWER, "values": kept}})


def record(**values: Any) -> None:
    """Put values into the record of a run, where `fedlab.workbench.read_records` finds them.

    Parameters
    ----------
    **values
        Numbers, texts, truth values or None, by name; a later value of a name takes its place.
        NaN and infinity become None, since JSON has neither.

    Raises
    ------
    TypeError
        For anything else.

    Examples
    --------
    ::

        cells.record(accuracy=0.93, rounds=40)
    """
    taken = results.scalars(values)
    said = ", ".join(f"{name} = {value}" for name, value in taken.items())
    _display({"text/plain": f"recorded: {said}"}, {KEY: {"role": RECORD, "values": taken}})


#: Puts measurements of a run where `fedlab.load_runs` finds them.
keep = results.keep


def contents(groups: Mapping[str, Sequence[str]] | None = None) -> None:
    """Show the numbered notebooks by their questions, with links and their last answers, as tables.

    Parameters
    ----------
    groups : mapping of title to numbers, optional
        Such as ``{"Begin": ["01", "02"]}``; notebooks that no group names come last.

    Notes
    -----
    Answers are those of the last `make report`, where there was one.
    """
    from fedlab.workbench.batch import notebooks, runner

    left = {one.name[:2]: one for one in notebooks.numbered(notebooks.ROOT / "notebooks")}
    left.pop("00", None)  # where this stands
    given = {title: [left.pop(n) for n in group] for title, group in (groups or {}).items()}
    lines = []
    for title, group in {**given, "More" if given else "": [*left.values()]}.items():
        head = ["| question | its last answer | what can be changed |", "|---|---|---|"]
        lines += [f"### {title}" if title else "", "", *head] if group else []
        for one in group:
            record = runner.completed(notebooks.ROOT / "reports" / "quick", one.name)
            said = " ".join(record.answer.split()).replace("|", "\\|") if record else ""
            names = ", ".join(f"`{parameter.name}`" for parameter in one.parameters)
            link = f"[{one.name[:2]}]({one.path.name}) {one.broken or one.question}"
            lines.append(f"| {link} | {said or 'not run yet'} | {names} |")
        lines.append("")
    table = "\n".join(lines)
    _display({"text/markdown": table, "text/plain": table}, {KEY: {"role": CONTENTS}})


def provenance(*origins: Origin) -> None:
    """Print where the data came from, and mark it for the report's header."""
    lines = "\n".join(origin.describe() for origin in origins)
    _display({"text/plain": lines}, {KEY: {"role": PROVENANCE}})


def _stand_still(extra: str, lacking: list[str]) -> None:
    """Say what is missing, and skip cells for as long as it is."""
    from IPython import get_ipython

    other = "make flower" if extra == "flower" else f"pip install -e '.[{extra}]'"
    said = (
        f"This notebook takes the extra `{extra}`, and {', '.join(lacking)} can't be found. "
        f"Nothing below has run. `make report EXTRAS={extra}` installs it and runs the notebook; "
        f"or type `{other}` in the clone, and run all cells again."
    )
    marks = {"role": ANSWER, "values": {}, "lacks": extra}
    _display({"text/markdown": said, "text/plain": said}, {KEY: marks})
    shell = get_ipython()
    if shell is None:
        return
    transforms = shell.input_transformers_cleanup

    def skip(lines: list[str]) -> list[str]:
        if missing(extra):
            return []
        transforms.remove(skip)
        return lines

    transforms.append(skip)


def _display(data: dict[str, Any], metadata: dict[str, Any]) -> None:
    from IPython.display import display

    display(data, metadata=metadata, raw=True)  # type: ignore[no-untyped-call]


def drawn(figure: Figure, thumbnail: bool = False) -> dict[str, str | bytes]:
    """Return a figure as SVG, and as PNG where that is lighter or where an index needs one."""
    svg = io.BytesIO()
    # Without a date the same figure gives the same bytes.
    figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    light = svg.tell() <= _SVG_BYTES
    drawings: dict[str, str | bytes] = {SVG: svg.getvalue().decode()} if light else {}
    if thumbnail or not light:
        drawings[PNG] = pixels(figure, _THUMBNAIL_DPI if light else _PIXELS_DPI)
    return drawings


def pixels(figure: Figure, dpi: int) -> bytes:
    """A PNG of 256 colours: a figure needs no more, and is a third as heavy."""
    from PIL import Image

    full, reduced = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", transparent=True, dpi=dpi)
    with Image.open(full) as picture:
        picture.quantize(256).save(reduced, format="png", optimize=True, dpi=(dpi, dpi))
    return reduced.getvalue()


def _live_bar(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    from IPython.display import display
    from tqdm import auto, std

    if auto.notebook_tqdm is std.tqdm:  # there are no widgets
        yield from auto.tqdm(items, total=total, desc=label, leave=False)
        return
    drawn: Any = auto.tqdm(items, total=total, desc=label, leave=False, display=False)
    shown = display(drawn.container, display_id=True)  # type: ignore[no-untyped-call]
    try:
        yield from drawn
    finally:
        # Widgets are not saved: where one stays, a notebook that is opened again tells an error.
        shown.update({"text/plain": ""}, raw=True)


def _log_lines(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Say nothing of what is quick, and a line every ten seconds of what isn't."""
    began = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - said >= _LOG_SECONDS:
            said = now
            print(f"{label}: {done} of {total}, {now - began:.0f} s", flush=True)
        yield item
