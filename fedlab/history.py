"""What happened in a run: one tidy frame.

Every figure, report and comparison reads this and nothing else. Wall times are kept apart: they
differ from run to run, and everything here must not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SERVER", "History"]

#: Who measured what concerns the federation as a whole.
SERVER = "server"


class History:
    """Measurements by round: (round, who, metric, value), and remarks in words.

    Examples
    --------
    >>> history = History()
    >>> history.record(1, SERVER, train_loss=0.5, rows=120)
    >>> history.record(2, SERVER, train_loss=0.4, rows=120)
    >>> history.series("train_loss").tolist()
    [0.5, 0.4]
    >>> list(history.frame().columns)
    ['round', 'who', 'metric', 'value']
    """

    def __init__(self) -> None:
        self._entries: list[tuple[int, str, str, float]] = []
        self._remarks: list[tuple[int, str, str]] = []
        self.wall_seconds: dict[int, float] = {}

    def record(self, round: int, who: object, **measures: float) -> None:
        """Note measurements of a round; `who` is `SERVER` or a device's id."""
        self._entries += [
            (round, str(who), metric, float(value)) for metric, value in measures.items()
        ]

    def remark(self, round: int, who: object, text: str) -> None:
        """Note in words what the numbers don't say: who was left out of a round, and why."""
        self._remarks.append((round, str(who), text))

    def frame(self) -> pd.DataFrame:
        """Return everything measured, one row a measurement: round, who, metric, value."""
        import pandas as pd

        return pd.DataFrame(self._entries, columns=["round", "who", "metric", "value"])

    def remarks(self) -> pd.DataFrame:
        """Return the remarks: round, who, text."""
        import pandas as pd

        return pd.DataFrame(self._remarks, columns=["round", "who", "text"])

    def series(self, metric: str, who: object = SERVER) -> pd.Series[float]:
        """Return one measure of one party, indexed by round.

        Raises
        ------
        KeyError
            If nothing of that name was measured; the names that were are listed.
        """
        import pandas as pd

        points = {r: v for r, w, m, v in self._entries if m == metric and w == str(who)}
        if not points:
            known = sorted({m for _, w, m, _ in self._entries if w == str(who)})
            raise KeyError(f"no {metric!r} of {who!s} in this history; there are {known}")
        index = pd.Index(list(points), name="round")
        return pd.Series(list(points.values()), index, dtype=np.float64, name=metric)

    def last(self, metric: str, who: object = SERVER) -> float:
        """Return the latest value of a measure (see `series`)."""
        return float(self.series(metric, who).iloc[-1])

    def wide(self, who: object = SERVER) -> pd.DataFrame:
        """Return one party's measures, a column each, indexed by round."""
        frame = self.frame()
        return frame[frame.who == str(who)].pivot_table(
            index="round", columns="metric", values="value"
        )
