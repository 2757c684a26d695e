"""The experiment of notebook 19: server and nodes both have this file."""

from fedlab import MLP, Device, Federation, LocalSGD
from fedlab.algorithms import FedPer
from fedlab.updates import ClipNorm, ErrorFeedback, FixedPoint, SecureSum, TopK


def federation(devices: list[Device], seed: int = 0, masked: bool = False) -> Federation:
    """Return devices that share a network's body in a tenth of its numbers, and keep its head.

    Where they are masked, they send all of its numbers, in a sum that hides each device's.
    """
    local = LocalSGD(epochs=2, batch_size=16, learning_rate=0.1)
    hidden = [ClipNorm(4.0), FixedPoint(limit=4.0), SecureSum()]
    updates = hidden if masked else [ErrorFeedback(TopK(0.1))]
    how = {"algorithm": FedPer(), "updates": updates}
    return Federation(devices, MLP(64, (32,), 10), local=local, seed=seed, **how)
