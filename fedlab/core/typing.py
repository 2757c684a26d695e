"""The arrays of the house by their numbers: one name for each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Floating-point numbers, float32 unless a caller asked for float64.
Array = NDArray[Any]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Bool = NDArray[np.bool_]
#: Where in a sequence: of devices, of rows.
Places = NDArray[np.intp]
