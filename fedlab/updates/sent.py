"""What a cohort sends: named blocks, one row a device, with places, weights and bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import F64, I64, Array, Places
from fedlab.models.base import Layout

#: Bytes of an update's three numbers: rows, steps, loss.
NUMBERS = 3 * 8


@dataclass(frozen=True, eq=False)
class Updates:
    """What m devices send, row by row in the cohort's order.

    Attributes
    ----------
    places : (m,) int array
        Which devices of the federation.
    blocks : mapping of str to (m, n) arrays
        By name: ``change``, the parameters after local work minus those at its start, and what else
        the algorithm sends.
    weights : (m,) float64 array
        How much each device counts.
    stats : mapping of str to (m,) arrays
        Numbers that each device tells: ``rows``, ``epochs``, ``steps``, ``loss``, ``rate``.
    weighed : mapping of str to (m,) float64 arrays
        Weights of single blocks or stats, where they are not `weights`: those times a number of the
        device's own, so that it needs no other's.
    sizes : mapping of str to (m,) int arrays
        Bytes of single blocks as they travel, where a stage has coded them.
    layouts : mapping of str to Layout
        Names and shapes within the blocks that are of a model.
    coded : mapping of str to callables
        Of blocks that are messages still: what decodes their sum, one for each codec, in order.
    """

    places: Places
    blocks: Mapping[str, Array]
    weights: F64
    stats: Mapping[str, NDArray[Any]]
    weighed: Mapping[str, F64] = field(default_factory=dict)
    sizes: Mapping[str, I64] = field(default_factory=dict)
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    coded: Mapping[str, tuple[Callable[[Array], Array], ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Compiled sums go through these without looking at their shapes.
        count = len(self.places)
        for name, block in self.blocks.items():
            if np.ndim(block) != 2 or len(block) != count or block.dtype.kind != "f":
                raise ValueError(
                    f"block {name!r} is {block.dtype} of shape {np.shape(block)}; floating-point "
                    f"rows of {count} devices are needed, ({count}, n)"
                )
        columns = {"weights": self.weights, **self.stats, **self.weighed, **self.sizes}
        for name, column in columns.items():
            if np.shape(column) != (count,):
                raise ValueError(
                    f"{name!r} has shape {np.shape(column)}; one number of each of {count} "
                    "devices is needed"
                )

    def __len__(self) -> int:
        return len(self.places)

    def weights_of(self, name: str) -> F64:
        """Return the weights of a block or stat, (m,)."""
        return self.weighed.get(name, self.weights)

    def nbytes_of(self, name: str) -> I64:
        """Return the bytes of a block as it leaves each device, (m,)."""
        block = self.blocks[name]
        plain = np.full(len(self), block.shape[1] * block.itemsize, np.int64)
        return self.sizes.get(name, plain)

    @property
    def nbytes(self) -> I64:
        """(m,) bytes that leave each device: its blocks, and three numbers of eight bytes."""
        total = np.full(len(self), NUMBERS, np.int64)
        for name in self.blocks:
            total += self.nbytes_of(name)
        return total

    def with_blocks(self, **blocks: Array) -> Updates:
        """Return the updates with some blocks put in place of those of the same names."""
        sizes = {name: size for name, size in self.sizes.items() if name not in blocks}
        return replace(self, blocks={**self.blocks, **blocks}, sizes=sizes)
