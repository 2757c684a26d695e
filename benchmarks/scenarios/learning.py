"""Scenarios of learning: parameters, histories and checkpoints of small federations."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from fedlab import (
    MLP,
    Convergence,
    Device,
    Drifting,
    Federation,
    LinearRegression,
    LocalSGD,
    Population,
    Profile,
    SoftmaxRegression,
    VectorIndex,
    spread,
    write_population,
)

from .moved import Parts, found, framed

CLASSES, INPUTS = 5, 12
BARE = LocalSGD(2, 8, 0.1)
RICH = LocalSGD(2, 16, 0.05, decay=0.9, momentum=0.9, weight_decay=0.01, clip=1.0)

Case = Callable[[], dict[str, Any]]
by_name = found("by_name", "fedlab.algorithms")
Stragglers = found("Stragglers", "fedlab.fleet")


def scenarios() -> dict[str, Callable[[Any, int | None], Parts]]:
    """Return them by name; each takes an engine and its threads."""
    return {
        **{name: partial(_benchmarked, name) for name in ("W1", "W2", "W3", "W3b", "W4")},
        **{name: partial(_trained, case) for name, case in _cases().items()},
        **{"drifting": _drifting, "population": _population, "convergence": _convergence},
        **{"resumed": _resumed, "large network": _large, "one cohort": _one_cohort},
    }


def clients(
    dtype: Any = "f32", text: bool = False, numbers: bool = False, availability: float = 1.0
) -> tuple[list[Device], tuple[Any, Any]]:
    """Return twelve skewed devices, one of a single row and one of none, and rows for a test."""
    from fedlab.data import dirichlet

    draw = np.random.default_rng(1)
    y = draw.integers(CLASSES, size=700)
    x = draw.normal(size=(CLASSES, INPUTS))[y] + draw.normal(size=(700, INPUTS))
    labels = x @ draw.normal(size=INPUTS) + 0.1 * draw.normal(size=700) if numbers else y
    split = [*dirichlet(y[:599], 12, 0.4, seed=2, min_rows=3).rows, np.array([599]), np.arange(0)]
    devices = []
    for place, rows in enumerate(split):
        index = VectorIndex(INPUTS, "l2sq", dtype)
        if len(rows):
            index.add(x[rows], keys=rows, labels=labels[rows])
        profile = Profile(compute=1e9 * (1 + place), availability=availability)
        device = Device(f"ward {place:02}" if text else place, index, profile)
        devices.append(device.hold_out(0.2, seed=3) if len(rows) else device)
    return devices, (x[600:].astype(np.float32), labels[600:])


def _fleet(**settings: Any) -> dict[str, Any]:
    devices, test = clients(**settings)
    return {"devices": devices, "test": test}


def _federation(engine: Any, threads: int | None, **given: Any) -> Federation:
    """Return a federation, by default of a small MLP and six of `clients` a round."""
    if "devices" not in given:
        given |= _fleet()
    model = MLP(INPUTS, (9,), CLASSES)
    settings = {"model": model, "cohort": 6, "local": BARE, "seed": 5, **given}
    return Federation(**settings, engine=engine, threads=threads)


def _told(one: Federation) -> Parts:
    yield "parameters", one.parameters
    frame = framed(one.history)
    # How drift is computed has changed once: its last digits are rounding.
    drifts = frame.metric == "drift"
    yield "history", frame[~drifts].reset_index(drop=True)
    yield "drift", np.array([float(f"{value:.7g}") for value in frame.value[drifts]])
    yield "remarks", one.history.remarks()


# -- federations that differ in one thing or another --------------------------------------------


def _cases() -> dict[str, Case]:
    """Return by name what `_federation` is given, and how many rounds where they are not 3."""
    cases: dict[str, Case] = {}

    def case(name: str, **settings: Any) -> None:
        cases[name] = lambda: settings

    for kind in ("fedavg", "fedavgm", "fedprox", "fedadam", "fedyogi", "fedadagrad"):
        case(kind, algorithm=by_name(kind))
        case(f"{kind}, rich SGD", algorithm=by_name(kind), local=RICH)
    case("fedavg, half steps", algorithm=by_name("fedavg", server_rate=0.5))
    case("fedadam of Flower", algorithm=by_name("fedadam", convention="flower"))
    case("scaffold", algorithm=by_name("scaffold"), rounds=6)
    case("scaffold, option 1", algorithm=by_name("scaffold", option=1), rounds=6)
    case("fednova", algorithm=by_name("fednova"))
    case("fednova, mu", algorithm=by_name("fednova", mu=0.3))
    local = LocalSGD(2, 8, 0.05, momentum=0.9)
    case("fednova, momentum", algorithm=by_name("fednova", momentum=0.9), local=local)
    start = np.linspace(-0.5, 0.5, MLP(INPUTS, (9,), CLASSES).layout.size)
    for kind in ("fedavg", "scaffold", "fednova", "fedadam"):
        case(f"{kind}, float64", algorithm=by_name(kind), parameters=start)
    soft, deep = SoftmaxRegression(INPUTS, CLASSES, l2=0.01), MLP(INPUTS, (10, 7), CLASSES)
    for batch in (1, 5, None, 1000):
        local = LocalSGD(2, batch, 0.03)
        case(f"MLP, batches of {batch}", model=deep, local=local)
        case(f"softmax, batches of {batch}", model=soft, local=local)
        for kind in ("fedavg", "fedprox", "scaffold"):
            given = {"model": LinearRegression(INPUTS, l2=0.01), "local": local, "algorithm": kind}
            cases[f"linear, batches of {batch}, {kind}"] = partial(_of_numbers, given)
    mapping = {place: 1 + place % 3 for place in range(14)}
    for name, weights in {"uniform": "uniform", "mapping": mapping, "function": _root}.items():
        case(f"weights, {name}", weights=weights)
    for name, late in {"late": Stragglers(0.5), "dropped": Stragglers(0.5, drop=True)}.items():
        case(f"stragglers, {name}", stragglers=late, local=LocalSGD(4, 8, 0.1), rounds=5)
    seldom = partial(_fleet, availability=0.4)
    cases["seldom reachable"] = lambda: {**seldom(), "rounds": 6}
    cases["quorum"] = lambda: {**seldom(), "rounds": 8, "cohort": 8, "quorum": 5}
    cases["text ids"] = partial(_fleet, text=True)
    for dtype in ("f16", "i8"):
        cases[f"rows in {dtype}"] = partial(_fleet, dtype=dtype)
    cases["an update set aside"] = _diverging
    case("all devices a round", cohort=None)
    case("a share a round", cohort=0.3)
    return cases


def _root(device: Any) -> float:
    return float(np.sqrt(device.rows))


def _of_numbers(given: dict[str, Any]) -> dict[str, Any]:
    return {**_fleet(numbers=True), **given}


def _diverging() -> dict[str, Any]:
    given = _fleet()
    index = VectorIndex(INPUTS, "l2sq")
    index.add(1e18 * np.eye(INPUTS), labels=np.arange(INPUTS) % CLASSES)
    return {**given, "devices": [*given["devices"], Device(14, index)], "cohort": None}


def _trained(case: Case, engine: Any, threads: int | None) -> Parts:
    given = dict(case())
    rounds = given.pop("rounds", 3)
    one = _federation(engine, threads, **given)
    one.run(rounds)
    yield from _told(one)
    yield "validation", one.validate()
    yield "rounds that used", _used(one)


def _used(one: Federation) -> list[Any]:
    return [one.rounds_that_used(d.id, int(key)) for d in one.devices for key in d.index.keys[:5]]


# -- the benchmark's workloads --------------------------------------------------------------------


@cache
def _workload(name: str) -> Any:
    from benchmarks import workloads  # of the tree that is looked at

    make = {
        "W1": partial(workloads.prox, 2),
        "W2": partial(workloads.digits, 2, devices=200, cohort=40),
        "W3": partial(workloads.regression, 4),
        "W3b": partial(workloads.regression, 2, devices=20, batches=True),
        "W4": partial(workloads.images, 2, devices=20, cohort=4, rows_each=200),
    }
    return make[name]()


def _benchmarked(name: str, engine: Any, threads: int | None) -> Parts:
    work = _workload(name)
    recipe, devices = work.recipe, []
    for number in range(work.devices):
        x, y = work.rows_of(number)
        index = VectorIndex(x.shape[1], "l2sq")
        index.add(x, labels=y)
        devices.append(Device(number, index))
    inputs, *hidden, outputs = recipe.widths
    model: Any = LinearRegression(inputs)
    if recipe.loss != "squared":
        hides = tuple(hidden)
        model = MLP(inputs, hides, outputs) if hides else SoftmaxRegression(inputs, outputs)
    one = _federation(
        *(engine, threads),
        devices=devices,
        model=model,
        algorithm=by_name("fedprox", mu=recipe.mu) if recipe.mu else "fedavg",
        local=LocalSGD(recipe.epochs, recipe.batch_size, recipe.rate),
        cohort=work.cohorts.shape[1],
        seed=recipe.seed,
        parameters=work.start,
    )
    one.run(work.rounds)
    yield from _told(one)


# -- runs of other kinds --------------------------------------------------------------------------


def _drifting(engine: Any, threads: int | None) -> Parts:
    from fedlab.data import Drift, by_classes, iid, load_digits

    digits = load_digits()
    start, end = iid(len(digits), 10, seed=0), by_classes(digits.y, devices=10, k=2, seed=0)
    devices = Drifting(digits, Drift(start, end, digits.y, first=1, last=4, seed=0))
    one = _federation(engine, threads, devices=devices, model=MLP(64, (16,), 10))
    one.run(5)
    yield from _told(one)
    yield "rounds that used", [one.rounds_that_used(3, key) for key in start.rows[3].tolist()]


def _population(engine: Any, threads: int | None) -> Parts:
    with tempfile.TemporaryDirectory() as name:
        for dtype in ("f32", "i8"):
            folder = Path(name) / dtype
            devices, _ = clients(availability=0.7)
            write_population(folder, devices, dimensions=INPUTS, metric="l2sq", dtype=dtype)
            for kind in ("fedavg", "scaffold"):
                population = Population(folder)
                one = _federation(engine, threads, devices=population, algorithm=kind)
                one.run(4)
                yield f"{dtype}, {kind}", [*_told(one)]


def _convergence(engine: Any, threads: int | None) -> Parts:
    rules = Convergence("validation_loss", 0.05, 2), Convergence("update_norm", 0.6, 2)
    for rule in rules:
        one = _federation(engine, threads)
        one.run(12, rule)
        yield rule.metric, [*_told(one), one.round_number, one.stopped]


def _resumed(engine: Any, threads: int | None) -> Parts:
    for kind in ("fedavgm", "scaffold", "fedadam"):
        with tempfile.TemporaryDirectory() as name:
            whole, first, then = (_federation(engine, threads, algorithm=kind) for _ in range(3))
            whole.run(6)
            first.run_to(3, Path(name) / "run", every=2)
            then.run_to(6, Path(name) / "run")
            if then.parameters.tobytes() != whole.parameters.tobytes():
                raise RuntimeError(f"{kind}: a resumed run ends elsewhere than a whole one")
            if not framed(then.history).equals(framed(whole.history)):
                raise RuntimeError(f"{kind}: a resumed run has another history than a whole one")
            yield kind, [*_told(then), _used(then)]


def _large(engine: Any, threads: int | None) -> Parts:
    """A network that a BLAS trains, and not the compiled loops."""
    from fedlab.data import iid, load_digits

    digits = load_digits()
    devices = spread(digits, iid(len(digits), 10, seed=0))
    model, local = MLP(64, (1024, 1024), 10), LocalSGD(1, 64, 0.05)
    one = _federation(engine, threads, devices=devices, model=model, local=local, cohort=2)
    one.run(2)
    yield from _told(one)


def _one_cohort(engine: Any, threads: int | None) -> Parts:
    """Work of all kinds: points of each device's own, and a device that has nothing to train on."""
    train_cohort = found("train_cohort", "fedlab.training")
    # Called Work once, when it was all that a device did in a round.
    try:
        work = found("Phase", "fedlab.training")
    except ImportError:
        work = found("Work", "fedlab.training")
    local = {batch: LocalSGD(2, batch, 0.05, 1.0, 0.5, 0.01, 1.0) for batch in (7, None)}
    for model, numbers in ((MLP(INPUTS, (9,), CLASSES), False), (LinearRegression(INPUTS), True)):
        devices, _ = clients(numbers=numbers)
        draw, shape = np.random.default_rng(4), (len(devices), model.layout.size)
        passes = np.arange(len(devices)) % 3 + 1
        for kind in ("float32", "float64"):
            start, anchor, offset = (0.1 * draw.normal(size=shape).astype(kind) for _ in range(3))
            asked = {
                "bare": work(start[0]),
                "pulled": work(start, mu=0.5, anchor=anchor, offset=offset, gradient=True),
                "masked": work(start, mu=0.5, trained=draw.random(shape[1]) < 0.7),
            }
            for name, one in asked.items():
                for batch, sgd in local.items():
                    back = train_cohort(
                        *(devices, model, one, sgd),
                        seed=1,
                        round=2,
                        epochs=passes,
                        threads=threads,
                        engine=engine,
                    )
                    counts = back.places, back.rows, back.epochs, back.steps
                    others = {n: b for n, b in back.blocks.items() if n != "change"}
                    sent = back.changes, back.losses, others, back.set_aside
                    yield f"{type(model).__name__}, {kind}, {name}, {batch}", [*counts, *sent]
