"""Local training: what a device does with a model between two messages."""

from fedlab.training.local import LocalSGD, Update, train_device
from fedlab.training.threads import one_blas_thread
from fedlab.training.validation import validate
from fedlab.training.work import Returned, Work

__all__ = [
    "LocalSGD",
    "Returned",
    "Update",
    "Work",
    "one_blas_thread",
    "train_device",
    "validate",
]
