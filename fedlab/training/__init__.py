"""Local training: what devices do with a model between two messages."""

from fedlab.core.threads import cores, one_blas_thread
from fedlab.training.cohort import Engine, Trained, engine_of, train_cohort
from fedlab.training.compiled.engine import prepare
from fedlab.training.local import LocalSGD, Update, train_device
from fedlab.training.validation import measure, validate
from fedlab.training.work import Work
from fedlab.updates.returned import Returned

__all__ = [
    "Engine",
    "LocalSGD",
    "Returned",
    "Trained",
    "Update",
    "Work",
    "cores",
    "engine_of",
    "measure",
    "one_blas_thread",
    "prepare",
    "train_cohort",
    "train_device",
    "validate",
]
