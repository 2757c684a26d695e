"""What a Flower user writes for a client: the plain NumPy loop, behind a `ClientApp`.

A module of its own, so that Ray's workers import it instead of unpickling it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.contestants.loop import local_training
from benchmarks.workload import Workload

app = ClientApp()

read = cache(Workload.read)  # once a worker


@app.train()
def train(message: Message, context: Context) -> Message:
    config = message.content["config"]
    workload, device = read(Path(str(config["workload"]))), int(config["device"])
    server = np.concatenate([a.ravel() for a in message.content["arrays"].to_numpy_ndarrays()])
    draw = np.random.default_rng([int(config["seed"]), int(config["server-round"]), device])
    trained = workload.layers(local_training(workload, device, server, draw))
    reply = RecordDict(
        {
            "arrays": ArrayRecord([array for layer in trained for array in layer]),
            "metrics": MetricRecord({"num-examples": int(workload.sizes[device])}),
        }
    )
    return Message(content=reply, reply_to=message)
