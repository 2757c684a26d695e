"""What happened in a run: one tidy frame.

Every figure, report and comparison reads this and nothing else. Wall times are kept apart: they
differ from run to run, and everything here must not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import F64, U64, Places

if TYPE_CHECKING:
    import pandas as pd

#: Who measured what concerns the federation as a whole.
SERVER = "server"


@dataclass(frozen=True, eq=False)
class Report:
    """What a round gave, as `Federation.rounds` yields it.

    Attributes
    ----------
    round : int
    measures : mapping of str to float
        Of the federation as a whole, by metric.
    devices : mapping of str to (m,) arrays
        Columns by metric, and ``id``: of single devices, where they are recorded.
    remarks : tuple of (who, text)
        What the numbers don't say: who was left out, and why.
    senders : (k,) int array
        Places of the devices whose updates entered the model.
    keys : tuple of (r,) uint64 arrays
        The rows that each of them trained on, where a rule chose them.
    wall_seconds : float
    """

    round: int
    measures: Mapping[str, float]
    devices: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    remarks: tuple[tuple[object, str], ...] = ()
    senders: Places = field(default_factory=lambda: np.empty(0, np.intp))
    keys: tuple[U64, ...] = ()
    wall_seconds: float | None = None


@dataclass(frozen=True, eq=False)
class _Block:
    """Some parties' measures of a round, (parties, metrics), with remarks and seconds."""

    round: int
    who: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    numbers: F64 = field(default_factory=lambda: np.empty((0, 0)))
    remarks: tuple[tuple[str, str], ...] = ()
    seconds: float | None = None


