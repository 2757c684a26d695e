"""Erasing in one step, and the control: what other ways of removing rows leave behind."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fedlab.erasure.audit import Audit, audit_erasure
from fedlab.erasure.fingerprints import Fingerprints
from fedlab.files.keys import Key, Sealer
from fedlab.index.certificate import Certificate

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
