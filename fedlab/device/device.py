"""A device: one vector index, a hardware profile, and what it can be asked.

Rows stay here. Who trains or evaluates goes through `training` and `validation`, which read the
index's rows as they are stored: what compression lost is lost for the model too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.core.randomness import Purpose, generator
from fedlab.core.settings import described
from fedlab.core.typing import F32, U64, Bool, Places
from fedlab.core.validation import below_one, read_only
from fedlab.device.profile import Profile
from fedlab.device.rows import Rows
from fedlab.files.keys import Key
from fedlab.index.answers import Hits
from fedlab.index.certificate import Holder, content_hash
from fedlab.index.ingest import as_keys
from fedlab.index.vectorindex import VectorIndex
from fedlab.metrics.folds import as_groups, held_out_groups

if TYPE_CHECKING:
    from fedlab.index.certificate import Certificate


class Device(Holder):
    """One vector index with labels, learning and searching on its own rows.

    Parameters
    ----------
    id : int or str
        Its name; draws that concern the device are addressed by it.
    index : VectorIndex
        Its rows; to take part in training they need labels, whole numbers for classes.
    profile : Profile
        Its hardware.

    Examples
    --------
    >>> index = VectorIndex(2)
    >>> _ = index.add(np.eye(2), labels=[0, 1])
    >>> device = Device("ward 3", index)
    >>> device.rows, device.class_counts()
    (2, {0: 1, 1: 1})
    """

    # What a rule chose that is asked once, with what it depends on: `fedlab.training.choice`.
    _view: tuple[Any, Any, Device] | None = None

    def __init__(self, id: int | str, index: VectorIndex, profile: Profile | None = None) -> None:
        if isinstance(id, bool) or not isinstance(id, int | np.integer | str):
            raise TypeError(f"a device is named {id!r}; names are whole numbers or text")
        self.id = id if isinstance(id, str) else int(id)
        self.index = index
        self.profile = profile or Profile()
        self._held_out: U64 = np.empty(0, np.uint64)
        # What was derived from the index, with the number of edits that it had then.
        self._places: tuple[int, Places, Places] | None = None
        self._known: tuple[int, dict[int, Rows]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_view": None}  # a rule of one's own may not be picklable

    def __repr__(self) -> str:
        held_out = f", {len(self._held_out)} of them held out" if len(self._held_out) else ""
        return f"Device({self.id!r}: {len(self.index):,} rows of {self.index.dimensions}{held_out})"

    # -- rows to learn from, rows to check on ------------------------------------------------

    def hold_out(self, share: float, seed: int, groups: ArrayLike | str | None = None) -> Device:
        """Return this device with a share of its rows set aside for validation.

        See `held_out_rows` for which ones. The index is shared, not copied.

        Parameters
        ----------
        share : float
            0 <= share < 1.
        seed : int
            The experiment's.
        groups : (n,) array, or str, optional
            The group of each row, in the index's order, or the column of its metadata that tells:
            one patient's rows never stand on both sides.

        Raises
        ------
        ValueError
            If the share is none; or there is no such column, or not one group a row.

        Examples
        --------
        >>> index = VectorIndex(2)
        >>> patients = np.repeat(["ann", "bo", "cy", "di"], 2)
        >>> _ = index.add(np.ones((8, 2)), labels=[0, 1] * 4, metadata={"patient": patients})
        >>> held = Device("ward 3", index).hold_out(0.25, seed=0, groups="patient")
        >>> len(set(index.metadata_of(held.validation_keys).patient)), held.validation_rows
        (1, 2)
        """
        if groups is not None:
            groups = self.groups(groups)
        chosen = held_out_rows(self.labels, share, seed, self.id, groups)
        return self.holding_out(self.index.keys[chosen])

    def groups(self, groups: ArrayLike | str) -> NDArray[Any]:
        """Return the group of each row, (n,): as given, or a column of the metadata by name."""
        if isinstance(groups, str):
            metadata = self.index.metadata
            if groups not in metadata:
                raise ValueError(
                    f"device {self.id!r} has no metadata {groups!r} to tell groups by; there are "
                    f"{list(metadata)}: add rows with metadata=, or give the group of each row"
                )
            groups = metadata[groups].to_numpy()
        return as_groups(groups, len(self.index))

    def holding_out(self, keys: ArrayLike) -> Device:
        """Return this device with the rows of `keys` set aside for validation.

        Raises
        ------
        KeyError
            If a key is not in the index.
        """
        self.index.labels_of(keys)
        device = Device(self.id, self.index, self.profile)
        device._held_out = np.unique(as_keys(keys))
        return device

    @property
    def labels(self) -> NDArray[Any]:
        """(n,) labels of all its rows, in the index's order, read-only.

        Raises
        ------
        ValueError
            If its rows have none.
        """
        return self._labels_of(self.index)

    def _labels_of(self, index: VectorIndex) -> NDArray[Any]:
        labels = index.labels
        if labels is None and not len(index):
            return np.empty(0, np.int64)
        if labels is None:
            raise ValueError(
                f"device {self.id!r} has rows without labels; add them to its index with labels="
            )
        return labels

    @property
    def rows(self) -> int:
        """Rows to train on."""
        return len(self.index) - self.validation_rows

    @property
    def validation_rows(self) -> int:
        """Rows held out."""
        return len(self._split()[1]) if len(self._held_out) else 0

    @property
    def training_keys(self) -> U64:
        """(r,) keys of the rows to train on, in the order of `training`, read-only."""
        keys = self.index.keys
        return read_only(keys[self._split()[0]]) if len(self._held_out) else keys

    @property
    def validation_keys(self) -> U64:
        """(v,) keys of the rows held out, in the order of `validation`, read-only."""
        return read_only(self.index.keys[self._split()[1]])

    def training(self) -> tuple[F32, NDArray[Any]]:
        """Return the rows to train on, (n, d) float32 as stored, and their labels, (n,)."""
        return self.training_rows().gathered()

    def validation(self) -> tuple[F32, NDArray[Any]]:
        """Return the rows held out, (n, d) float32 as stored, and their labels, (n,)."""
        return self.held_out_rows().gathered()

    def training_rows(self) -> Rows:
        """Return the rows to train on without copying them (see `Rows`)."""
        return self._rows_of(0)

    def held_out_rows(self) -> Rows:
        """Return the rows held out without copying them, in the order of their keys."""
        return self._rows_of(1)

    def _rows_of(self, part: int) -> Rows:
        edits = self.index.edits
        if self._known is None or self._known[0] != edits:
            self._known = edits, {}
        known = self._known[1]
        if part not in known:
            # One state of the index, whatever others write to it meanwhile; a mapped one has one.
            now = self.index if self.index.mapped else self.index.view()
            chosen = self._split_of(now)[part] if part or len(self._held_out) else None
            rows = Rows(now.vectors, self._labels_of(now), chosen)
            if self.index.dtype != "f32" or self.index.mapped:
                return rows  # decoded or read for this once: to keep it would undo the compression
            known[part] = rows
        return known[part]

    def _split(self) -> tuple[Places, Places]:
        """Return which rows train, and which are held out in the order of their keys."""
        edits = self.index.edits
        if self._places is None or self._places[0] != edits:
            self._places = edits, *self._split_of(self.index)
        return self._places[1:]

    def _split_of(self, index: VectorIndex) -> tuple[Places, Places]:
        aside = index.rows_of(self._held_out)
        aside = aside[aside >= 0]  # what was removed since is held out no more
        kept = np.ones(len(index), np.bool_)
        kept[aside] = False
        return np.flatnonzero(kept), aside

    def erase(self, keys: ArrayLike, key: Key | None = None) -> Certificate:
        """Erase rows from the index, and let go of what the device derived from them.

        See `VectorIndex.erase`. What was learned from the rows is another matter: see
        `Federation.rounds_that_used`. Other devices may hold the rows' memory: those over the same
        index, as `hold_out` makes them, until they are asked for rows again; those over views of
        the same store until they let go. `fedlab.erasure.erase_across` erases for all of them.
        """
        self._known = self._places = None
        certificate = self.index.erase(keys, key)
        gone = np.array(certificate.keys, np.uint64)
        self._held_out = self._held_out[~np.isin(self._held_out, gone)]
        return certificate

    def let_go(self) -> None:
        """Move its rows into memory of their own, and so let go of what it shares with others."""
        self._known = self._places = None
        self.index.let_go()

    def buffers(self) -> Iterator[tuple[str, NDArray[np.generic]]]:
        """Yield every array that it keeps alive, by name (see `VectorIndex.buffers`)."""
        if "index" in vars(self):  # a stored device makes its index when it is asked for it
            yield from self.index.buffers()
        for rows in self._known[1].values() if self._known else ():
            yield "the rows that it trained on", rows.x
            yield "the labels that it trained on", rows.y

    # -- what it can tell, and find -----------------------------------------------------------

    @property
    def contents(self) -> str:
        """What stands for its name, its rows, and which are held out: of other ones it differs."""
        return described((self.id, content_hash(self.index), self.validation_keys))

    def class_counts(self) -> dict[Any, int]:
        """Return how many training rows each class has."""
        labels = self.labels  # no vectors: of a mapped index they would be read
        if len(self._held_out):
            labels = labels[self._split()[0]]
        classes, counts = np.unique(labels, return_counts=True)
        return dict(zip(classes.tolist(), counts.tolist(), strict=True))

    def most_similar(
        self, vectors: ArrayLike, k: int, where: ArrayLike | str | None = None
    ) -> Hits:
        """Return the device's own rows that are most similar to given vectors (see `Hits`).

        Only rows that pass `where` are found: a mask, or a condition such as ``"label == 1"`` (see
        `VectorIndex.search`).
        """
        return self.index.search(vectors, k, where=where)


def held_out_rows(
    labels: NDArray[Any],
    share: float,
    seed: int,
    device: int | str,
    groups: ArrayLike | None = None,
) -> Bool:
    """Draw which of a device's rows are set aside for validation, as a mask.

    Rows are drawn within each class (for at most 20 classes; else over all rows), so that the
    shares of the classes stay; each class keeps at least one row to train on. Of groups, whole ones
    are drawn, and shares are met as near as they let them be (see
    `fedlab.metrics.held_out_groups`); none is held out where one would be too much.

    Parameters
    ----------
    labels : (n,) array
    share : float
        0 <= share < 1.
    seed : int
        The experiment's.
    device : int or str
        The device's id: its draw is its own.
    groups : (n,) array, optional
        The group of each row.

    Examples
    --------
    >>> held_out_rows(np.repeat([0, 1], 50), share=0.2, seed=0, device="ward 3").sum()
    np.int64(20)
    """
    below_one(share=share)
    draw = generator(seed, Purpose.VALIDATION, device=device)
    classes, of_row = np.unique(labels, return_inverse=True)
    if labels.dtype.kind == "f" or len(classes) > 20:
        of_row = np.zeros(len(labels), np.intp)
    if groups is not None:
        return held_out_groups(of_row, groups, share, draw)
    chosen = np.zeros(len(labels), np.bool_)
    for place in range(of_row.max(initial=-1) + 1):
        rows = np.flatnonzero(of_row == place)
        count = min(round(share * len(rows)), len(rows) - 1)
        chosen[draw.permutation(rows)[:count]] = True
    return chosen
