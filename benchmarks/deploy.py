"""Faults on a test bed of real processes: how long each takes, who is named, and what is left.

Each fault is put into one node's own process, by a `sitecustomize` on its path; so what the server
is sent is what a broken or hostile node would send. After each, the node starts again without it,
and the parameters are compared with those of a simulation that knows who was missing.
"""

from __future__ import annotations

import argparse
import os
import runpy
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedlab import Device, spread
from fedlab.data import iid, load_digits
from fedlab.deploy.bed import TestBed, marked

#: What a node does to its answer, `told`, before it is packed; or instead of it.
ANSWERS = {
    "killed in training": "os.kill(os.getpid(), 9)",
    "NaN": "told['blocks']['change']['row'] = told['blocks']['change']['row'] * np.nan",
    "an old round": "told['round'] -= 1",
    "another nonce": "told['nonce'] = '0' * 32",
    "another shape": "told['blocks']['change']['row'] = np.zeros(3, np.float32)",
    "no message": "return b'PK' + bytes(1000)",
    "a message of 1 GB": "return os.urandom(1 << 30)",
}
PATCH = """
import os
import numpy as np
from fedlab.deploy import messages, node

whole = node.Node.answer

def answer(self, kind, data):
    said = whole(self, kind, data)
    if kind != "train":
        return said
    told = messages.unpacked(said)
    {code}
    return messages.packed(told)

node.Node.answer = answer
{more}
"""
EXPERIMENT = """
from fedlab import Federation, LocalSGD, SoftmaxRegression

def federation(devices, seed=0):
    return Federation(devices, SoftmaxRegression(64, 10), local=LocalSGD(), seed=seed)
"""


def main(arguments: Sequence[str]) -> int:
    """Run the campaign, and print a row for each fault."""
    parser = argparse.ArgumentParser("python -m benchmarks deploy", description=__doc__)
    parser.add_argument("--patience", type=float, default=120.0, help="of a round, in seconds")
    parser.add_argument("--without", nargs="*", default=[], help="faults to leave out")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        fleet = spread(digits := load_digits(), iid(len(digits), 3, seed=0))
        with TestBed(root / "bed", fleet, patience=300.0) as bed:
            rows = list(_campaign(bed, root, fleet, given))
        left = marked(root / "bed")
    print(pd.DataFrame(rows).to_string(index=False))
    print(f"processes left: {len(left)}")
    return int(bool(left) or not all(row["named"] and not row["lost"] for row in rows))


def _campaign(bed: TestBed, root: Path, fleet: list[Device], given: Any) -> Any:
    experiment = root / "experiment.py"
    experiment.write_text(EXPERIMENT, encoding="utf-8")
    bad = bed.ids[1]
    federation = bed.federation(experiment, patience=given.patience)
    for _ in range(3):
        yield _row("nothing", federation.round, lambda: federation, None)
    _seconds(bed, experiment, fleet, federation)
    for fault, code in ANSWERS.items():
        if fault in given.without:
            continue
        bed.kill(bad)
        with _patched(root, code):
            bed.start_node(bad)
            bed.wait()
        yield _row(fault, federation.round, lambda: federation, bad)
    for fault, more in {"another version": "node.versions = lambda: {'numpy': '0'}"}.items():
        bed.kill(bad)
        with _patched(root, "pass", more):
            bed.start_node(bad)
            bed.wait()
        began = time.monotonic()
        other = bed.federation(experiment, patience=given.patience)
        took = time.monotonic() - began
        yield _row(fault, other.round, lambda o=other: o, bad) | {"seconds": round(took, 1)}
    bed.kill(bad)
    bed.start_node(bad)
    bed.wait()
    yield _row("none any more", federation.round, lambda: federation, None)
    keys = root / "keys"
    keys.mkdir()
    make = [str(bed.commands / "python"), "-m", "fedlab.deploy.keys", "make", str(keys), "1"]
    subprocess.run(make, env=bed.environment, check=True)
    for fault, wrong in {
        "a wrong key": {"auth_supernode_private_key": keys / "node0"},
        "a wrong certificate": {"root_certificates": keys / "ca.crt"},
    }.items():
        bed.kill(bad)
        bed.start_node(bad, **wrong, max_retries=2, max_wait_time=20)
        began = time.monotonic()
        while bed.status()[bad] != "ended" and time.monotonic() < began + 120:
            time.sleep(0.5)
        said = {"fault": fault, "seconds": round(time.monotonic() - began, 1)}
        yield {**said, "devices": 0, "named": bed.status()[bad] == "ended", "lost": False}


def _seconds(bed: TestBed, experiment: Path, fleet: list[Device], federation: Any) -> None:
    """Print what messages take, beside one without work: that is what the network takes itself."""
    here = runpy.run_path(str(experiment))["federation"](fleet)
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        here.round()
        seconds.append(time.monotonic() - began)
    where = federation.where
    for _ in range(2):
        where.asked("hello", {id: {} for id in bed.ids})
    frame = pd.DataFrame(where.traffic).groupby("kind").seconds.describe()[["min", "50%", "max"]]
    print(f"a round in one process: {np.median(seconds):.3f} s; messages over the network:")
    print(frame.round(2).to_string(), flush=True)


def _row(fault: str, do: Callable[[], Any], of: Callable[[], Any], bad: Any) -> dict[str, Any]:
    """Do a round, and return what came of it."""
    before, began = len(of().history.remarks()), time.monotonic()
    report = do()
    federation, took = of(), time.monotonic() - began
    new = federation.history.remarks().iloc[0 if fault == "another version" else before :]
    named = [str(bad)] if bad is not None else []
    print(fault, *new.text, sep="\n  ", flush=True)
    finite = bool(np.isfinite(federation.parameters).all())
    return {
        "fault": fault,
        "seconds": round(took, 1),
        "devices": int(report.measures["devices"]),
        "named": [str(who) for who in new.who] == named,
        "lost": not finite or report.measures["devices"] != 3 - len(named),
    }


class _patched:
    """A path on which a node finds a fault."""

    def __init__(self, root: Path, code: str, more: str = "") -> None:
        self._before, self._folder = os.environ.get("PYTHONPATH"), root / "fault"
        self._folder.mkdir(exist_ok=True)
        text = PATCH.format(code=code, more=more)
        (self._folder / "sitecustomize.py").write_text(text, encoding="utf-8")

    def __enter__(self) -> None:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(self._folder), self._before]))

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = self._before
