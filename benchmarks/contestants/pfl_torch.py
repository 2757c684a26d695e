"""pfl-research with PyTorch: its `FederatedAveraging` and `FedProx` on its simulated backend.

Users' tensors are in memory and their batches cached, its fast path for small users; metrics are
taken in the first round only. pfl takes a user's batches in the order of the rows, every epoch.
"""

from __future__ import annotations

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.algorithm.fedprox import FedProx, FedProxParams
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel

from benchmarks.contest import Laps, main
from benchmarks.workload import Array, Workload


class Network(torch.nn.Sequential):
    """The workload's layers, with the two methods that pfl asks for."""

    def __init__(self, workload: Workload) -> None:
        modules: list[torch.nn.Module] = []
        for weights, bias in workload.layers(workload.start):
            linear = torch.nn.Linear(*weights.shape)
            linear.weight.data = torch.tensor(weights.T).contiguous()
            linear.bias.data = torch.tensor(bias)
            modules += [linear, torch.nn.ReLU()]
        super().__init__(*modules[:-1])
        self._squared = workload.recipe.loss == "squared"

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        scores = self(x)
        if self._squared:
            return torch.nn.functional.mse_loss(scores[:, 0], y) / 2
        return torch.nn.functional.cross_entropy(scores, y)

    @torch.no_grad()
    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Weighted]:
        return {"loss": Weighted(self.loss(x, y).item() * len(y), len(y))}


class Clock(TrainingProcessCallback):
    """Stops the time after each round."""

    def __init__(self, laps: Laps) -> None:
        self._laps = laps

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        self._laps.start()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self._laps.lap()
        return False, Metrics()


def train(workload: Workload, seed: int, laps: Laps) -> Array:
    # Its operations are too small to share out: on two cores a second thread made W2 a half slower
    # and W3 and W4 no faster.
    torch.set_num_threads(1)
    recipe = workload.recipe
    network = Network(workload)
    model = PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0))
    algorithm, parameters = _algorithm(workload)
    algorithm.run(
        parameters,
        _backend(workload),
        model,
        NNTrainHyperParams(
            local_num_epochs=recipe.epochs,
            local_learning_rate=recipe.rate,
            local_batch_size=recipe.batch_size,
        ),
        callbacks=[Clock(laps)],
    )
    arrays = []
    for layer in list(network)[::2]:
        arrays += [layer.weight.detach().T.reshape(-1), layer.bias.detach()]
    return torch.cat(arrays).numpy()


def _backend(workload: Workload) -> SimulatedBackend:
    users = []
    for number in range(workload.devices):
        rows = tuple(map(torch.from_numpy, workload.rows_of(number)))
        users.append(PyTorchTensorDataset(rows, user_id=str(number)))
    chosen = iter(workload.cohorts.ravel().tolist())
    federation = FederatedDataset(users.__getitem__, chosen.__next__)
    return SimulatedBackend(federation, federation, postprocessors=[WeightByDatapoints()])


def _algorithm(workload: Workload) -> tuple[FederatedAveraging, NNAlgorithmParams]:
    shape = {
        "central_num_iterations": workload.rounds,
        "evaluation_frequency": workload.rounds + 1,
        "train_cohort_size": workload.cohorts.shape[1],
        "val_cohort_size": 0,
    }
    if workload.recipe.mu:
        return FedProx(), FedProxParams(**shape, mu=workload.recipe.mu)
    return FederatedAveraging(), NNAlgorithmParams(**shape)


if __name__ == "__main__":
    main(train, "pfl", "torch")
