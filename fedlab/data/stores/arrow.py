"""Parquet, Arrow's files (Feather 2) with vectors as lists or fixed-size lists; and HDF5.

HDF5 of ann-benchmarks (Aumüller, Bernhardsson and Faithfull, "ANN-Benchmarks", Information Systems
2020) holds ``train``, ``test``, and of each row of ``test`` the true ``neighbors`` and their
``distances``; its attribute ``distance`` names the measure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fedlab.core.extras import imported
from fedlab.data.stores.source import Steps, Store

# Else gigabytes are read ahead.
_AHEAD = {"batch_readahead": 0, "fragment_readahead": 0, "use_threads": False}
_METRICS = {"angular": "cosine", "euclidean": "l2sq"}
# A bad file may keep HDF5's library busy for ever with attributes or structure, or end the process.
# What lies in other files is none of this one's.
_LOOK = """
import h5py, json, sys
found, file = {}, h5py.File(sys.argv[1], "r")
file.visititems(lambda name, one: found.update({name: one}))
found = {n: d for n, d in found.items() if isinstance(d, h5py.Dataset) and d.dtype.kind in "biuf"}
found = [n for n, d in found.items() if d.ndim in (1, 2) and not d.external and not d.is_virtual]
print(json.dumps([found, str(file.attrs.get("distance"))]))
"""


class _Arrow(Store):
    """Columns of a dataset of Arrow's."""

    def read(self, names: Sequence[str], size: int, after: int | None, since: Any) -> Steps:
        """See `Store.read`."""
        end, after, data = 0, after or 0, self.columns[names[0]].data
        for batch in data.to_batches(columns=[*names], batch_size=size, **_AHEAD):
            start, end = end, end + len(batch)
            if end > after:
                part = batch.slice(max(0, after - start))
                part.validate(full=True)  # else offsets could lead out of the memory
                shapes = {name: self.columns[name].shape for name in names}
                yield end, {n: _plain(part.column(n), shapes[n], end - len(part)) for n in names}


def read_arrow(path: Path, name: str) -> Store:
    """Find the columns of a Parquet or an Arrow file; lists are as long as the first row's."""
    datasets = imported("pyarrow.dataset", "workbench", "reading Arrow and Parquet")
    sparing = datasets.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)
    kind = datasets.ParquetFileFormat(default_fragment_scan_options=sparing)
    kind = kind if np.fromfile(path, "u1", 4).tobytes() == b"PAR1" else "ipc"
    data = datasets.dataset(str(path), format=kind)
    rows, columns = data.count_rows(), {}
    for one, column in zip(data.schema.names, data.head(1, **_AHEAD).itercolumns(), strict=True):
        column.validate(full=True)
        stored = getattr(column.combine_chunks(), "storage", column.combine_chunks())
        width = (len(stored.flatten()),) if hasattr(stored, "value_lengths") else ()
        columns[one] = SimpleNamespace(dtype=stored.type, shape=(rows, *width), data=data)
    return _Arrow(name, columns)


def _plain(column: Any, shape: tuple[int, ...], place: int) -> Any:
    column = getattr(column, "storage", column)  # of a type such as tensors of a fixed shape
    if len(shape) == 1:
        return column.to_pandas().array
    lengths, numbers, width = column.value_lengths().fill_null(-1), column.flatten(), shape[1]
    if (odd := (lengths := np.asarray(lengths)) != width).any():
        found = f"{lengths[odd][0]} numbers" if lengths[odd][0] >= 0 else "a null"
        raise ValueError(f"row {place + odd.argmax()} has {found}, the first row {width} numbers")
    if numbers.null_count:
        row = place + np.asarray(numbers.is_null()).argmax() // width
        raise ValueError(f"row {row} holds a null; fill in or leave out what is missing")
    return numbers.to_numpy(zero_copy_only=False).reshape(-1, width)


def read_hdf5(path: Path, name: str) -> Store:
    """Find the datasets of numbers of an HDF5 file, in groups by their path."""
    h5py = imported("h5py", "stores", "reading HDF5")
    try:
        command = [sys.executable, "-P", "-c", _LOOK, str(path)]
        done = subprocess.run(command, capture_output=True, timeout=60)
        found, distance = json.loads(done.stdout)
    except (ValueError, subprocess.TimeoutExpired):
        raise ValueError("HDF5's library can't make it out: it is torn or altered") from None
    file = h5py.File(path, "r")
    return Store(name, {one: file[one] for one in found}, _METRICS.get(distance))
