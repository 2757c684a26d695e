"""What runs measured: kept by each in its own folder, and read as one frame.

A row is a measurement: run, its parameters, then round, who, metric, value.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedlab.core.extras import imported
from fedlab.files import atomic
from fedlab.study.records import DONE, FAILED, RESULTS, RunRecord, latest, sha256

if TYPE_CHECKING:
    import pandas as pd

    from fedlab.federation.federation import Federation
    from fedlab.federation.history import History

#: The environment variable that says where a run may leave files.
RUN_FOLDER = "FEDLAB_RUN"
#: Who measured what concerns a run as a whole.
WHOLE = "run"
_TIDY = ["round", "who", "metric", "value"]
_OWN = ["run", "status", "error"]
_RECORDED, _PARTS = "recorded.json", "part-*.json"


def keep(given: Federation | History | pd.DataFrame, **about: Any) -> None:
    """Keep measurements of a run, where `load_runs` finds them; outside of a study, do nothing.

    Parameters
    ----------
    given : Federation, History or DataFrame
        A frame has columns ``metric`` and ``value``, and perhaps ``round`` and ``who``; further
        ones tell measurements apart.
    **about
        Further columns with one value each, such as ``algorithm="fedprox"``, where a run makes
        several histories.

    Raises
    ------
    TypeError, ValueError
        If it is none of these, or a column has a name that is taken.

    Examples
    --------
    >>> from fedlab import History
    >>> history = History()
    >>> history.record(1, "server", accuracy=0.5)
    >>> keep(history, algorithm="fedavg")
    """
    frame = _tidy(given, about)
    if (folder := os.environ.get(RUN_FOLDER)) is not None:
        # As JSON: what reads Parquet could also have read a file of the user's, out of sight.
        columns = {str(name): _plain(frame[name]) for name in frame}
        number = len(list(Path(folder).glob(_PARTS)))
        path = Path(folder) / _PARTS.replace("*", f"{number:04d}")
        path.write_text(json.dumps(columns), encoding="utf-8")


def record(**values: Any) -> dict[str, Any]:
    """Keep values of the whole run, by name, and return them as JSON has them.

    Parameters
    ----------
    **values
        Numbers, texts, truth values or None; a later value of a name takes its place.

    Raises
    ------
    TypeError
        For anything else.

    Examples
    --------
    >>> record(accuracy=0.93, loss=float("nan"))
    {'accuracy': 0.93, 'loss': None}
    """
    taken = scalars(values)
    if (folder := os.environ.get(RUN_FOLDER)) is not None:
        path = Path(folder) / _RECORDED
        before = json.loads(path.read_bytes()) if path.is_file() else {}
        path.write_text(json.dumps(before | taken), encoding="utf-8")
    return taken


def scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON has them: numbers that are none (NaN, infinity) become None.

    Raises
    ------
    TypeError
        For a value that is no number, text, truth value or None; NumPy's numbers are numbers.

    Examples
    --------
    >>> scalars({"accuracy": 0.93, "loss": float("nan")})
    {'accuracy': 0.93, 'loss': None}
    """
    found = {}
    for name, value in values.items():
        plain = value.item() if hasattr(value, "item") and not getattr(value, "ndim", 0) else value
        if not isinstance(plain, bool | int | float | str | None):
            raise TypeError(
                f"{name} is a {type(value).__name__}; a record takes numbers, texts, truth values "
                "and None: record a mean, a count, or several values by name"
            )
        found[name] = None if isinstance(plain, float) and not math.isfinite(plain) else plain
    return found


