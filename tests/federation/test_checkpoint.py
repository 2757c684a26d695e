"""A run that is stopped, anywhere and by whatever, ends with the bits it would have had."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedlab import (
    MLP,
    Convergence,
    Device,
    Federation,
    LocalSGD,
    Population,
    VectorIndex,
    write_population,
)
from fedlab.algorithms import FedBN, FedEx, FedNova, Scaffold, Stateless, by_name
from fedlab.algorithms import __all__ as public
from fedlab.device.states import DeviceStates
from fedlab.federation.checkpoint import CHECKPOINT, Checkpoint, CheckpointError
from fedlab.federation.history import History
from fedlab.federation.round import play
from fedlab.federation.state import RunState
from fedlab.fleet import Stragglers
from fedlab.training import Phase
from fedlab.updates import ClipNorm
from tests.federations import class_device

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    *("fedavg", "fedavgm", "fedprox", "scaffold", "fednova", "fedadam", "fedyogi", "fedadagrad"),
    *("feddyn", "qffl", "afl", "finetuned", "alone", "ditto", "apfl", "fedper", "fedrep", "ifca"),
    *("pfedrec", "moon", "fedproto", "feddbe"),
)
ALGORITHMS: dict[str, Any] = {name: by_name(name) for name in NAMES} | {
    "fedbn": FedBN(keep=("bias1",)),
    "scaffold, option 1": Scaffold(option=1),
    "fednova with momentum": FedNova(momentum=0.9),
    "fedex": FedEx(rates=(0.1, 1.0, 3.0), epochs=(1, 2, 3)),
}


def federation(name: str, **settings) -> Federation:
    devices = [class_device(n, [0, 1, 2] * (2 + n)).hold_out(0.2, seed=0) for n in range(6)]
    momentum = 0.9 if "momentum" in name else 0.0
    given = {
        "algorithm": ALGORITHMS[name],
        "local": LocalSGD(epochs=2, batch_size=4, momentum=momentum, decay=0.99),
        "cohort": 3,
        "stragglers": Stragglers(share=0.5),
        "seed": 4,
    }
    return Federation(devices, MLP(4, (6,), 3), **(given | settings))


def holding(tree: object) -> Checkpoint:
    """A checkpoint whose algorithm remembers a tree."""
    state = RunState(0, np.zeros(1), tree, {}, (), DeviceStates(), False, History())
    return Checkpoint({}, state)


def assert_same(one: Federation, other: Federation) -> None:
    assert one.round_number == other.round_number
    assert one.parameters.tobytes() == other.parameters.tobytes()
    assert one.history.to_frame().equals(other.history.to_frame())
    assert one.history.remarks().equals(other.history.remarks())


def test_the_algorithms_tried_here_are_all_there_are():
    tried = {type(algorithm).__name__ for algorithm in ALGORITHMS.values()}
    of_adapters = {"FFALoRA", "FLoRA", "FedExLoRA", "FlexLoRA"}  # see test_lora.py
    memories = {"KNNPer", "Memory", "KNNLM", "TextMemory"}  # no part of a run
    others = {"Algorithm", "Stateless", "by_name"} | memories
    assert tried == set(public) - others - of_adapters


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_run_that_goes_on_from_a_file_equals_one_that_was_never_interrupted(name, tmp_path):
    whole, first, second = (federation(name) for _ in range(3))
    whole.run(9)
    first.run(4)
    first.save(tmp_path / "run")
    second.load(tmp_path / "run")
    assert_same(first, second)
    second.run(5)
    assert_same(whole, second)
    assert whole.personal_parameters().tobytes() == second.personal_parameters().tobytes()


def test_a_program_that_is_started_again_ends_where_it_would_have(tmp_path):
    path, whole = tmp_path / "run", federation("scaffold")
    whole.run(10)
    federation("scaffold").run_to(6, path, every=4)
    assert Checkpoint.read(path).state.round == 6
    again = federation("scaffold")
    again.run_to(10, path, every=4)
    assert_same(whole, again)
    for rounds in (10, 3):  # what is done is not done again
        once_more = federation("scaffold")
        with warnings.catch_warnings(record=True) as caught:
            once_more.run_to(rounds, path)
        assert_same(whole, once_more)
        assert once_more.stopped == "rounds"
        said = [str(one.message) for one in caught]
        assert said == [] if rounds == 10 else "run_to(3): the run stands at round 10" in said[0]


def test_convergence_is_found_again(tmp_path):
    convergence = Convergence("update_norm", tolerance=10.0, patience=3)
    first, again = federation("fedavg"), federation("fedavg")
    first.run_to(50, tmp_path / "run", convergence=convergence)
    again.run_to(50, tmp_path / "run", convergence=convergence)
    assert (first.stopped, again.stopped) == ("converged", "converged")
    assert_same(first, again)


PROGRAM = """
import sys
from tests.federation.test_checkpoint import ALGORITHMS, federation
for place, name in enumerate(ALGORITHMS):
    federation(name).run_to(120, f"{sys.argv[1]}/{place}", every=1)
