"""A contest of ways to learn: same seeds, same devices, tuned alike, beside the usual yardsticks.

Three yardsticks stand beside what is compared: each device alone, all rows in one place, and
federated averaging, as it is and fine-tuned. To pool the rows breaks what federated learning is
for; it tells what privacy costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fedlab.algorithms import Alone, FedAvg, FineTuned
from fedlab.core.validation import whole_number
from fedlab.device.device import Device
from fedlab.device.splits import hold_out_devices
from fedlab.federation.federation import Federation
from fedlab.index.vectorindex import VectorIndex
from fedlab.metrics.evenness import Better, Fairness, fairness
from fedlab.models.base import Model
from fedlab.training import LocalSGD

if TYPE_CHECKING:
    import pandas as pd

ALONE, CENTRAL = "alone", "central"
YARDSTICKS: Mapping[str, Any] = {
    ALONE: Alone(),
    CENTRAL: FedAvg(),
    "fedavg": FedAvg(),
    "fine-tuned fedavg": FineTuned(),
}


def contest(
    make_devices: Callable[[int], Sequence[Device]],
    ways: Mapping[str, Any],
    model: Model,
    *,
    seeds: Sequence[int],
    rounds: int,
    local: LocalSGD | None = None,
    trials: int = 3,
    tuning_seed: int = 1000,
    tuning_share: float = 0.2,
    groups: str | None = None,
    unseen: int | float = 0.2,
    metric: str = "accuracy",
    better: Better = "higher",
    **settings: Any,
) -> pd.DataFrame:
    """Tune each contestant in as many trials, and run all of them on the same seeds and devices.

    The rows that devices hold out are what contestants are judged by. Tuning does not see them: on
    devices of `tuning_seed` it splits the rows to train on once more. Whole devices are held out as
    well, and judged apart: by the model that the algorithm gives to a stranger, who may train it on
    rows of its own, and `alone`, by what a device learns from its rows in as many rounds. All rows
    in one place are one device, which does a round's epochs over all of them; it and devices alone
    know no cohorts.

    Parameters
    ----------
    make_devices : function of a seed
        Returns devices that hold rows out (see `Device.hold_out`).
    ways : mapping of name to algorithm, or list of candidates
        What is compared. Of an algorithm, as of the yardsticks, step sizes are tried: that of
        `local`, times powers of three around it. A list has candidates of your own, as many as
        `trials`: algorithms, or mappings of arguments for `Federation`, such as
        ``{"algorithm": Ditto(lam=0.1), "local": LocalSGD(epochs=2)}``. A yardstick's name replaces
        it.
    model : Model
    seeds : sequence of int
        One run each; `tuning_seed` is none of them.
    rounds : int
    local : LocalSGD, optional
    trials : int
        Candidates of each contestant.
    tuning_share : float
        Rows that tuning holds out of those to train on; whole groups, if `groups` names a column of
        the metadata.
    unseen : int or float
        Devices held out (see `hold_out_devices`).
    metric : str
        What contestants are tuned and judged by: "accuracy", "loss", or a name that
        `Federation.validate` knows.
    better : {"higher", "lower"}
        Which way the metric is better.
    **settings
        Further arguments for every `Federation`, such as ``cohort``.

    Returns
    -------
    DataFrame
        ``way``, ``seed``, ``who``, ``metric``, ``value``, and what tuning took: ``trials``,
        ``seconds`` (simulated) and ``bytes``; ``settings`` are those that were tried, or chosen.
        Who is a trial ("trial 1"), "taking part" or "unseen" (mean over rows, worst tenth, gini,
        entropy, variance of the metric), a device, or "server" (bytes and seconds of the run; to
        pool rows costs their bytes, once). Fine-tuning on the devices sends and counts nothing.

    Raises
    ------
    ValueError
        If contestants have other numbers of candidates, or `tuning_seed` is among the seeds.
    """
    import pandas as pd

    whole_number(trials, "trials", 1)
    if len({tuning_seed, *seeds}) <= len(seeds):
        raise ValueError(f"seeds are {list(seeds)}, tuning_seed is {tuning_seed}; all must differ")
    tried = {name: _candidates(way, local, trials) for name, way in {**YARDSTICKS, **ways}.items()}
    if odd := {name: len(each) for name, each in tried.items() if len(each) != trials}:
        raise ValueError(f"{trials} trials are for each contestant; {odd} differ from that")
    parts, _ = hold_out_devices(make_devices(tuning_seed), unseen, tuning_seed)
    inner = [
        _with_training_rows(device.id, [device]).hold_out(tuning_share, tuning_seed, groups)
        for device in parts
    ]
    rows, fixed = [], {}
    for name, candidates in tried.items():
        runs = [_run(name, inner, [], model, rounds, tuning_seed, settings | c) for c in candidates]
        values = [_judged(run, inner, metric, better)[0].mean for run in runs]
        best = int(np.argmax(values) if better == "higher" else np.argmin(values))
        spent = pd.DataFrame([_spent(name, run, inner) for run in runs]).sum()
        costs = [(trials, *spent, _said(candidate)) for candidate in candidates]
        for number, value in enumerate(values):
            rows.append((name, tuning_seed, f"trial {number + 1}", metric, value, *costs[number]))
        fixed[name] = candidates[best], costs[best]
    for seed in seeds:
        parts, strangers = hold_out_devices(make_devices(seed), unseen, seed)
        for name, (candidate, told) in fixed.items():
            run = _run(name, parts, strangers, model, rounds, seed, settings | candidate)
            measured = [("server", *one) for one in _spent(name, run, parts).items()]
            for who, devices in (("taking part", parts), ("unseen", strangers)):
                fair, by_device = _judged(run, devices, metric, better)
                measured += [(who, what, getattr(fair, of)) for what, of in _TOLD.items()]
                measured += [(str(device), metric, value) for device, value in by_device.items()]
            rows += [(name, seed, *one, *told) for one in measured]
    columns = ["way", "seed", "who", "metric", "value", "trials", "seconds", "bytes", "settings"]
    return pd.DataFrame(rows, columns=columns)


#: What is told of a metric over devices, and how `Fairness` calls it.
_TOLD = {"mean": "mean", "worst tenth": "worst"} | {n: n for n in ("gini", "entropy", "variance")}


def _candidates(way: Any, local: LocalSGD | None, trials: int) -> list[dict[str, Any]]:
    local = local or LocalSGD()
    if isinstance(way, list | tuple):
        given = [dict(one) if isinstance(one, Mapping) else {"algorithm": one} for one in way]
        return [{"local": local} | one for one in given]
    steps = [local.learning_rate * 3.0 ** (n - trials // 2) for n in range(trials)]
    return [{"algorithm": way, "local": replace(local, learning_rate=step)} for step in steps]


def _said(candidate: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in candidate.items())


def _run(
    way: str,
    parts: list[Device],
    strangers: list[Device],
    model: Model,
    rounds: int,
    seed: int,
    given: Mapping[str, Any],
) -> Federation:
    devices, given = parts, {"evaluate_every": rounds, **given}
    if way in (ALONE, CENTRAL):
        given["cohort"] = None
        # A stranger learns alone like any other.
        devices = parts + strangers if way == ALONE else [_with_training_rows("one place", parts)]
    federation = Federation(devices, model, seed=seed, **given)
    federation.run(rounds)
    return federation


def _with_training_rows(name: int | str, devices: Sequence[Device]) -> Device:
    """Return a device of other devices' training rows, which forgets what they hold out."""
    first = devices[0]
    index = VectorIndex(first.index.dimensions, first.index.metric, first.index.dtype)
    for device in devices:
        x, y = device.training()
        about = device.index.metadata.loc[device.training_keys]
        index.add(x, labels=y, metadata=about if about.shape[1] else None)
    return Device(name, index, first.profile)


def _judged(
    federation: Federation, devices: Sequence[Device], metric: str, better: Better
) -> tuple[Fairness, pd.Series[float]]:
    holding = [device for device in devices if device.validation_rows]
    further = () if metric in ("accuracy", "loss") else metric
    told = federation.validate(further, devices=holding, model="personal")
    return fairness(told[metric], weights=told["rows"], better=better), told[metric]


def _spent(way: str, federation: Federation, parts: Sequence[Device]) -> dict[str, float]:
    """Return simulated seconds and bytes of a run; of pooling, the bytes of the rows."""
    history = federation.history
    count = sum(float(history.series(name).sum()) for name in ("bytes_up", "bytes_down"))
    if way == CENTRAL:
        count = float(sum(part.nbytes for device in parts for part in device.training()))
    return {"seconds": float(history.series("seconds").sum()), "bytes": count}
