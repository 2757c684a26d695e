"""What evaluation noise does to the ways of tuning: `python -m benchmarks tuning`.

All ways of `fedlab.study.tuned` choose among the points of one grid, within one budget, judged by
few devices or under differential privacy, on paired seeds. What a choice is worth is known: each
point is trained once and measured on all devices without noise. The regret is the best point's
accuracy minus the chosen one's, in percentage points. Trials of one seed share training: a state
of a point after r rounds is the same whoever asks for it, so it is computed once.

Source of the question: Kuo et al., "On noisy evaluation in federated hyperparameter tuning",
MLSys 2023.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedlab import Federation, LocalSGD, SoftmaxRegression, spread
from fedlab.data import dirichlet, load_mnist5k
from fedlab.federation.history import Report
from fedlab.metrics import compared, mean_interval
from fedlab.study import Validators, grid, tuned
from fedlab.updates import SGD

SPACE: dict[str, list[Any]] = {
    "learning_rate": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0],
    "epochs": [1, 2, 4],
    "batch_size": [4, 16],
    "server_rate": [0.1, 0.3, 1.0, 3.0],
}
WAYS = ("random", "tpe", "halving", "hyperband")
Key = tuple[Any, ...]


class Remembered(Federation):
    """A federation whose rounds are those that another one of the same point has done before."""

    key: Key
    bank: dict[tuple[Key, int], tuple[Any, Report]]

    def round(self) -> Report:
        at = self.key, self.round_number + 1
        if at in self.bank:
            self.state, report = self.bank[at]
            self._participation.note(report.round, report.senders, [], ())
            return report
        report = super().round()
        self.bank[at] = self.state, report
        return report


class World:
    """Devices of one seed, what is known of each point, and how a federation of it is made."""

    def __init__(self, seed: int, devices: int, alpha: float, each: int, cohort: int) -> None:
        mnist = load_mnist5k()
        parts = dirichlet(mnist.y, devices=devices, alpha=alpha, seed=seed, min_rows=4)
        self.devices = [one.hold_out(0.3, seed=seed) for one in spread(mnist, parts)]
        self.seed, self.cohort, self.bank = seed, cohort, dict[Any, Any]()
        self.inputs = mnist.x.shape[1]
        self.truth = {}
        for point in grid(**SPACE):
            federation = self.make(**point)
            federation.run(each)
            self.truth[tuple(point.values())] = float(federation.validate().accuracy.mean())

    def make(
        self,
        learning_rate: float,
        epochs: int,
        batch_size: int = 16,
        server_rate: float = 1.0,
        algorithm: Any = "fedavg",
    ) -> Federation:
        local = LocalSGD(learning_rate=learning_rate, epochs=epochs, batch_size=batch_size)
        about: dict[str, Any] = {"local": local, "server": SGD(server_rate), "cohort": self.cohort}
        about |= {"seed": self.seed, "evaluate_every": 10_000, "weights": "uniform"}
        model = SoftmaxRegression(self.inputs, 10)
        if algorithm != "fedavg":
            return Federation(self.devices, model, algorithm=algorithm, **about)
        federation = Remembered(self.devices, model, **about)
        federation.key = (learning_rate, epochs, batch_size, server_rate)
        federation.bank = self.bank
        return federation

    def regret(self, point: Any) -> float:
        full = {"batch_size": 16, "server_rate": 1.0, **point}
        return 100 * (max(self.truth.values()) - self.truth[tuple(full[n] for n in SPACE)])


def noises(devices: int) -> Iterator[tuple[str, Validators]]:
    """Yield who judges, and what that is called."""
    for count in (1, 3, 10, 30, None):
        name = f"{count or devices} devices"
        yield name, Validators(count, weights="uniform")
        if count in (1, 3, 10):
            yield f"{name}, the same", Validators(count, weights="uniform", same=True)
    for count in (10, None):
        for epsilon in (100.0, 10.0, 1.0):
            name = f"{count or devices} devices, epsilon {epsilon:g}"
            yield name, Validators(count, weights="uniform", epsilon=epsilon, simulated=True)


def campaign(seed: int, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each search of a seed."""
    began = time.perf_counter()
    world = World(seed, given.devices, given.alpha, given.each, given.cohort)
    values = 100 * np.array(list(world.truth.values()))
    known = {"seed": seed, "rounds": given.rounds}
    print(
        f"seed {seed}: {len(values)} points, {time.perf_counter() - began:.0f} s", file=sys.stderr
    )
    yield known | {
        "way": "a point at random",
        "noise": "any",
        "regret": values.max() - values.mean(),
    }
    about: dict[str, Any] = {"rounds": given.rounds, "each": given.each, "seed": seed}
    for name, judges in noises(given.devices):
        for way in WAYS:
            found = tuned(world.make, SPACE, way=way, judges=judges, **about)
            assert found.trials.rounds.sum() == given.rounds
            yield known | {"way": way, "noise": name, "regret": world.regret(found.point)}
    local = {name: SPACE[name] for name in ("learning_rate", "epochs")}
    found = tuned(world.make, local, way="fedex", rounds=given.rounds, seed=seed)
    yield known | {"way": "fedex", "noise": "its cohorts", "regret": world.regret(found.point)}
    model = 100 * float(found.federation.validate().accuracy.mean())
    yield known | {"way": "fedex, its model", "noise": "any", "regret": values.max() - model}


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return mean regrets by noise and way, with Student's intervals over seeds."""

    def told(values: pd.Series) -> str:
        return f"{mean_interval(values):.1f}" if len(values) > 1 else f"{values.iloc[0]:.1f}"

    order = {name: frame[name].drop_duplicates().tolist() for name in ("noise", "way")}
    made = frame.pivot_table("regret", "noise", "way", aggfunc=told)
    return made.loc[order["noise"], order["way"]]


def beside_random(frame: pd.DataFrame) -> pd.DataFrame:
    """Return each way's regret less that of random search under the same noise, by paired seeds."""
    rows = frame[frame.way.isin(WAYS)]
    family = rows.noise.nunique() * (len(WAYS) - 1)
    parts = {
        noise: compared(
            part.pivot_table("regret", "seed", "way"), "random", better="lower", family=family
        )
        for noise, part in rows.groupby("noise", sort=False)
    }
    return pd.concat(parts, names=["noise", "way"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks tuning", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--begin", type=int, default=0, help="the first seed")
    parser.add_argument("--rounds", type=int, default=432, help="of a search, over all trials")
    parser.add_argument("--each", type=int, default=27, help="rounds of a trial at most")
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--cohort", type=int, default=10)
    parser.add_argument("--alpha", type=float, default=0.1, help="of the Dirichlet split")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/tuning.csv"))
    given = parser.parse_args(arguments)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    rows = list[dict[str, Any]]()
    for seed in range(given.begin, given.begin + given.seeds):
        rows += campaign(seed, given)
        pd.DataFrame(rows).to_csv(given.out, index=False)  # what was done outlives an interrupt
    frame = pd.DataFrame(rows)
    with pd.option_context("display.width", 200, "display.max_rows", None):
        print("Regret in percentage points of accuracy (95% over seeds):\n")
        print(table(frame).fillna("").to_string())
        if given.seeds > 1:
            print("\nBeside random search under the same noise, all intervals at once:\n")
            print(beside_random(frame).round(2).to_string())
    print(f"\nall rows: {given.out}")
    return 0
