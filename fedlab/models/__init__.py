"""Models whose parameters are one flat vector: regressions, an MLP, torch modules, estimators."""

from fedlab.models.base import Layout, Model, Pull
from fedlab.models.check import check_model
from fedlab.models.factors import AdditiveFactorisation, MatrixFactorisation, TwoTower
from fedlab.models.linear import LinearRegression, SoftmaxRegression
from fedlab.models.mlp import MLP
from fedlab.models.sklearn_model import SklearnModel
from fedlab.models.torch_module import TorchModel

__all__ = [
    "MLP",
    "AdditiveFactorisation",
    "Layout",
    "LinearRegression",
    "MatrixFactorisation",
    "Model",
    "Pull",
    "SklearnModel",
    "SoftmaxRegression",
    "TorchModel",
    "TwoTower",
    "check_model",
]
