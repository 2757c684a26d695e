"""Models whose parameters are one flat vector: linear regression, softmax regression, an MLP."""

from fedlab.models.base import Layout, Model, Pull
from fedlab.models.check import check_model
from fedlab.models.linear import LinearRegression, SoftmaxRegression
from fedlab.models.mlp import MLP

__all__ = [
    "MLP",
    "Layout",
    "LinearRegression",
    "Model",
    "Pull",
    "SoftmaxRegression",
    "check_model",
]
