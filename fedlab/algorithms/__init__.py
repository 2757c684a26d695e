"""Algorithms, one file each; `by_name` finds them for notebooks and sweeps."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from fedlab.algorithms.afl import AFL
from fedlab.algorithms.apfl import APFL
from fedlab.algorithms.base import Algorithm, Stateless
from fedlab.algorithms.ditto import Ditto
from fedlab.algorithms.fedavg import FedAvg
from fedlab.algorithms.feddbe import FedDBE
from fedlab.algorithms.feddyn import FedDyn
from fedlab.algorithms.fedex import FedEx
from fedlab.algorithms.fednova import FedNova
from fedlab.algorithms.fedproto import FedProto
from fedlab.algorithms.fedprox import FedProx
from fedlab.algorithms.ifca import IFCA
from fedlab.algorithms.knn_lm import KNNLM, TextMemory
from fedlab.algorithms.knn_per import KNNPer, Memory
from fedlab.algorithms.lora import FedExLoRA, FFALoRA, FlexLoRA, FLoRA
from fedlab.algorithms.moon import MOON
from fedlab.algorithms.personal import Alone, FineTuned
from fedlab.algorithms.pfedrec import PFedRec
from fedlab.algorithms.qffl import QFFL
from fedlab.algorithms.scaffold import Scaffold
from fedlab.algorithms.shared_parts import FedBN, FedPer, FedRep
from fedlab.core.validation import known
from fedlab.updates.optimisers import SGD, ServerOptimiser, optimiser

__all__ = [
    "AFL",
    "APFL",
    "IFCA",
    "KNNLM",
    "MOON",
    "QFFL",
    "Algorithm",
    "Alone",
    "Ditto",
    "FFALoRA",
    "FLoRA",
    "FedAvg",
    "FedBN",
    "FedDBE",
    "FedDyn",
    "FedEx",
    "FedExLoRA",
    "FedNova",
    "FedPer",
    "FedProto",
    "FedProx",
    "FedRep",
    "FineTuned",
    "FlexLoRA",
    "KNNPer",
    "Memory",
    "PFedRec",
    "Scaffold",
    "Stateless",
    "TextMemory",
    "WithServer",
    "by_name",
]


@dataclass(frozen=True)
class WithServer:
    """An algorithm and a server optimiser under one name, as papers have them.

    ``Federation(algorithm=...)`` takes it; FedAdam is FedAvg with Adam.
    """

    algorithm: Algorithm
    server: ServerOptimiser


_KINDS: tuple[Any, ...] = (
    *(FedAvg, FedProx, Scaffold, FedNova, FedDyn, QFFL, AFL, FineTuned, Alone, Ditto, APFL),
    *(
        FedPer,
        FedRep,
        FedBN,
        PFedRec,
        IFCA,
        FFALoRA,
        FLoRA,
        FedExLoRA,
        FlexLoRA,
        MOON,
        FedProto,
        FedDBE,
    ),
)
_ALGORITHMS: dict[str, Any] = {kind.__name__.lower(): kind() for kind in _KINDS}
#: What papers name in one word: federated averaging, and what the server does.
_WITH_SERVER = {"fedavgm": "momentum"} | {f"fed{s}": s for s in ("adam", "yogi", "adagrad")}


def by_name(name: str, **settings: Any) -> Algorithm | WithServer:
    """Return an algorithm by its name in the literature, with hyper-parameters of one's own.

    Parameters
    ----------
    name : str
        Of an algorithm, or of one with a server optimiser: ``fedavgm``, ``fedadam``, ``fedyogi``,
        ``fedadagrad``.
    **settings
        Fields of the algorithm, or of the server optimiser (``rate``, also called ``server_rate``).

    Raises
    ------
    ValueError
        If no algorithm has that name; the message lists those there are.
    TypeError
        If a setting is none of its.

    Examples
    --------
    >>> by_name("fedprox", mu=0.1)
    FedProx(mu=0.1)
    >>> by_name("fedavgm", momentum=0.5)
    WithServer(algorithm=FedAvg(), server=SGD(rate=1.0, momentum=0.5))
    """
    small = known(name, [*_ALGORITHMS, *_WITH_SERVER], "algorithm")
    of_server = _WITH_SERVER.get(small)
    algorithm: Any = _ALGORITHMS[small] if of_server is None else FedAvg()
    server: Any = SGD() if of_server is None else optimiser(of_server)
    if "server_rate" in settings:
        settings["rate"] = settings.pop("server_rate")
    mine, theirs = ({field.name for field in fields(part)} for part in (algorithm, server))
    if other := sorted(settings.keys() - mine - theirs):
        raise TypeError(
            f"{name} has no setting {', '.join(other)}; it has {', '.join(sorted(mine | theirs))}"
        )
    algorithm = replace(algorithm, **{n: v for n, v in settings.items() if n in mine})
    changed = {n: v for n, v in settings.items() if n not in mine}
    if of_server is None and not changed:
        found: Algorithm = algorithm
        return found
    return WithServer(algorithm, replace(server, **changed))
