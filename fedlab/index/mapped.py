"""An index whose rows stay in its file, which may be larger than memory.

`VectorIndex.open` with ``mapped=True`` reads a file twice, in constant memory: it checks every byte
as always, and measures the rows. In memory stay keys and squared lengths (12 bytes a row), scales
of i8 and b1 (4), labels and metadata. Rows are read when they are asked for, in blocks of 1 MiB,
and every block is checked again, by its digest or by its seal, so that a file that was altered, cut
short, replaced or removed meanwhile raises `IndexFileError`. A search holds some 100 MB of them at
a time, and keeps none; of a sealed file nothing is ever written in the clear. So a search takes as
long as reading and checking the file does: ask many queries at once.

The exact scan, `within`, filters, `get` and `save` answer with the bits of an index in memory, from
any number of threads. `vectors` reads all rows, and so does a device that trains on them, for as
long as it does; `view` reads a part into an index in memory that may be changed. The index itself
may not, and has no graph: the one in the file is left there, and `save` leaves it out.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any, NoReturn

from fedlab.files.keys import Sealer
from fedlab.index import file
from fedlab.index.state import State
from fedlab.index.vectorindex import VectorIndex


class MappedIndex(VectorIndex):
    """An index that reads its rows from a file, and can't be changed; see this module.

    Examples
    --------
    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "ward.index")
    >>> index = VectorIndex(2)
    >>> keys = index.add([[1.0, 0.0], [0.0, 1.0]])
    >>> index.save(path)
    >>> mapped = VectorIndex.open(path, mapped=True)
    >>> mapped.search([0.9, 0.1], k=1).keys
    array([[0]], dtype=uint64)
    >>> mapped.view().add([[1.0, 1.0]])
    array([2], dtype=uint64)
    """

    def _refuse(self) -> NoReturn:
        raise ValueError(
            f"this index is mapped: its rows are read from {self._path}, and it can't be changed, "
            "searched by a graph (exact=False) or copied to another process; open the file without "
            "mapped=True, or take rows into memory by view(start, stop)"
        )

    def _writing(self) -> AbstractContextManager[Any]:
        self._refuse()

    def __reduce__(self) -> NoReturn:
        self._refuse()

    @property
    def _path(self) -> str:
        path: str = self._table.columns["codes"].file.path
        return path

    def save(
        self, path: str | os.PathLike[str], key: Sealer | None = None, *, rebuild: bool = False
    ) -> None:
        """Write a file of its own, as `VectorIndex.save` does; over its own file, read that then.

        Raises
        ------
        ValueError
            If a graph is to be built.
        IndexFileError
            If the file that the rows are read from is not what it was: nothing is written then.
        """
        super().save(path, key, rebuild=rebuild)
        if os.path.realpath(path) == self._path:
            stored = file.read(path, key, self.generation, mapped=True)
            self._state = State(stored.table, next_key=stored.next_key)
