"""Erasing in one step, and the control: what other ways of removing rows leave behind."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.typing import U64
from fedlab.erasure.audit import Audit, audit_erasure
from fedlab.erasure.fingerprints import Fingerprints
from fedlab.files.keys import Key, Sealer
from fedlab.index.certificate import Certificate, OldMemory
from fedlab.index.ingest import as_keys

if TYPE_CHECKING:
    from fedlab.index.vectorindex import VectorIndex


def erase_and_audit(
    index: VectorIndex,
    keys: ArrayLike,
    path: str | os.PathLike[str],
    *,
    key: Sealer | None = None,
    folders: Iterable[str | os.PathLike[str]] = (),
) -> Certificate:
    """Erase rows, save the index over its file, and look for what is left.

    Parameters
    ----------
    index : VectorIndex
    keys : (n,) whole numbers
    path : path-like
        The index's file; it is searched, with what stands beside it.
    key : Key or Passphrase, optional
        What seals the file. A `Key` also signs the certificate.
    folders : paths
        Searched, too: where backups lie.

    Returns
    -------
    Certificate
        With the audit's result.

    Raises
    ------
    KeyError
        If a key is not in the index; nothing is erased then.

    Examples
    --------
    >>> import tempfile
    >>> from fedlab.index.vectorindex import VectorIndex
    >>> index, path = VectorIndex(8), Path(tempfile.mkdtemp()) / "ward.index"
    >>> _ = index.add(np.random.default_rng(0).normal(size=(10, 8)))
    >>> index.save(path)
    >>> certificate = erase_and_audit(index, [3, 4], path)
    >>> certificate.audit["verdict"], len(index)
    ('clean', 8)
    """
    signing = key if isinstance(key, Key) else None
    fingerprints = Fingerprints.taken(index, keys)
    certificate = index.erase(keys, signing)
    index.save(path, key)
    audit = audit_erasure(index, fingerprints, files=[path], key=key, folders=folders)
    return certificate.with_audit(audit, signing)


def erase_across(
    devices: Iterable[Any],
    keys: ArrayLike,
    key: Key | None = None,
    *,
    device: int | str | None = None,
) -> dict[int | str, Certificate]:
    """Erase rows from the device that has them, and from memory that other devices share with it.

    Devices that `spread` and `devices_from_table` make are views of one store: a row that one of
    them erases stays in the memory of all, until each has moved its own rows elsewhere. Those that
    share memory with the row do so here; others stay as they are. The frame or data set that
    devices were made of is yours to drop, and files change when indexes are saved.

    Parameters
    ----------
    devices : iterable of Device
        All that there are, as ``federation.devices``.
    keys : (n,) whole numbers
    key : Key, optional
        Signs the certificates (see `VectorIndex.erase`).
    device : int or str, optional
        Whose rows are meant; needed where several devices have a row of such a key.

    Returns
    -------
    dict of device id to Certificate
        Of the devices that had the rows. `still_held` is empty unless somebody else holds memory.

    Raises
    ------
    KeyError
        If no device has a key; nothing is erased then.
    ValueError
        If several have it, and none is named.

    Examples
    --------
    >>> from fedlab import spread
    >>> from fedlab.data import iid, load_digits
    >>> digits = load_digits()
    >>> devices = spread(digits, iid(len(digits), devices=3, seed=0))
    >>> fingerprints = Fingerprints.taken(devices[0].index, devices[0].index.keys[:1])
    >>> certificates = erase_across(devices, fingerprints.keys)
    >>> certificates[0].still_held, audit_erasure(devices, fingerprints).verdict
    ((), 'clean')
    """
    everyone, wanted = list(devices), np.unique(as_keys(keys))
    having: dict[int, tuple[Any, U64]] = {}  # by index: `hold_out` makes several devices over one
    for one in everyone:
        mine = wanted[one.index.rows_of(wanted) >= 0]
        if len(mine) and device in (None, one.id):
            having.setdefault(id(one.index), (one, mine))
    found = Counter(key for _, mine in having.values() for key in mine.tolist())
    if missing := sorted(set(wanted.tolist()) - found.keys()):
        raise KeyError(f"keys {missing[:5]} are on none of these devices")
    if max(found.values(), default=0) > 1:
        names = [one.id for one, _ in having.values()]
        raise ValueError(f"devices {names[:5]} have rows of the same key; name one by device=")
    owners = [one for one, _ in having.values()]
    watched = [OldMemory(one.index) for one in owners]
    for other in everyone:
        if all(other is not one for one in owners) and any(m.held_by(other) for m in watched):
            other.let_go()
    done = {one.id: one.erase(mine, key) for one, mine in having.values()}
    for name, memory in zip(done, watched, strict=True):  # all have let go only now
        told = replace(done[name], still_held=memory.still_held(), tag=None)
        done[name] = told if key is None else told.signed(key)
    return done


def compare_ways(
    index: VectorIndex, keys: ArrayLike, folder: str | os.PathLike[str]
) -> dict[str, Audit]:
    """Remove rows in three ways, from copies of an index, and audit each: the audit's control.

    Parameters
    ----------
    index : VectorIndex
        It stays as it is.
    keys : (n,) whole numbers
    folder : path-like
        An empty one, for three files.

    Returns
    -------
    dict of str to Audit
        "usearch remove": rows in a bare USearch index, removed there, and saved; "remove": removed
        from an index whose graph stands, and saved; "erase".
    """
    place = Path(folder)
    fingerprints = Fingerprints.taken(index, keys)
    audits = {}
    erased = copy.deepcopy(index)
    erased.build_graph()
    erased.erase(keys)
    _removed_by_usearch(index, keys, place / "usearch")
    audits["usearch remove"] = audit_erasure(erased, fingerprints, files=[place / "usearch"])
    removed = copy.deepcopy(index)
    removed.build_graph()
    removed.remove(keys)
    for name, one in (("remove", removed), ("erase", erased)):
        one.save(place / name)
        audits[name] = audit_erasure(one, fingerprints, files=[place / name])
    return audits


def _removed_by_usearch(index: VectorIndex, keys: ArrayLike, path: Path) -> None:
    usearch: Any = import_module("usearch.index")
    bare = usearch.Index(ndim=index.dimensions, metric="l2sq", dtype="f32")
    bare.add(index.keys, np.ascontiguousarray(index.vectors), threads=1)
    for one in np.atleast_1d(np.asarray(keys, np.uint64)).tolist():
        bare.remove(one)
    bare.save(str(path))
