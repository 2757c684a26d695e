"""What a device sends, on its way into the server's step: staged, weighed, aggregated, stepped."""

from fedlab.updates.aggregators import Aggregator, Mean
from fedlab.updates.chain import Chain, ChainError
from fedlab.updates.mean import weighted_average
from fedlab.updates.optimisers import SGD, Adagrad, Adam, ServerOptimiser, Yogi, optimiser
from fedlab.updates.secure import FixedPoint, SecureSum
from fedlab.updates.sent import Updates
from fedlab.updates.stages import Cast, ClipNorm, Stage

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "Aggregator",
    "Cast",
    "Chain",
    "ChainError",
    "ClipNorm",
    "FixedPoint",
    "Mean",
    "SecureSum",
    "ServerOptimiser",
    "Stage",
    "Updates",
    "Yogi",
    "optimiser",
    "weighted_average",
]