def gathered(folder: Path, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Put all that a run kept into one file, and return the values of the whole run."""
    import pandas as pd

    path = folder / _RECORDED
    if path.is_file():
        recorded = {**recorded, **json.loads(path.read_bytes())}
        path.unlink()
    parts = sorted(folder.glob(_PARTS))
    numbers = {n: float(v) for n, v in recorded.items() if isinstance(v, int | float)}
    if not parts and not numbers:  # so that it is in the frame
        numbers = {DONE: 1.0}
    whole = pd.DataFrame({"metric": list(numbers), "value": list(numbers.values())})
    kept = [pd.DataFrame(json.loads(part.read_bytes())) for part in parts]
    frames = [_tidy(frame, {}) for frame in [*kept, whole.assign(who=WHOLE)]]
    frame = pd.concat([one for one in frames if len(one)] or frames[-1:], ignore_index=True)
    made = io.BytesIO()
    frame.to_parquet(made, index=False, compression="zstd")
    atomic.write_bytes(folder / RESULTS, made.getvalue())
    for part in parts:
        part.unlink()
    return dict(recorded)


def load_runs(folder: str | os.PathLike[str], ids: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the measurements of all runs of a study as one frame.

    Parameters
    ----------
    folder : path-like
        The study's.
    ids : sequence of str, optional
        Only these runs.

    Returns
    -------
    DataFrame
        ``run``, ``status`` ("done" or "failed"), ``error``; a column for each parameter, lists as
        texts; ``round`` (missing for a value of the whole run), ``who`` ("server", a device's id,
        or "run"), ``metric``, ``value``, and whatever else runs kept. Of runs that were tried
        several times, the last that is done; one that never was has one row, whose metric is
        "failed". Wall times are no part of it (see `timings`), so the same runs give the same
        frame.

    Raises
    ------
    NotADirectoryError
        When there is no such folder.

    Examples
    --------
    >>> import tempfile
    >>> list(load_runs(tempfile.mkdtemp()))
    ['run', 'status', 'error', 'round', 'who', 'metric', 'value']
    """
    import pandas as pd

    records = _records(folder, ids)
    pyarrow: Any = imported("pyarrow", "workbench", "to read a study's results")
    parquet: Any = imported("pyarrow.parquet", "workbench", "to read a study's results")
    tables, errors = [], [_said(record) for record in records]
    empty = pyarrow.Table.from_pandas(_whole_row(pd), preserve_index=False)
    for number, one in enumerate(records):
        path = Path(folder) / "runs" / one.folder / RESULTS
        content = path.read_bytes() if one.status == DONE and path.is_file() else b""
        if one.status == DONE and sha256(content) != one.digests.get(RESULTS):
            errors[number] = "its results are not as it left them"
        whole = one.status == DONE and not errors[number]
        # Small files: threads, and what `read_table` does for sets of files, take most of the time.
        opened = parquet.ParquetFile(pyarrow.BufferReader(content)) if whole else None
        tables.append(opened.read(use_threads=False) if opened else empty)
    sizes = [table.num_rows for table in tables]
    if not tables:
        return pd.DataFrame(columns=[*_OWN, *_TIDY])
    measured = pyarrow.concat_tables(tables, promote_options="default").to_pandas()
    which = np.repeat(np.arange(len(records)), sizes)
    names = dict.fromkeys(name for one in records for name in one.parameters)
    columns: dict[str, Any] = {
        "run": [one.id for one in records],
        "status": [FAILED if error else DONE for error in errors],
        "error": errors,
    } | {
        n: [in_table(one.parameters.get(n)) for one in records] for n in names if n not in measured
    }
    about = pd.DataFrame(columns).astype({"run": "category", "status": "category"})
    left = about.take(which).reset_index(drop=True)
    frame: pd.DataFrame = pd.concat([left, measured.astype({"round": "Int64"})], axis=1)
    return frame


def timings(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Return a row a run: run, attempt, started, seconds of wall time, threads."""
    import pandas as pd

    rows = [
        (one.id, one.attempt, one.started, one.seconds, one.environment.get("threads"))
        for one in _records(folder, None)
    ]
    return pd.DataFrame(rows, columns=["run", "attempt", "started", "seconds", "threads"])


def _records(folder: str | os.PathLike[str], ids: Sequence[str] | None) -> list[RunRecord]:
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder} is no folder; give the one that a study was written to")
    found = latest(Path(folder))
    return [found[name] for name in (found if ids is None else ids) if name in found]


def _tidy(given: Any, about: Mapping[str, Any]) -> pd.DataFrame:
    """Return measurements with the columns that all have, in one order, and types that all have."""
    import pandas as pd

    given = getattr(given, "history", given)  # a Federation's
    frame = given.to_frame() if hasattr(given, "to_frame") else given
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(
            f"a {type(given).__name__} was given; give a Federation, a History, or a data frame "
            "with columns metric and value"
        )
    if lacking := {"metric", "value"} - set(frame):
        raise ValueError(f"the frame has no column {', '.join(lacking)}; it has {list(frame)}")
    if taken := {*frame, *about} & {*_OWN}:
        raise ValueError(f"the columns {', '.join(taken)} are a study's own; give other names")
    frame = frame.assign(**about)
    if "round" not in frame:
        frame["round"] = pd.NA
    if "who" not in frame:
        frame["who"] = "server"
    further = [name for name in frame if name not in _TIDY]
    kinds = {"round": "Int64", "who": "string", "metric": "string", "value": "float64"}
    return frame[[*_TIDY, *further]].astype(kinds)


def _plain(column: pd.Series[Any]) -> list[Any]:
    return [
        None if gone else value for value, gone in zip(column.tolist(), column.isna(), strict=True)
    ]


def _whole_row(pandas: Any) -> pd.DataFrame:
    return _tidy(pandas.DataFrame({"metric": ["failed"], "value": [1.0]}), {"who": WHOLE})


def _said(record: RunRecord) -> str | None:
    return str(record.error) if record.error else None


def in_table(value: Any) -> Any:
    """Return a parameter's value as a frame has it: lists as texts."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of those files of a run that are there."""
    return {n: sha256((folder / n).read_bytes()) for n in names if (folder / n).is_file()}