class History:
    """Measurements by round: (round, who, metric, value), and remarks in words.

    It only grows, a block a round. A history that a run has made stays as it is: the next round
    makes another one, which shares all blocks with it.

    Examples
    --------
    >>> history = History()
    >>> history.record(1, SERVER, train_loss=0.5, rows=120)
    >>> history.record(2, SERVER, train_loss=0.4, rows=120)
    >>> history.series("train_loss").tolist()
    [0.5, 0.4]
    >>> list(history.to_frame().columns)
    ['round', 'who', 'metric', 'value']
    """

    def __init__(self) -> None:
        self._log: list[_Block] = []
        self._length = 0

    # -- growing -----------------------------------------------------------------------------

    def record(self, round: int, who: object, **measures: float) -> None:
        """Note measurements of a round by hand; `who` is `SERVER` or a device's id."""
        values = np.array([list(measures.values())], np.float64)
        self._append(_Block(round, (str(who),), tuple(measures), values))

    def remark(self, round: int, who: object, text: str) -> None:
        """Note in words what the numbers don't say: who was left out of a round, and why."""
        self._append(_Block(round, remarks=((str(who), text),)))

    def time(self, round: int, seconds: float) -> None:
        """Note how long a round took."""
        self._append(_Block(round, seconds=seconds))

    def and_then(self, report: Report) -> History:
        """Return the history with a further round; this one stays as it is."""
        longer = History()
        longer._log, longer._length = self._log, self._length
        server = np.array([list(report.measures.values())], np.float64)
        remarks = tuple((str(who), text) for who, text in report.remarks)
        names, seconds = tuple(report.measures), report.wall_seconds
        blocks = [_Block(report.round, (SERVER,), names, server, remarks, seconds)]
        if report.devices:
            columns = {name: column for name, column in report.devices.items() if name != "id"}
            values = np.column_stack([column.astype(np.float64) for column in columns.values()])
            who = tuple(str(name) for name in report.devices["id"])
            blocks.append(_Block(report.round, who, tuple(columns), values))
        longer._append(*blocks)
        return longer

    def _append(self, *blocks: _Block) -> None:
        if len(self._log) != self._length:  # another one has grown from here: a log of its own
            self._log = self._log[: self._length]
        self._log.extend(blocks)
        self._length += len(blocks)

    def _blocks(self) -> Sequence[_Block]:
        return self._log if len(self._log) == self._length else self._log[: self._length]

    # -- reading -----------------------------------------------------------------------------

    @property
    def wall_seconds(self) -> dict[int, float]:
        """How long each round took."""
        return {b.round: b.seconds for b in self._blocks() if b.seconds is not None}

    def to_frame(self) -> pd.DataFrame:
        """Return everything measured, one row a measurement: round, who, metric, value."""
        import pandas as pd

        return pd.DataFrame(self._columns(), columns=["round", "who", "metric", "value"])

    def _columns(self) -> dict[str, Any]:
        blocks = [block for block in self._blocks() if block.numbers.size]
        sizes = [block.numbers.size for block in blocks]
        return {
            "round": np.repeat(np.array([b.round for b in blocks], np.int64), sizes),
            "who": [who for b in blocks for who in b.who for _ in b.metrics],
            "metric": [metric for b in blocks for _ in b.who for metric in b.metrics],
            "value": np.concatenate([np.empty(0), *(b.numbers.ravel() for b in blocks)]),
        }

    def remarks(self) -> pd.DataFrame:
        """Return the remarks: round, who, text."""
        import pandas as pd

        rows = [(b.round, *remark) for b in self._blocks() for remark in b.remarks]
        return pd.DataFrame(rows, columns=["round", "who", "text"])

    def series(self, metric: str, who: object = SERVER) -> pd.Series[float]:
        """Return one measure of one party, indexed by round.

        Raises
        ------
        KeyError
            If nothing of that name was measured; the names that were are listed.
        """
        import pandas as pd

        points = dict(self.points(metric, who))
        if not points:
            known = sorted({m for b in self._blocks() if str(who) in b.who for m in b.metrics})
            raise KeyError(f"no {metric!r} of {who!s} in this history; there are {known}")
        index = pd.Index(list(points), name="round")
        return pd.Series(list(points.values()), index, dtype=np.float64, name=metric)

    def points(self, metric: str, who: object = SERVER) -> Iterator[tuple[int, float]]:
        """Yield (round, value) of one measure of one party; nothing if it was never taken."""
        party = str(who)
        for block in self._blocks():
            if metric in block.metrics and party in block.who:
                column = block.metrics.index(metric)
                yield block.round, float(block.numbers[block.who.index(party), column])

    def last(self, metric: str, who: object = SERVER) -> float:
        """Return the latest value of a measure (see `series`)."""
        return float(self.series(metric, who).iloc[-1])

    def wide(self, who: object = SERVER) -> pd.DataFrame:
        """Return one party's measures, a column each, indexed by round."""
        frame = self.to_frame()
        return frame[frame.who == str(who)].pivot_table(
            index="round", columns="metric", values="value"
        )

    # -- files -------------------------------------------------------------------------------

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all of it as arrays of numbers and text, for a file."""
        columns, blocks = self._columns(), self._blocks()
        who, whose = _coded(columns["who"])
        metrics, of_metric = _coded(columns["metric"])
        remarks = [(b.round, *remark) for b in blocks for remark in b.remarks]
        seconds = self.wall_seconds
        return {
            "rounds": columns["round"],
            "who": whose,
            "who names": who,
            "metrics": of_metric,
            "metric names": metrics,
            "values": columns["value"],
            "remark rounds": np.array([r for r, _, _ in remarks], np.int64),
            "remark who": np.array([w for _, w, _ in remarks], np.str_),
            "remark texts": np.array([text for _, _, text in remarks], np.str_),
            "timed rounds": np.array(list(seconds), np.int64),
            "wall seconds": np.array(list(seconds.values()), np.float64),
        }

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> History:
        """Return the history whose `arrays` these are."""
        history = cls()
        who = arrays["who names"][arrays["who"]].tolist()
        metrics = arrays["metric names"][arrays["metrics"]].tolist()
        rounds, values = arrays["rounds"].tolist(), arrays["values"].tolist()
        parts: dict[tuple[int, str], dict[str, float]] = {}
        for round, party, metric, value in zip(rounds, who, metrics, values, strict=True):
            parts.setdefault((round, party), {})[metric] = value
        for (round, party), measures in parts.items():
            history.record(round, party, **measures)
        said = (arrays[f"remark {name}"].tolist() for name in ("rounds", "who", "texts"))
        for round, party, text in zip(*said, strict=True):
            history.remark(round, party, text)
        timed = (arrays[name].tolist() for name in ("timed rounds", "wall seconds"))
        for round, seconds in zip(*timed, strict=True):
            history.time(round, seconds)
        return history


def _coded(names: Iterable[str]) -> tuple[NDArray[np.str_], NDArray[np.int32]]:
    """Return the different names, and which of them stands at each place."""
    known: dict[str, int] = {}
    codes = np.array([known.setdefault(name, len(known)) for name in names], np.int32)
    return np.array(list(known), np.str_), codes


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
        ``rounds``; ``bytes`` in all, ``bytes_up`` and ``bytes_down``; ``seconds``, simulated on the
        devices' hardware.

    Examples
    --------
    >>> history = History()
    >>> for round, accuracy in enumerate([0.2, 0.7, 0.6, 0.9], start=1):
    ...     history.record(round, "server", accuracy=accuracy, bytes_up=5, bytes_down=8, seconds=1)
    >>> effort_to(history, "accuracy", 0.65)
    {'rounds': 2.0, 'bytes': 26.0, 'bytes_up': 10.0, 'bytes_down': 16.0, 'seconds': 2.0}
    """
    values, costs = history.series(metric), ["bytes_up", "bytes_down", "seconds"]
    if not (values >= target).any():
        return dict.fromkeys(["rounds", "bytes", *costs], np.nan)
    told = history.wide().loc[: (values >= target).idxmax(), costs]
    spent = {name: float(told[name].sum()) for name in costs}
    both = spent["bytes_up"] + spent["bytes_down"]
    return {"rounds": float(len(told)), "bytes": both, **spent}
