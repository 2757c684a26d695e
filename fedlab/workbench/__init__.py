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
    from fedlab.workbench.batch.records import frame

    if not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder} is no folder; give the one that runs were written to")
    return frame(Path(folder))
