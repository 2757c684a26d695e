"""A federation that lives in one columnar store on disk: a million devices, mapped into memory.

A population is a folder: a small JSON file with its parameters and sizes, and plain ``.npy`` files

    codes      (rows, d)     the rows as they are stored (`fedlab.index.encoding`), device by device
    scales     (rows,)       under i8 only
    labels     (rows,)       int64, float64 or text
    offsets    (devices + 1,)  device i has the rows offsets[i] ... offsets[i + 1] - 1
    ids        (devices,)    text or int64; left out where a device's id is its place
    order      (devices,)    places by rising id; left out where devices stand so
    bandwidth, compute, ...  (devices,)  the fields of `Profile`, where not all have the default

Nothing of it is read before somebody asks for it, and a device's index is made when somebody asks
for that; training reads its rows where they lie. Sizes and types are checked against each other
when a population is opened. The rows themselves are not: there is no digest over them.
"""

from fedlab.device.population.reading import Population, PopulationError, StoredDevice
from fedlab.device.population.writing import write_population

__all__ = ["Population", "PopulationError", "StoredDevice", "write_population"]
