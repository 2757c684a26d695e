"""The experiment of notebook 19: server and nodes both have this file."""

from fedlab import MLP, Device, Federation, LocalSGD
from fedlab.algorithms import FedPer
from fedlab.updates import ErrorFeedback, TopK


def federation(devices: list[Device], seed: int = 0) -> Federation:
    """Return devices that share a network's body in a tenth of its numbers, and keep its head."""
    local = LocalSGD(epochs=2, batch_size=16, learning_rate=0.1)
    how = {"algorithm": FedPer(), "updates": [ErrorFeedback(TopK(0.1))]}
    return Federation(devices, MLP(64, (32,), 10), local=local, seed=seed, **how)
