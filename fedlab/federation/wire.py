"""Which numbers of a block travel: not what stays on devices, and buffers by themselves.

Algorithms see blocks as wide as the model. On the wire, and so for stages and aggregators, a block
is as narrow as what is sent of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fedlab.core.typing import F64, Array, Bool
from fedlab.models.base import Layout
from fedlab.training.work import Phase
from fedlab.updates import Updates

#: The block in which a model's buffers travel, and the one that they are cut from.
BUFFERS, CHANGE = "buffers", "change"


@dataclass(frozen=True)
class Wire:
    """What a round sends of blocks that are as wide as a model.

    Attributes
    ----------
    layout : Layout
        The model's parameters.
    buffers : (p,) mask, optional
        They are in no block but one of their own.
    stays : mapping of str to (p,) mask
        By block, what never leaves a device.
    """

    layout: Layout
    buffers: Bool | None = None
    stays: Mapping[str, Bool] = field(default_factory=dict)

    @classmethod
    def of(cls, layout: Layout, phases: Iterable[Phase]) -> Wire:
        """Return what some phases let travel."""
        stays = {p.send: p.stays for p in phases if p.send is not None and p.stays is not None}
        return cls(layout, layout.buffered, stays)

    def cut(self, blocks: Mapping[str, Array]) -> tuple[Mapping[str, Array], Array | None]:
        """Return blocks in whose change no buffer moves, and how the buffers did, (m, b).

        An algorithm scales changes, and keeps their sums: buffers are no matter of it.
        """
        if self.buffers is None or CHANGE not in blocks:
            return blocks, None
        change = blocks[CHANGE].copy()
        moved = np.ascontiguousarray(change[:, self.buffers & ~self._stays(CHANGE)])
        change[:, self.buffers] = 0
        return {**blocks, CHANGE: change}, moved

    def narrowed(self, sent: Updates, buffers: Array | None) -> Updates:
        """Return updates as they travel, with the buffers that `cut` took out."""
        blocks, layouts = dict(sent.blocks), {}
        for name, block in sent.blocks.items():
            if block.shape[1] != self.layout.size:
                continue
            travels, layouts[name] = self.travels(name), self.layout
            if travels is not None:
                first, end = travels.argmax(), len(travels) - travels[::-1].argmax()
                piece = slice(first, end)
                blocks[name] = (
                    np.ascontiguousarray(block[:, piece])  # one stretch is copied at once
                    if travels[piece].all()
                    else block.compress(travels, axis=1)
                )
                layouts[name] = self.layout.part(travels)
        if buffers is not None:
            blocks[BUFFERS] = buffers
        return replace(sent, blocks=blocks, layouts=layouts)

    def widened(self, means: dict[str, F64]) -> dict[str, F64]:
        """Return aggregates as wide as the model, with zeros where nothing travelled."""
        wide = {name: mean for name, mean in means.items() if name != BUFFERS}
        for name, mean in wide.items():
            travels = self.travels(name)
            if travels is not None and mean.shape == (np.count_nonzero(travels),):
                wide[name] = np.zeros(self.layout.size)
                wide[name][travels] = mean
        return wide

    def moved(self, stepped: F64, start: F64, means: Mapping[str, F64]) -> F64:
        """Return what the server stepped to, with buffers at the mean of the devices' ones."""
        if self.buffers is None:
            return stepped
        averaged = np.where(self.buffers, start, stepped)
        if BUFFERS in means:
            averaged[self.buffers & ~self._stays(CHANGE)] += means[BUFFERS]
        return averaged

    def travels(self, name: str) -> Bool | None:
        """Return which numbers of a block leave a device, (p,); None if all do."""
        if self.buffers is None and name not in self.stays:
            return None
        buffers = False if self.buffers is None else self.buffers
        return ~(self._stays(name) | buffers)

    def _stays(self, name: str) -> Bool:
        return self.stays.get(name, np.zeros(self.layout.size, np.bool_))
