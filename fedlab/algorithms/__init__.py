"""Algorithms, one file each; `by_name` finds them for notebooks and sweeps."""

from __future__ import annotations

import difflib
from typing import Any

from fedlab.algorithms.base import Algorithm, Stateless
from fedlab.algorithms.fedavg import FedAvg
from fedlab.algorithms.fednova import FedNova
from fedlab.algorithms.fedopt import FedOpt
from fedlab.algorithms.fedprox import FedProx
from fedlab.algorithms.scaffold import Scaffold

__all__ = [
    "Algorithm",
    "FedAvg",
    "FedNova",
    "FedOpt",
    "FedProx",
    "Scaffold",
    "Stateless",
    "by_name",
]

_KNOWN: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "fedavg": (FedAvg, {}),
    "fedavgm": (FedAvg, {"momentum": 0.9}),
    "fedprox": (FedProx, {}),
    "scaffold": (Scaffold, {}),
    "fednova": (FedNova, {}),
    "fedadam": (FedOpt, {"rule": "adam"}),
    "fedyogi": (FedOpt, {"rule": "yogi"}),
    "fedadagrad": (FedOpt, {"rule": "adagrad"}),
}


def by_name(name: str, **settings: Any) -> Algorithm:
    """Return an algorithm by its name in the literature, with hyper-parameters of one's own.

    Raises
    ------
    ValueError
        If no algorithm has that name; the message lists those there are.

    Examples
    --------
    >>> by_name("fedprox", mu=0.1)
    FedProx(mu=0.1)
    """
    if name.lower() not in _KNOWN:
        close = difflib.get_close_matches(name.lower(), _KNOWN, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"no algorithm is called {name!r}{hint}; there are {', '.join(_KNOWN)}")
    kind, defaults = _KNOWN[name.lower()]
    algorithm: Algorithm = kind(**{**defaults, **settings})
    return algorithm
