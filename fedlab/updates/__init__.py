"""What a device sends, on its way into the server's step: staged, weighed, aggregated, stepped."""

from fedlab.updates.aggregators import Aggregator, Mean
from fedlab.updates.chain import Chain, ChainError
from fedlab.updates.codecs import EF21, Codec, Context, ErrorFeedback
from fedlab.updates.mean import weighted_average
from fedlab.updates.optimisers import SGD, Adagrad, Adam, ServerOptimiser, Yogi, optimiser
from fedlab.updates.private import DistributedNoise, LocalNoise, PrivateMean
from fedlab.updates.quantise import QSGD, Cast, Drive, Eden, Sign, TernGrad
from fedlab.updates.secure import FixedPoint, SecureSum
from fedlab.updates.sent import Updates
from fedlab.updates.sparse import CountSketch, LowRank, RandomK, TopK
from fedlab.updates.stages import ClipNorm, Stage

__all__ = [
    "EF21",
    "QSGD",
    "SGD",
    "Adagrad",
    "Adam",
    "Aggregator",
    "Cast",
    "Chain",
    "ChainError",
    "ClipNorm",
    "Codec",
    "Context",
    "CountSketch",
    "DistributedNoise",
    "Drive",
    "Eden",
    "ErrorFeedback",
    "FixedPoint",
    "LocalNoise",
    "LowRank",
    "Mean",
    "PrivateMean",
    "RandomK",
    "SecureSum",
    "ServerOptimiser",
    "Sign",
    "Stage",
    "TernGrad",
    "TopK",
    "Updates",
    "Yogi",
    "optimiser",
    "weighted_average",
]
