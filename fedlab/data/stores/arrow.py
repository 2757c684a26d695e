"""Parquet, Arrow's files (Feather 2) with vectors as lists or fixed-size lists; and HDF5.

HDF5 of ann-benchmarks (Aumüller, Bernhardsson and Faithfull, "ANN-Benchmarks", Information Systems
2020) holds ``train``, ``test``, and of each row of ``test`` the true ``neighbors`` and their
``distances``; its attribute ``distance`` names the measure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fedlab.core.extras import imported
from fedlab.data.stores.source import Store

_METRICS = {"angular": "cosine", "euclidean": "l2sq"}
# A bad file may keep HDF5's library busy for ever with attributes or structure, or end the process.
# What lies in other files is none of this one's.
_LOOK = """
import h5py, json, sys
found = []
def look(name, one):
    if isinstance(one, h5py.Dataset) and one.ndim in (1, 2) and one.dtype.kind in "biuf":
        found.extend([] if one.external or one.is_virtual else [name])
with h5py.File(sys.argv[1], "r") as file:
    file.visititems(look)
    print(json.dumps([found, str(file.attrs.get("distance"))]))
"""


class _Arrow(Store):
    """Columns of a dataset of Arrow's."""

    def read(
        self, names: Sequence[str], size: int, after: int | None, since: Any
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """See `Store.read`."""
        end, after = 0, after or 0
        ahead = {"batch_readahead": 1, "fragment_readahead": 1}
        for batch in self.columns[names[0]].data.to_batches(
            columns=[*names], batch_size=size, **ahead
        ):
            start, end = end, end + len(batch)
            if end > after:
                part = batch.slice(max(0, after - start))
                part.validate(full=True)  # else offsets could lead out of the memory
                place = end - len(part)
                widths = {name: self.columns[name].shape[1:] for name in names}
                yield end, {n: _plain(part.column(n), widths[n], place) for n in names}


def read_arrow(path: Path, name: str) -> Store:
    """Find the columns of a Parquet or an Arrow file; lists are as long as the first row's."""
    datasets = imported("pyarrow.dataset", "workbench", "reading Arrow and Parquet")
    kind = "parquet" if path.open("rb").read(4) == b"PAR1" else "ipc"
    data = datasets.dataset(str(path), format=kind)
    rows, columns = data.count_rows(), {}
    for one, column in zip(data.schema.names, data.head(1).itercolumns(), strict=True):
        column.validate(full=True)
        stored = _stored(column.combine_chunks())
        width = (len(stored.flatten()),) if hasattr(stored, "value_lengths") else ()
        columns[one] = SimpleNamespace(dtype=stored.type, shape=(rows, *width), data=data)
    return _Arrow(name, columns)


def _stored(column: Any) -> Any:
    """Return what is under a type of somebody's own, such as tensors of a fixed shape."""
    return getattr(column, "storage", column)


def _plain(column: Any, width: tuple[int, ...], place: int) -> Any:
    column = _stored(column)
    if not width:
        return column.to_pandas().array
    lengths, numbers = np.asarray(column.value_lengths().fill_null(-1)), column.flatten()
    if (odd := lengths != width).any():
        found = f"{lengths[odd][0]} numbers" if lengths[odd][0] >= 0 else "a null"
        raise ValueError(
            f"row {place + odd.argmax()} has {found}, the first row {width[0]} numbers"
        )
    if numbers.null_count:
        row = place + np.asarray(numbers.is_null()).argmax() // width[0]
        raise ValueError(f"row {row} holds a null; fill in or leave out what is missing")
    return numbers.to_numpy(zero_copy_only=False).reshape(-1, *width)


def read_hdf5(path: Path, name: str) -> Store:
    """Find the datasets of numbers of an HDF5 file, in groups by their path."""
    h5py = imported("h5py", "stores", "reading HDF5")
    command = [sys.executable, "-P", "-c", _LOOK, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        found, distance = json.loads(done.stdout)
    except (ValueError, subprocess.TimeoutExpired):
        raise ValueError("HDF5's library can't make it out: it is torn or altered") from None
    file = h5py.File(path, "r")
    return Store(name, {one: file[one] for one in found}, _METRICS.get(distance))
