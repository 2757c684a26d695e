"""From records to pages: one a notebook, and an index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedlab.files import atomic
from fedlab.workbench.batch import runner
from fedlab.workbench.batch.notebooks import load
from fedlab.workbench.batch.records import Record
from fedlab.workbench.report import html


def write_page(
    executed: Path, page: Path, source: Path, record: Record | None, site: str | None
) -> tuple[str, ...]:
    """Write the page of an executed notebook; return what is wrong with it.

    A page that can't be made says why in its place.

    `source` is the folder of the notebook's source, `site` the address of the report's other pages
    (see `fedlab.workbench.report.html.notebook_page`).
    """
    node = load(executed)
    try:
        made = html.notebook_page(node, source, record, site)
        wrong = tuple(f"shown as code: {reason}" for reason in made.failed_formulas)
    except Exception as error:  # whatever an output holds, it must not cost the other pages
        wrong = (f"the page can't be shown: {type(error).__name__}: {error}",)
        made = html.notebook_page(html.note(page.stem, wrong[0]), source, record, site)
    atomic.write_bytes(page, made.html.encode())
    return wrong


def write_report(
    recorded: Sequence[Record], runs: Path, source: Path, folder: Path
) -> tuple[str, ...]:
    """Write `index.html` and a page for each record into `folder`.

    Parameters
    ----------
    recorded : sequence of Record
        In the order of the index.
    runs : Path
        Where the executed notebooks stand.
    source : Path
        Where their sources lie.
    folder : Path
        Where the pages go. If the how-to pages stand below it, the index links to them.

    Returns
    -------
    tuple of str
        What is wrong with pages, each with the name of its notebook. A page that can't be made
        says why, and the others are there.
    """
    wrong, entries = [], []
    for record in recorded:
        name = runner.stem(runs, record)
        executed, kept = runner.executed_path(runs, name), None
        if name == record.name:
            (folder / f"{name}.failed.html").unlink(missing_ok=True)
        else:
            kept = runner.completed(runs, record.name)
            of_kept = runner.executed_path(runs, record.name)
            write_page(of_kept, folder / f"{record.name}.html", source, kept, ".")
        reasons = write_page(executed, folder / f"{name}.html", source, record, ".")
        wrong += [f"{name}: {reason}" for reason in reasons]
        entries.append(html.Entry(record, load(executed), f"{name}.html", kept))
    docs = "docs/index.html"  # where `make docs` puts them
    index = html.index_page(entries, docs if (folder / docs).is_file() else None)
    atomic.write_bytes(folder / "index.html", index.html.encode())
    return tuple(wrong)
