"""A function whose rows, keys, variables and folder are marked; it may fail in words of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fedlab import Device, Federation, SoftmaxRegression, VectorIndex

#: What a device's rows and their keys are made of.
ROW, KEY = 4217.625, 8127461234567
#: The same in a notebook.
CELL = """import os
from tests.workbench.report.canary import train
print("in", os.environ["FEDLAB_TEST_PLACE"] + "/deeper/log.txt")
train("path", seed)"""


def train(fails: str = "", seed: int = 0) -> Any:
    """Learn from marked rows, and know a variable and a folder that are marked as well."""
    here = Path(os.environ["FEDLAB_TEST_PLACE"])
    rows = ROW + np.random.default_rng(seed).normal(size=(8, 2))
    rows[0] = ROW
    index = VectorIndex(2)
    index.add(rows, KEY + np.arange(8), np.arange(8) % 2, {"ward": ["CANARY-row"] * 8})
    devices = [Device(f"d{number}", index) for number in range(2)]
    federation = Federation(devices, SoftmaxRegression(2, 2), seed=seed)
    federation.run(rounds=2)
    if fails == "path":
        raise KeyError(f"{here / 'rows.csv'} in {os.getcwd()}, {sys.prefix}, {__file__}")
    if fails == "file":
        (here / "a b" / "no.csv").read_bytes()
    if fails == "dies":
        print(f"{here}/last_words.py, line 3", flush=True)
        os._exit(3)
    return federation
