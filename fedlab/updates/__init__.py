"""What a device sends, on its way into the server's step: staged, weighed, aggregated, stepped."""

from fedlab.updates.aggregators import Aggregator, Mean
from fedlab.updates.chain import Chain, ChainError
from fedlab.updates.codecs import Codec, Context
from fedlab.updates.feedback import EF21, ErrorFeedback
from fedlab.updates.low_rank import LowRank
from fedlab.updates.mean import weighted_average
from fedlab.updates.optimisers import SGD, Adagrad, Adam, ServerOptimiser, Yogi, optimiser
from fedlab.updates.quantise import QSGD, Cast, Sign, TernGrad
from fedlab.updates.rotate import Drive, Eden
from fedlab.updates.sent import Updates
from fedlab.updates.sparse import CountSketch, RandomK, TopK
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
    "Drive",
    "Eden",
    "ErrorFeedback",
    "LowRank",
    "Mean",
    "RandomK",
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