"""


@pytest.mark.slow
def test_kill_9_at_random_moments(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    draw, kills = random.Random(1), 0
    while True:
        program = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        began = time.monotonic()
        seen = sum(1 for _ in tmp_path.iterdir())
        while program.poll() is None and sum(1 for _ in tmp_path.iterdir()) <= seen:
            time.sleep(0.01)  # until it has saved something that was not there
        try:
            status = program.wait(timeout=draw.uniform(0, 0.6))
        except subprocess.TimeoutExpired:
            program.send_signal(signal.SIGKILL)
            status, kills = program.wait(), kills + 1
        assert status in (0, -signal.SIGKILL)
        assert time.monotonic() - began < 300
        if status == 0:
            break
    assert kills >= 3
    for place, name in enumerate(ALGORITHMS):
        whole, resumed = federation(name), federation(name)
        whole.run(120)
        resumed.load(tmp_path / str(place))
        assert_same(whole, resumed)
        resumed.save(tmp_path / str(place))  # takes away what a killed one left
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(map(str, range(len(ALGORITHMS))))


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seed": 5}, "its seed is 4, this one's 5"),
        ({"algorithm": "fedprox"}, "its algorithm is FedAvg"),
        ({"local": LocalSGD(epochs=3)}, "its local is"),
        ({"cohort": 2}, "its cohort is 3, this one's 2"),
        ({"engine": "plain"}, "its engine is compiled, this one's plain"),
        ({"weights": "uniform"}, "its weights is 'rows'"),
        ({"stragglers": None}, "its stragglers is Stragglers"),
    ],
)
def test_another_run_s_file_is_refused_and_nothing_changes(settings, says, tmp_path):
    run = federation("fedavg")
    run.run_to(2, tmp_path / "run")
    other = federation("fedavg", **settings)
    before = other.parameters
    with pytest.raises(CheckpointError, match=says):
        other.run_to(5, tmp_path / "run")
    assert other.round_number == 0
    np.testing.assert_array_equal(other.parameters, before)


def test_another_function_of_weights_is_refused_by_what_it_gives(tmp_path):
    run = federation("fedavg", weights=lambda device: 1.0)
    run.run_to(2, tmp_path / "run")
    federation("fedavg", weights=lambda device: 1.0).load(tmp_path / "run")
    with pytest.raises(CheckpointError, match="weights"):
        federation("fedavg", weights=lambda device: device.rows**2).load(tmp_path / "run")


def test_other_devices_are_refused(tmp_path):
    run = federation("fedavg")
    run.run_to(1, tmp_path / "run")
    devices = [class_device(n, [0, 1, 2] * (2 + n)) for n in range(6)]
    other = Federation(devices, MLP(4, (6,), 3), cohort=3, seed=4)
    with pytest.raises(CheckpointError, match="devices"):
        other.load(tmp_path / "run")


def test_a_torn_or_altered_file_is_refused(tmp_path):
    path, run = tmp_path / "run", federation("fedadam")
    run.run_to(3, path)
    content = path.read_bytes()
    draw = random.Random(0)
    for _ in range(60):
        cut = draw.randrange(len(content))
        path.write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match=r"torn|no checkpoint"):
            federation("fedadam").load(path)
        place = draw.randrange(len(content))
        changed = bytes([content[place] ^ (1 << draw.randrange(8))])
        path.write_bytes(content[:place] + changed + content[place + 1 :])
        with pytest.raises(CheckpointError):
            federation("fedadam").load(path)
    path.write_bytes(content)
    federation("fedadam").load(path)


def test_a_file_with_a_right_digest_and_a_wrong_content_is_refused(tmp_path):
    run = federation("fedavgm")
    run.run_to(2, tmp_path / "run")
    known, parts = CHECKPOINT.read(tmp_path / "run")
    for change in (
        {"algorithm": {"run": "a command"}},
        {"algorithm": {"array": "nothing of that name"}},
        {"server": []},
        {"stages": {"plain": 3}},
        {"round": "soon"},
        {"settings": 3},
    ):
        CHECKPOINT.write(tmp_path / "forged", {**known, **change}, parts)
        with pytest.raises(CheckpointError):
            federation("fedavgm").load(tmp_path / "forged")


def test_a_state_that_a_file_cannot_hold_is_refused_by_name(tmp_path):
    for state in ({"model": object()}, {"a": [1, {2.5: 1}]}, {"x": np.array([object()])}):
        with pytest.raises(TypeError, match=r"algorithm state\.0"):
            holding(state).write(tmp_path / "run")
    assert not list(tmp_path.iterdir())


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.bool_, np.uint8]),
        st.tuples(st.integers(0, 3), st.integers(0, 2)),
    )
)
TREES = st.recursive(
    LEAVES,
    lambda node: (
        st.lists(node, max_size=3)
        | st.tuples(node, node)
        | st.dictionaries(st.text(max_size=3) | st.integers(), node, max_size=3)
    ),
    max_leaves=8,
)


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        alike = isinstance(b, np.ndarray) and (a.dtype, a.shape) == (b.dtype, b.shape)
        return alike and a.tobytes() == b.tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@settings(deadline=None)  # it writes files
@given(TREES)
@example({2**63: np.zeros(2)})
@example({-(2**63) - 1: np.zeros(2), 3: np.ones(2)})
def test_any_tree_of_arrays_comes_back_as_it_was(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("tree") / "run"
    holding(state).write(path)
    assert same(Checkpoint.read(path).state.algorithm, state)


KEEPING = """
import os, sys
from tests.federation.test_checkpoint import federation
from fedlab.files import atomic
path, folder, step = sys.argv[1:]
count = 0
def counted(function):
    def call(*given):
        global count
        count += 1
        if count == int(step):
            os._exit(9)
        return function(*given)
    return call
