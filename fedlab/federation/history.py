"""What happened in a run: one tidy frame.

Every figure, report and comparison reads this and nothing else. Wall times are kept apart: they
differ from run to run, and everything here must not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SERVER", "History", "effort_to"]

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
        # The same by party and metric: a run that looks for convergence asks each round.
        self._points: dict[tuple[str, str], dict[int, float]] = {}
        self._remarks: list[tuple[int, str, str]] = []
        self.wall_seconds: dict[int, float] = {}

    def record(self, round: int, who: object, **measures: float) -> None:
        """Note measurements of a round; `who` is `SERVER` or a device's id."""
        for metric, value in measures.items():
            self._note(round, str(who), metric, float(value))

    def _note(self, round: int, who: str, metric: str, value: float) -> None:
        self._entries.append((round, who, metric, value))
        self._points.setdefault((who, metric), {})[round] = value

    def remark(self, round: int, who: object, text: str) -> None:
        """Note in words what the numbers don't say: who was left out of a round, and why."""
        self._remarks.append((round, str(who), text))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all of it as arrays of numbers and text, for a file."""
        rounds, who, metrics, values = _columns(self._entries, 4)
        remarked, whose, texts = _columns(self._remarks, 3)
        timed, seconds = _columns(list(self.wall_seconds.items()), 2)
        return {
            "rounds": np.array(rounds, np.int64),
            "who": np.array(who, np.str_),
            "metrics": np.array(metrics, np.str_),
            "values": np.array(values, np.float64),
            "remark_rounds": np.array(remarked, np.int64),
            "remark_who": np.array(whose, np.str_),
            "remark_texts": np.array(texts, np.str_),
            "timed_rounds": np.array(timed, np.int64),
            "wall_seconds": np.array(seconds, np.float64),
        }

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> History:
        """Return the history whose `arrays` these are."""

        def rows(*names: str) -> list[tuple[Any, ...]]:
            return list(zip(*(arrays[name].tolist() for name in names), strict=True))

        history = cls()
        for entry in rows("rounds", "who", "metrics", "values"):
            history._note(*entry)
        history._remarks = rows("remark_rounds", "remark_who", "remark_texts")
        history.wall_seconds = dict(rows("timed_rounds", "wall_seconds"))
        return history

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

        points = self._points.get((str(who), metric))
        if not points:
            known = sorted(measured for party, measured in self._points if party == str(who))
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


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True)) if rows else [()] * count


def effort_to(history: History, metric: str, target: float) -> dict[str, float]:
    """Return what it took until a measure first was at least at a target; NaN where it never was.

    Parameters
    ----------
    history : History
    metric : str
        A measure of the server's that should grow, such as ``test_accuracy``.
    target : float

    Returns
    -------
    dict
        ``rounds``; ``bytes`` sent and received; ``seconds``, simulated on the devices' hardware.

    Examples
    --------
    >>> history = History()
    >>> for round, accuracy in enumerate([0.2, 0.7, 0.6, 0.9], start=1):
    ...     history.record(round, "server", accuracy=accuracy, bytes_up=5, bytes_down=5, seconds=1)
    >>> effort_to(history, "accuracy", 0.65)
    {'rounds': 2.0, 'bytes': 20.0, 'seconds': 2.0}
    """
    values = history.series(metric)
    there = np.flatnonzero(values >= target)
    if not len(there):
        return {"rounds": np.nan, "bytes": np.nan, "seconds": np.nan}
    until = values.index[: there[0] + 1]
    sums = {name: history.series(name)[until].sum() for name in ("bytes_up", "bytes_down")}
    return {
        "rounds": float(len(until)),
        "bytes": float(sums["bytes_up"] + sums["bytes_down"]),
        "seconds": float(history.series("seconds")[until].sum()),
    }
