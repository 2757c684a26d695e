"""A study that runs under a cell: a table that lives while it runs, and stays when it has ended."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from IPython.display import HTML, display

from fedlab.study.records import RunRecord

if TYPE_CHECKING:
    import pandas as pd

    from fedlab.study.study import Study

_EVERY_SECONDS = 0.5
_LAST = 5


def run_study(study: Study, **how: Any) -> pd.DataFrame:
    """Run what is missing of a study, with a live table, and return how its runs stand.

    Parameters
    ----------
    study : Study
    **how
        What `Study.run` takes: ``workers=``, ``limit=``, ``executor=``, ``fresh=``.
    """
    shown = display(_markup("<p>Looking up what has been run ...</p>"), display_id=True)  # type: ignore[no-untyped-call]
    ended: deque[RunRecord] = deque(maxlen=_LAST)
    failed: list[RunRecord] = []
    drawn = began = time.monotonic()

    def tell(counts: Mapping[str, int], record: RunRecord | None) -> None:
        nonlocal drawn
        if record is not None:
            (failed if record.error else ended).append(record)
        if (now := time.monotonic()) - drawn > _EVERY_SECONDS:
            drawn = now
            shown.update(_markup(_table(counts, [*failed, *ended], now - began)))

    table = study.run(**how, tell=tell)
    counts = {str(name): int(count) for name, count in table.status.value_counts().items()}
    shown.update(_markup(_table(counts, failed, None)))
    return table


def _markup(text: str) -> Any:
    return HTML(text)  # type: ignore[no-untyped-call]


def _table(counts: Mapping[str, int], records: list[RunRecord], seconds: float | None) -> str:
    """Say how far a sweep is, with the runs that ended last; at its end, without a time."""
    total = sum(counts.values())
    ended = counts.get("done", 0) + counts.get("failed", 0)
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    bar = f'<progress max="{total}" value="{ended}" aria-label="runs that ended"></progress> '
    after = f", {seconds:.0f} s" if seconds is not None else ""
    rows = "".join(
        f"<tr><th>{escape(one.id)}</th><td>{escape(_given(one))}</td><td>{escape(_how(one))}</td></tr>"
        for one in reversed(records)
    )
    head = "<thead><tr><th>run</th><th>parameters</th><th>how it ended</th></tr></thead>"
    below = f"<table>{head}<tbody>{rows}</tbody></table>" if rows else ""
    return f"<p>{bar if seconds is not None else ''}{total} runs: {told}{after}</p>{below}"


def _given(record: RunRecord) -> str:
    return ", ".join(f"{name} = {value}" for name, value in record.parameters.items())


def _how(record: RunRecord) -> str:
    return str(record.error) if record.error else f"done in {record.seconds:.1f} s"
