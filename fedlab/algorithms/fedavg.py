"""Federated averaging."""

from __future__ import annotations

from dataclasses import dataclass

from fedlab.algorithms.base import Stateless


@dataclass(frozen=True)
class FedAvg(Stateless):
    """Devices train plainly; the server learns sum_k p_k (x_k - x).

    Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized
    data", AISTATS 2017, algorithm 1.

    Examples
    --------
    >>> FedAvg()
    FedAvg()
    """
