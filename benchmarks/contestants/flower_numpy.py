"""Flower: its `FedAvg` strategy on its simulation runtime (Ray), clients in plain NumPy.

One node a device and one CPU a client, so that as many clients run at once as there are cores (by
default each gets two). The proximal term is computed by the client, as Flower's FedProx asks.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.contest import Laps, main
from benchmarks.contestants.flower_client import app as client
from benchmarks.workload import Array, Workload


class GivenCohorts(FedAvg):
    """FedAvg with the workload's cohorts; tells each client which device it is."""

    def __init__(self, workload: Workload, config: dict[str, str | int], laps: Laps) -> None:
        super().__init__(fraction_evaluate=0.0)
        self._cohorts, self._config, self._laps = workload.cohorts, config, laps
        self._nodes = [0] * workload.devices

    def wait(self, grid: Grid) -> None:
        """Wait until there is a node for each device; then the time starts."""
        while len(nodes := sorted(grid.get_node_ids())) < len(self._nodes):
            time.sleep(0.01)
        self._nodes = nodes
        self._laps.start()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        shared = {**self._config, "server-round": server_round}
        return [
            Message(
                content=RecordDict(
                    {"arrays": arrays, "config": ConfigRecord({**shared, "device": int(device)})}
                ),
                message_type=MessageType.TRAIN,
                dst_node_id=self._nodes[device],
            )
            for device in self._cohorts[server_round - 1]
        ]

    def aggregate_train(self, server_round: int, replies: Iterable[Message]):
        replies = list(replies)
        if len(replies) != self._cohorts.shape[1] or any(reply.has_error() for reply in replies):
            raise RuntimeError(f"clients failed in round {server_round}")
        aggregated = super().aggregate_train(server_round, replies)
        self._laps.lap()
        return aggregated


def train(workload: Workload, seed: int, laps: Laps) -> Array:
    path = Path(sys.argv[sys.argv.index("--workload") + 1]).resolve()
    strategy = GivenCohorts(workload, {"workload": str(path), "seed": seed}, laps)
    start = ArrayRecord([array for layer in workload.layers(workload.start) for array in layer])
    server, results = ServerApp(), []

    @server.main()
    def run(grid: Grid, context: Context) -> None:
        strategy.wait(grid)
        results.append(strategy.start(grid, start, num_rounds=workload.rounds))

    run_simulation(
        server,
        client,
        workload.devices,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    (result,) = results
    return np.concatenate([array.ravel() for array in result.arrays.to_numpy_ndarrays()])


if __name__ == "__main__":
    main(train, "flwr", "ray")
