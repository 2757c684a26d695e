"""What devices keep from round to round: control variates, personal parameters, what a codec owes.

It costs what the devices that took part keep, and a round costs what its cohort writes: a store is
a value, and the next one shares all that was not written. So whoever holds an earlier store (a
round that is skipped, an interrupt, a checkpoint) finds what it had.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import Array, Places

__all__ = ["DeviceStates"]

#: A node has 2**5 children; numbers of devices are cut into digits of five bits.
_BITS, _CHILDREN = 5, 32
Node = tuple[Any, ...]
_EMPTY: Node = (None,) * _CHILDREN


class DeviceStates:
    """Rows of numbers by name and by a device's place; a value that is never written to.

    Examples
    --------
    >>> before = DeviceStates()
    >>> after = before.put("control", np.array([7]), np.ones((1, 2)))
    >>> after.rows("control", np.array([3, 7]), np.zeros(2))
    array([[0., 0.],
           [1., 1.]])
    >>> before.rows("control", np.array([7]), np.zeros(2))
    array([[0., 0.]])
    """

    __slots__ = ("_trees",)

    def __init__(self) -> None:
        self._trees: Mapping[str, tuple[int, Node]] = {}

    @property
    def names(self) -> list[str]:
        """What is kept by any device."""
        return list(self._trees)

    def rows(self, name: str, places: Places, otherwise: Array) -> Array:
        """Return what the devices at some places keep, (m, n): a copy.

        Parameters
        ----------
        name : str
        places : (m,) int array
        otherwise : (n,) array
            What a device has that has kept nothing so far; its type is the result's.
        """
        made = np.empty((len(places), len(otherwise)), otherwise.dtype)
        levels, root = self._trees.get(name, (1, _EMPTY))
        for row, place in enumerate(places.tolist()):
            kept = _found(root, levels, place)
            made[row] = otherwise if kept is None else kept
        return made

    def put(self, name: str, places: Places, rows: Array) -> DeviceStates:
        """Return a store in which devices keep other rows, (m, n), which are copied."""
        levels, root = self._trees.get(name, (1, _EMPTY))
        largest = int(places.max(initial=0))
        while largest >= _CHILDREN**levels:
            levels, root = levels + 1, (root, *_EMPTY[1:])
        # Each row is memory of its own: one that stays would hold on to all that came with it.
        news = {place: row.copy() for place, row in zip(places.tolist(), rows, strict=True)}
        after = DeviceStates()
        after._trees = {**self._trees, name: (levels, _put(root, levels, news))}
        return after

    def column(self, name: str) -> tuple[Places, Array]:
        """Return the places of all devices that keep something, rising, and what they keep."""
        levels, root = self._trees[name]
        kept = list(_all(root, levels, 0))
        return np.array([place for place, _ in kept], np.intp), np.array([row for _, row in kept])

    # -- files -------------------------------------------------------------------------------

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all of it as arrays, for a file."""
        made: dict[str, NDArray[Any]] = {}
        for name in self.names:
            places, made[f"{name} rows"] = self.column(name)
            made[f"{name} places"] = places.astype(np.int64)
        return made

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> DeviceStates:
        """Return the store whose `arrays` these are."""
        states = cls()
        for whole in arrays:
            if whole.endswith(" rows"):
                name = whole.removesuffix(" rows")
                places = arrays[f"{name} places"].astype(np.intp)
                if len(places) != len(arrays[whole]) or (places < 0).any():
                    raise ValueError(f"{len(arrays[whole])} rows of {name} at {len(places)} places")
                states = states.put(name, places, arrays[whole])
        return states


def _found(node: Any, levels: int, place: int) -> Array | None:
    if place >= _CHILDREN**levels:
        return None
    for level in range(levels - 1, -1, -1):
        if node is None:
            return None
        node = node[place >> _BITS * level & _CHILDREN - 1]
    row: Array | None = node
    return row


def _put(node: Node | None, levels: int, news: Mapping[int, Array]) -> Node:
    """Return a node with new rows in it; children that get none are shared."""
    children = list(node or _EMPTY)
    if levels == 1:
        for place, row in news.items():
            children[place & _CHILDREN - 1] = row
        return tuple(children)
    by_child: dict[int, dict[int, Array]] = {}
    for place, row in news.items():
        child = place >> _BITS * (levels - 1) & _CHILDREN - 1
        by_child.setdefault(child, {})[place] = row
    for child, those in by_child.items():
        children[child] = _put(children[child], levels - 1, those)
    return tuple(children)


def _all(node: Node | None, levels: int, first: int) -> Iterator[tuple[int, Array]]:
    for child, below in enumerate(node or ()):
        place = first + (child << _BITS * (levels - 1))
        if below is not None and levels == 1:
            yield place, below
        elif below is not None:
            yield from _all(below, levels - 1, place)
