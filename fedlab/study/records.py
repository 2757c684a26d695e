"""What is known of a run of a study: a small file that is written last, in the run's own folder."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from fedlab.files import atomic
from fedlab.study.trace import Trace

RECORD, TRACE, RESULTS, NOTEBOOK, LOG = (
    "record.json",
    "trace.json",
    "results.parquet",
    "notebook.ipynb",
    "log.txt",
)
DONE, FAILED = "done", "failed"


@dataclass(frozen=True)
class Failure:
    """Why a run didn't end well: the error, and the code cell (from 1) that it happened in."""

    name: str
    message: str
    cell: int | None = None
    label: str = ""

    def __str__(self) -> str:
        where = f" (cell {self.cell})" if self.cell else ""
        return f"{self.name}: {self.message}{where}"


@dataclass(frozen=True, kw_only=True)
class AnyRecord:
    """What is known of any run.

    Attributes
    ----------
    status : str
    parameters : dict
        All of them, as JSON has them.
    started : str
        ISO 8601, UTC.
    seconds : float
        Wall time.
    source : str
        A digest of the notebook's cells, or the function's code.
    command : str
        The line that does the same run by itself.
    error : Failure or None
    recorded : dict
        Numbers and texts of the whole run.
    format : int
    """

    status: str
    parameters: dict[str, Any]
    started: str
    seconds: float
    source: str
    command: str
    error: Failure | None = None
    recorded: dict[str, Any] = field(default_factory=dict)
    format: int = 1

    def write(self, path: Path) -> None:
        """Write it to `path`, whole or not at all."""
        atomic.write_bytes(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read the record at `path`; None if there is none, or none of this kind and format."""
        try:
            content = dict(json.loads(path.read_bytes()))
            for name, kind in (("error", Failure), ("trace", Trace)):
                if content.get(name):
                    content[name] = kind(**content[name])
            record = cls(**content)
        except (OSError, ValueError, TypeError):  # another program's file, or half of one
            return None
        return record if record.format == cls.format else None


@dataclass(frozen=True, kw_only=True)
class RunRecord(AnyRecord):
    """One run of a study: a target with values for all its parameters.

    Attributes
    ----------
    id : str
        A digest of the target's name and the parameters: the same for the same values.
    attempt : int
        How often that was tried, this time included.
    target : str
    status : {"done", "failed"}
    environment : dict
        Python, platform, threads, and the versions of what was imported.
    digests : dict of file name to SHA-256
    """

    id: str
    attempt: int
    target: str
    environment: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.id}-{self.attempt}"

    @property
    def versions(self) -> dict[str, Any]:
        """The environment as one list: what is known of it, then distributions."""
        known = self.environment | self.environment.get("distributions", {})
        return {name: version for name, version in known.items() if name != "distributions"}

    def write(self, path: Path) -> None:
        """Write it into a run's folder."""
        super().write(path / RECORD)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read it from a run's folder."""
        return super().read(path / RECORD)


def run_id(target: str, parameters: Mapping[str, Any]) -> str:
    """Return the digest that a run is known by.

    Examples
    --------
    >>> run_id("04_see_non_iid", {"alpha": 0.1, "seed": 0})
    'a4b44bed4735'
    """
    known = json.dumps([target, parameters], sort_keys=True)
    return sha256(known.encode())[:12]


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def written(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as a record gives them back: tuples as lists."""
    return dict(json.loads(json.dumps(values)))


def began(seconds: float) -> str:
    """Return when a run began that has taken so many seconds, as a record has it."""
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    return start.isoformat("T", "milliseconds")


def read_trace(folder: Path) -> Trace | None:
    """Return what a run depended on; None where that can't be read."""
    try:
        return Trace(**json.loads((folder / TRACE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def attempts(folder: Path) -> Iterator[RunRecord]:
    """Yield the records of all attempts under a study's folder, by run and attempt."""
    found = (folder / "runs").iterdir() if (folder / "runs").is_dir() else ()
    whole = (path for path in found if not path.name.startswith("."))
    records = [record for path in whole if (record := RunRecord.read(path))]
    yield from sorted(records, key=lambda record: (record.id, record.attempt))


def latest(folder: Path) -> dict[str, RunRecord]:
    """Return each run's last attempt that is done, or else its last one that failed."""
    kept = dict[str, RunRecord]()
    for record in attempts(folder):
        if record.status == DONE or kept.get(record.id, record).status != DONE:
            kept[record.id] = record
    return kept
