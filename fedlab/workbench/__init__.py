"""The face of fedlab: what notebooks call, batch runs, figures and reports."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_records"]


def read_records(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the records of all runs under a folder into one table.

    Parameters
    ----------
    folder : path-like
        Where runs were written, with the folders in it.

    Returns
    -------
    DataFrame
        A row a run: name, status, started, seconds, error; then its parameters, lists as tuples;
        then what it gave to `fedlab.workbench.notebook.cells.record`. A recorded value that has a
        parameter's name is called ``recorded NAME``. Files that are no records are passed over.

    Raises
    ------
    NotADirectoryError
        When `folder` is none.

    Examples
    --------
    >>> import tempfile
    >>> list(read_records(tempfile.mkdtemp()))
    ['name', 'status', 'started', 'seconds', 'error']
    """
    import pandas as pd

    from fedlab.workbench.batch.records import Record

    if not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder} is no folder; give the one that runs were written to")
    found = [*filter(None, map(Record.read, sorted(Path(folder).rglob("*.json"))))]
    own = ["name", "status", "started", "seconds", "error"]
    taken = {*own, *(name for record in found for name in record.parameters)}
    rows = []
    for record in found:
        error = f"{record.error.name}: {record.error.message}" if record.error else None
        row = {name: getattr(record, name) for name in own} | {"error": error}
        row |= {n: tuple(v) if isinstance(v, list) else v for n, v in record.parameters.items()}
        named = {f"recorded {n}" if n in taken else n: v for n, v in record.recorded.items()}
        rows.append(row | named)
    return pd.DataFrame(rows, columns=None if rows else own)
