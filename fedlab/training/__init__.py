"""Local training: what devices do with a model between two messages."""

from fedlab.training.cohort import Trained, train_cohort
from fedlab.training.compiled.engine import prepare
from fedlab.training.compiled.trainer import Compiled, CompiledFactors
from fedlab.training.local import LocalSGD, Update, train_device
from fedlab.training.private import PrivateSGD
from fedlab.training.sklearn_trainer import PartialFit
from fedlab.training.torch_trainer import CompiledModule
from fedlab.training.trainer import Backend, Plain, Trainer, trainer_of
from fedlab.training.validation import Near, evidence, validate
from fedlab.training.work import Phase, Work

__all__ = [
    "Backend",
    "Compiled",
    "CompiledFactors",
    "CompiledModule",
    "LocalSGD",
    "Near",
    "PartialFit",
    "Phase",
    "Plain",
    "PrivateSGD",
    "Trained",
    "Trainer",
    "Update",
    "Work",
    "evidence",
    "prepare",
    "train_cohort",
    "train_device",
    "trainer_of",
    "validate",
]