os.replace, os.fsync = counted(os.replace), counted(os.fsync)
federation("scaffold", keep_in=folder).run_to(5, path, every=1)
"""


def test_what_devices_keep_in_files_outlives_a_kill_between_its_write_and_the_commit(tmp_path):
    """A kill at each replacement and each flush to the disk, of kept rows and of checkpoints."""
    whole = federation("scaffold")
    whole.run(5)
    environment, step, status = {**os.environ, "PYTHONPATH": str(ROOT)}, 0, 9
    path, folder = tmp_path / "run", tmp_path / "kept"
    while status:
        step += 3  # what is there already is not written again: steps differ from start to start
        command = [sys.executable, "-c", KEEPING, str(path), str(folder), str(step)]
        status = subprocess.run(command, env=environment, check=False, timeout=120).returncode
        assert status in (0, 9)
    again = federation("scaffold", keep_in=folder)
    again.load(path)
    assert_same(again, whole)
    kept = [one.state.kept.column("control")[1] for one in (again, whole)]
    assert kept[0].tobytes() == kept[1].tobytes()
    assert step > 3
    with pytest.raises(CheckpointError, match="keep_in"):
        federation("scaffold").load(path)


# -- another run, though it looks alike ------------------------------------------------------------


class Pulled(Stateless):
    """FedProx as somebody writes it who does not know dataclasses."""

    def __init__(self, mu: float) -> None:
        self.mu = mu

    def work(self, state, parameters, places, kept):
        return Phase(parameters, mu=self.mu)


class Counting(Stateless):
    """An algorithm that remembers on itself."""

    def __init__(self) -> None:
        self.rounds = 0

    def learn(self, state, means, devices):
        self.rounds += 1
        return means["change"] / self.rounds, state


class Scaled(ClipNorm):
    """A stage with a function of its own."""

    def __init__(self, function) -> None:
        super().__init__(1.0)
        object.__setattr__(self, "function", function)


def lambda_stage(number: int) -> Scaled:
    return Scaled(lambda v: v * number)


class OwnModel(MLP):
    """A model with a setting of its own that is no field."""

    def __init__(self, scale: float) -> None:
        super().__init__(4, (6,), 3)
        object.__setattr__(self, "scale", scale)


class Unpickled(Stateless):
    def __init__(self) -> None:
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("mine", "other", "part"),
    [
        ({"algorithm": Pulled(0.1)}, {"algorithm": Pulled(1.0)}, "algorithm"),
        ({"updates": [lambda_stage(1)]}, {"updates": [lambda_stage(2)]}, "chain"),
    ],
)
def test_other_settings_of_a_plain_class_are_another_run(mine, other, part, tmp_path):
    federation("fedavg", **mine).run_to(2, tmp_path / "run")
    federation("fedavg", **mine).load(tmp_path / "run")
    with pytest.raises(CheckpointError, match=f"its {part} is"):
        federation("fedavg", **other).load(tmp_path / "run")


def test_a_model_with_another_attribute_is_another_run(tmp_path):
    devices = [class_device(n, [0, 1, 2] * 3) for n in range(3)]
    Federation(devices, OwnModel(1.0)).run_to(2, tmp_path / "run")
    Federation(devices, OwnModel(1.0)).load(tmp_path / "run")
    with pytest.raises(CheckpointError, match="its model is"):
        Federation(devices, OwnModel(2.0)).load(tmp_path / "run")


def test_what_an_algorithm_remembers_on_itself_is_refused_when_it_is_saved(tmp_path):
    run = federation("fedavg", algorithm=Counting())
    with pytest.raises(TypeError, match=r"the algorithm changed while it ran.*can't be saved"):
        run.run_to(2, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert run.round_number == 1


def test_what_can_t_be_told_apart_runs_and_is_refused_before_hours_have_passed(tmp_path):
    run = federation("fedavg", algorithm=Unpickled())
    with pytest.raises(TypeError, match=r"algorithm of class Unpickled can't be told .*pickle"):
        run.run_to(2, tmp_path / "run")
    assert run.round_number == 0
    assert run.run(2).last("devices") == 3


def scaled(device: Device, factor: float) -> Device:
    index = VectorIndex(4, "l2sq")
    index.add(device.index.vectors * factor, labels=device.labels)
    return Device(device.id, index)


def relabelled(device: Device) -> Device:
    index = VectorIndex(4, "l2sq")
    index.add(device.index.vectors, labels=device.labels[::-1])
    return Device(device.id, index)


@pytest.mark.parametrize(
    "changed",
    [
        lambda devices: [scaled(one, 1.5) for one in devices],
        lambda devices: [relabelled(devices[0]), *devices[1:]],
        lambda devices: [Device(0, devices[1].index), Device(1, devices[0].index), *devices[2:]],
        lambda devices: [one.hold_out(0.3, seed=1) for one in devices],
        lambda devices: [scaled(one, 1.0) for one in devices],
    ],
    ids=["scaled", "relabelled", "dealt otherwise", "other rows held out", "the same"],
)
def test_devices_are_known_by_what_they_hold_and_not_by_how_much(changed, request, tmp_path):
    devices = [class_device(n, [0, 1, 2] * 3, seed=n).hold_out(0.3, seed=0) for n in range(3)]
    if request.node.callspec.id in ("scaled", "the same"):
        devices = [scaled(one, 1.0) for one in devices]
    Federation(devices, MLP(4, (6,), 3)).run_to(2, tmp_path / "run")
    other = Federation(changed(devices), MLP(4, (6,), 3))
    if request.node.callspec.id == "the same":
        other.load(tmp_path / "run")
        assert other.round_number == 2
        return
    with pytest.raises(CheckpointError, match="its devices is"):
        other.load(tmp_path / "run")


def test_a_population_is_known_by_what_it_holds(tmp_path):
    x, y = np.eye(4), [0, 1, 2, 0]
    for name, factor in (("one", 1), ("same", 1), ("other", 2)):
        write_population(tmp_path / name, [(n, factor * x, y) for n in range(3)], dimensions=4)
    runs = {
        name: Federation(Population(tmp_path / name), MLP(4, (6,), 3))
        for name in ("one", "same", "other")
    }
    runs["one"].run_to(2, tmp_path / "run")
    runs["same"].load(tmp_path / "run")
    with pytest.raises(CheckpointError, match="its devices is"):
        runs["other"].load(tmp_path / "run")


def test_savings_take_a_small_share_of_a_run_however_long_it_is(monkeypatch, tmp_path):
    clock, saved = [0.0], []
    monkeypatch.setattr("fedlab.federation.federation.time.perf_counter", lambda: clock[0])
    run = federation("fedavg")

    def played(*given):
        clock[0] += 1.0  # a round takes a second
        return play(*given)

    def write(self, path):
        clock[0] += 0.01 * self.state.round  # and a saving takes longer, the longer the run
        saved.append(self.state.round)

    monkeypatch.setattr("fedlab.federation.federation.play", played)
    monkeypatch.setattr(Checkpoint, "write", write)
    run.run_to(300, tmp_path / "run")
    assert [saved[0], saved[-1]] == [1, 300]
    assert len(saved) > 6
    spent = 0.01 * sum(saved[:-1])  # the last one ends the run, whatever it takes
    assert spent <= 0.06 * 300
