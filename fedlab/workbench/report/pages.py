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
    """Write the page of an executed notebook; return what is wrong with its formulas.

    `source` is the folder of the notebook's source, `site` the address of the report's other pages
    (see `fedlab.workbench.report.html.notebook_page`).
    """
    node = load(executed)
    made = html.notebook_page(node, source, record, site)
    atomic.write_bytes(page, made.html.encode())
    return made.failed_formulas


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
        What is wrong with formulas, each with the name of its notebook.
    """
    wrong, entries = [], []
    for record in recorded:
        executed = runner.executed_path(runs, record.name)
        failed = write_page(executed, folder / f"{record.name}.html", source, record, ".")
        wrong += [f"{record.name}: {reason}" for reason in failed]
        entries.append((record, load(executed)))
    docs = "docs/index.html"  # where `make docs` puts them
    index = html.index_page(
        entries,
        [f"{record.name}.html" for record in recorded],
        docs if (folder / docs).is_file() else None,
    )
    atomic.write_bytes(folder / "index.html", index.html.encode())
    return tuple(wrong)
