"""A population on disk: the same bits as devices in memory, whole or absent, and lazy."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlab import Device, Federation, LinearRegression, LocalSGD, Profile, SoftmaxRegression
from fedlab.device.population import Population, PopulationError, StoredDevice, write_population
from fedlab.fleet import Columnar
from fedlab.index.vectorindex import VectorIndex
from fedlab.training import train_device
from tests.helpers import DTYPES, METRICS, ROOT, normal, run_child

posix = pytest.mark.skipif(os.name == "nt", reason="needs signals")

SIZES = (7, 0, 30, 1, 12)
Given = list[tuple[NDArray[Any], NDArray[Any]]]


def rows_of(sizes: tuple[int, ...] = SIZES, dimensions: int = 6) -> Given:
    draw = np.random.default_rng(0)
    return [(normal(n, dimensions, seed=i), draw.integers(3, size=n)) for i, n in enumerate(sizes)]


def stored(folder: Path, devices: Any = None, **settings: Any) -> Population:
    devices = rows_of() if devices is None and "blocks" not in settings else devices
    write_population(folder / "p", devices, **{"dimensions": 6, **settings})
    return Population(folder / "p")


def owned(name: int | str, x: Any, y: Any, *given: Any, first_key: int = 0) -> Device:
    """A device in memory."""
    index = VectorIndex(x.shape[1], *given)
    if len(x):
        index.add(x, keys=np.arange(first_key, first_key + len(x)), labels=y)
    return Device(name, index)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def refused(folder: Path, match: str) -> None:
    with pytest.raises(PopulationError, match=match):
        Population(folder / "p")


# -- the same bits as in memory -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_training_gives_the_bits_of_a_device_in_memory(dtype: str, tmp_path: Path) -> None:
    population = stored(tmp_path, dtype=dtype)
    model, local = SoftmaxRegression(6, 3), LocalSGD(epochs=3, batch_size=4)
    start = np.zeros(model.layout.size, np.float32)
    for place, (x, y) in enumerate(rows_of()):
        device, twin = population[place], owned(place, x, y, "cosine", dtype)
        assert (device.id, device.rows) == (place, len(x))
        np.testing.assert_array_equal(device.labels, twin.labels)
        if not len(x):
            continue
        for with_index in (False, True):
            if with_index:
                assert len(device.index) == len(x)
            updates = [
                train_device(one, model, start, local, seed=5, round=2) for one in (device, twin)
            ]
            assert updates[0].change.tobytes() == updates[1].change.tobytes()
            assert updates[0].change.any()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_search_answers_as_an_owned_index(metric: str, dtype: str, tmp_path: Path) -> None:
    population, queries = stored(tmp_path, metric=metric, dtype=dtype), normal(9, 6, seed=99)
    offset = 0
    for device, (x, y) in zip(population, rows_of(), strict=True):
        twin = owned(device.id, x, y, metric, dtype, first_key=offset)
        np.testing.assert_array_equal(device.index.keys, np.arange(offset, offset + len(x)))
        for exact in (True, False):
            mine, others = (d.index.search(queries, 4, exact=exact) for d in (device, twin))
            np.testing.assert_array_equal(mine.keys, others.keys)
            np.testing.assert_array_equal(mine.distances, others.distances)
        hits = device.most_similar(queries, 2)
        np.testing.assert_array_equal(hits.keys, twin.most_similar(queries, 2).keys)
        offset += len(x)


def test_a_federation_learns_the_same_from_disk_and_from_memory(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    devices = [(normal(n, 6, seed=n), draw.integers(3, size=n)) for n in range(40)]
    profiles = {
        "availability": draw.uniform(0.3, 1.0, 40),
        "bandwidth": draw.uniform(1e5, 1e7, 40),
    }
    population = stored(tmp_path, devices, profiles=profiles)
    assert isinstance(population, Columnar)
    in_memory = []
    for place, (x, y) in enumerate(devices):
        device = owned(place, x, y)
        device.profile = Profile(**{name: float(c[place]) for name, c in profiles.items()})
        in_memory.append(device)
    runs = []
    for some in (population, in_memory):
        federation = Federation(some, SoftmaxRegression(6, 3), cohort=8, seed=4)
        federation.run(rounds=4)
        runs.append(federation)
    assert runs[0].parameters.tobytes() == runs[1].parameters.tobytes()
    assert runs[0].parameters.any()
    for metric in ("seconds", "rows", "train_loss"):
        np.testing.assert_array_equal(*(run.history.series(metric) for run in runs))


def test_blocks_and_single_devices_write_the_same_files(tmp_path: Path) -> None:
    devices = rows_of()
    for dtype in DTYPES:
        one, many = tmp_path / f"one {dtype}", tmp_path / f"many {dtype}"
        write_population(one, iter(devices), dimensions=6, dtype=dtype)  # type: ignore[arg-type]
        blocks = (
            ([len(x) for x, _ in part], *map(np.concatenate, zip(*part, strict=True)))
            for part in (devices[:2], devices[2:])
        )
        write_population(many, blocks=blocks, dimensions=6, dtype=dtype)  # type: ignore[arg-type]
        assert names(one) == names(many)
        for name in names(one):
            assert (one / name).read_bytes() == (many / name).read_bytes()


# -- a sequence, and lazy -------------------------------------------------------------------------


def test_it_is_a_sequence_of_devices(tmp_path: Path) -> None:
    population = stored(tmp_path)
    assert len(population) == 5
    assert [device.id for device in population] == [0, 1, 2, 3, 4] == list(population.ids)
    assert population[-1].id == population[np.int64(4)].id == 4
    assert [device.id for device in population[1:-1]] == [1, 2, 3]
    assert [device.id for device in reversed(population)] == [4, 3, 2, 1, 0]
    assert population.rows.tolist() == list(SIZES)
    assert not population.rows.flags.writeable
    for place in (5, -6):
        with pytest.raises(IndexError, match="5 devices"):
            population[place]
    with pytest.raises(TypeError):
        population["0"]  # type: ignore[call-overload]
    assert repr(population) == "Population(5 devices, 50 rows of 6 in f32, cosine)"
    assert repr(population[2]) == "StoredDevice(2: 30 rows of 6)"


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_index_is_made_before_somebody_asks_for_one(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    population = stored(tmp_path, dtype=dtype)
    made: list[int] = []
    index_at = Population._index_at

    def counted(self: Population, place: int) -> VectorIndex:
        made.append(place)
        return index_at(self, place)

    monkeypatch.setattr(Population, "_index_at", counted)
    device = population[2]
    assert len(device.training_rows()) == device.rows == len(device.labels) == 30
    assert sum(device.class_counts().values()) == 30
    assert (device.validation_rows, device.profile) == (0, Profile())
    repr(device)
    local = LocalSGD(batch_size=4)
    federation = Federation(population, SoftmaxRegression(6, 3), local=local, cohort=3)
    federation.run(rounds=2)
    assert made == []
    assert device.index is device.index
    assert made == [2]


def test_rows_are_mapped_not_copied_and_read_only(tmp_path: Path) -> None:
    population = stored(tmp_path)
    rows = population[2].training_rows()
    again = population[2].training_rows()
    assert np.shares_memory(rows.x, again.x)
    assert np.shares_memory(rows.x, population[2].index.vectors)
    stored_as_f16 = Population(written(tmp_path / "f16", dtype="f16"))[2]
    for part in (rows.x, rows.y, stored_as_f16.training_rows().x):
        with pytest.raises(ValueError, match="read-only"):
            part[0] = 0


def written(folder: Path, **settings: Any) -> Path:
    write_population(folder, rows_of(), dimensions=6, **settings)
    return folder


@pytest.mark.parametrize("dtype", DTYPES)
def test_edits_stay_with_the_device_and_never_reach_the_store(dtype: str, tmp_path: Path) -> None:
    population = stored(tmp_path, dtype=dtype)
    before = {name: (tmp_path / "p" / name).read_bytes() for name in names(tmp_path / "p")}
    device = population[2]
    vectors = device.training_rows().x.copy()
    assert device.index.add(np.ones((1, 6)), labels=[2]).tolist() == [50]  # no device's key
    device.index.remove(device.index.keys[:4])
    assert device.rows == 27
    rows = device.training_rows()
    np.testing.assert_array_equal(rows.x[:-1], vectors[4:])
    np.testing.assert_array_equal(rows.x[-1], device.index.get([50])[0])
    assert device.labels[-1] == rows.y[-1] == 2
    device.index.search(np.ones(6), 3, exact=False)
    assert population[2].rows == 30
    np.testing.assert_array_equal(population[2].training_rows().x, vectors)
    assert before == {name: (tmp_path / "p" / name).read_bytes() for name in names(tmp_path / "p")}


def test_an_index_can_be_saved_and_one_of_another_s_put_in_its_place(tmp_path: Path) -> None:
    device = stored(tmp_path)[4]
    device.index.save(tmp_path / "saved.index")
    opened = VectorIndex.open(tmp_path / "saved.index")
    np.testing.assert_array_equal(opened.vectors, device.index.vectors)
    np.testing.assert_array_equal(opened.keys, device.index.keys)
    other = VectorIndex(6)
    other.add(np.eye(6)[:2], labels=[1, 1])
    device.index = other
    assert (device.rows, device.class_counts()) == (2, {1: 2})


def test_rows_are_held_out_as_on_every_device(tmp_path: Path) -> None:
    x, y = rows_of()[2]
    held = stored(tmp_path)[2].hold_out(0.3, seed=1)
    twin = owned(2, x, y).hold_out(0.3, seed=1)
    assert held.validation_rows == twin.validation_rows > 5
    for mine, others in zip(held.validation(), twin.validation(), strict=True):
        np.testing.assert_array_equal(mine, others)
    for mine, others in zip(held.training(), twin.training(), strict=True):
        np.testing.assert_array_equal(mine, others)


def test_it_travels_to_other_processes_by_its_folder(tmp_path: Path) -> None:
    population = stored(tmp_path)
    sent = pickle.dumps([population, population[2]])
    assert len(sent) < 1_000
    again, device = pickle.loads(sent)
    assert isinstance(device, StoredDevice)
    np.testing.assert_array_equal(device.training_rows().x, population[2].training_rows().x)
    assert len(again) == 5


def test_a_folder_can_go_while_it_is_open(tmp_path: Path) -> None:
    population = stored(tmp_path)
    expected = population[2].training_rows().x.copy()
    shutil.rmtree(tmp_path / "p")
    np.testing.assert_array_equal(population[2].training_rows().x, expected)


def test_a_device_without_rows_takes_part_in_nothing(tmp_path: Path) -> None:
    population = stored(tmp_path)
    assert len(population[1].training_rows()) == population[1].rows == len(population[1].index) == 0
    federation = Federation(population, SoftmaxRegression(6, 3))
    federation.run(rounds=1)
    assert federation.history.series("devices").tolist() == [4.0]
    shutil.rmtree(tmp_path / "p")
    empty = stored(tmp_path, [(np.empty((0, 6)), [])] * 3)
    assert empty.rows.tolist() == [0, 0, 0]
    assert len(empty[0].labels) == 0
    with pytest.raises(ValueError, match="none of the 3 devices has rows"):
        Federation(empty, SoftmaxRegression(6, 3))
    shutil.rmtree(tmp_path / "p")
    assert len(stored(tmp_path, [])) == 0


# -- ids, labels, profiles ------------------------------------------------------------------------


def test_ids_are_text_or_numbers_each_given_or_all_at_once(tmp_path: Path) -> None:
    long = "a much longer name than those before — ß€𐍈"
    ids: list[int | str] = ["a", "ward 2", "", long, "z"]
    named = [(name, *device) for name, device in zip(ids, rows_of(), strict=True)]
    for number, (devices, more) in enumerate(
        [(named, {}), (rows_of(), {"ids": ids}), (rows_of(), {"ids": iter(ids)})]
    ):
        write_population(tmp_path / str(number), devices, dimensions=6, **more)  # type: ignore[arg-type]
        population = Population(tmp_path / str(number))
        assert [device.id for device in population] == ids
        assert {type(device.id) for device in population} == {str}
        assert population.ids[3] == long
    numbers = [5, 2**62, 0, 7, 1]
    population = stored(tmp_path, ids=numbers)
    assert [device.id for device in population] == numbers
    assert {type(device.id) for device in population} == {int}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "c", "d", "a"], "devices 0 and 4 have the same id"),
        (["a\0", "b", "c", "d", "a"], "devices 0 and 4 have the same id"),  # stored without NUL
        ([1, 2, 3, 4, 2], "devices 1 and 4 have the same id"),
        (["a", "b"], "2 ids were given for 5 devices"),
        (["a", "b", "c", "d", 4], "both kinds"),
        ([0, 1, 2, 3, "4"], "both kinds"),
        ([0, 1, 2, 3, -4], "an id is -4"),
        ([0, 1, 2, 3, 2**63], "at most 9223372036854775807"),
        ([0, 1, 2, 3, 4.0], "an id is 4.0"),
        (["a", "b", "c", "d", "x" * 257], "257 letters"),
        (["a", "b", "c", "d", "\ud800"], "surrogates"),
    ],
)
def test_ids_that_are_refused(ids: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        stored(tmp_path, ids=ids)
    named = [(name, *device) for name, device in zip(ids, rows_of(), strict=False)]
    if len(ids) == 5:
        with pytest.raises((TypeError, ValueError), match=message):
            stored(tmp_path, named)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "labels", [np.arange(50), np.arange(50) / 7, np.array([f"{'é' * n}" for n in range(50)])]
)
def test_labels_of_each_type_come_back(labels: NDArray[Any], tmp_path: Path) -> None:
    bounds = np.cumsum((0, *SIZES))
    parts = [labels[a:b] for a, b in pairwise(bounds)]
    devices = [(x, part) for (x, _), part in zip(rows_of(), parts, strict=True)]
    population = stored(tmp_path, devices)
    for device, part in zip(population, parts, strict=True):
        np.testing.assert_array_equal(device.labels, part)
        np.testing.assert_array_equal(device.index.labels, part)


def test_profiles_are_columns_and_none_where_all_have_the_default(tmp_path: Path) -> None:
    availability = np.array([0.0, 0.5, 1.0, 1.0, 0.25])
    default = np.full(5, Profile().compute)
    population = stored(tmp_path, profiles={"availability": availability, "compute": default})
    np.testing.assert_array_equal(population.profiles["availability"], availability)
    assert population.profiles.keys() == {"availability"}
    assert [d.profile for d in population] == [Profile(availability=a) for a in availability]


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ({"speed": np.ones(5)}, "no 'speed'"),
        ({"compute": np.ones(4)}, r"shape \(4,\)"),
        ({"compute": [1, 1, 0, 1, 1]}, "compute of device 2 is 0.0"),
        ({"bandwidth": [1, 1, 1, np.inf, 1]}, "bandwidth of device 3 is inf"),
        ({"availability": [1, 1.5, 1, 1, 1]}, "availability of device 1 is 1.5"),
        ({"availability": [1, np.nan, 1, 1, 1]}, "availability of device 1 is nan"),
    ],
)
def test_profiles_that_are_refused(profiles: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        stored(tmp_path, profiles=profiles)
    assert names(tmp_path) == []


# -- what is refused in writing -------------------------------------------------------------------

GOOD = (np.eye(3), [0, 1, 2])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((np.array([[1, np.nan, 0]]), [0]), "NaN"),
        ((np.zeros((1, 3)), [0]), "cosine needs a direction"),
        ((np.eye(2), [0, 1]), r"shape \(2, 2\)"),
        ((np.eye(3), [0, 1]), "3 rows"),
        ((np.eye(3), [0.5, 1, 2]), "labels of type float64"),
        ((np.eye(3), ["a", "b", "c"]), "labels of type <U1"),
        ((np.eye(3), ["a" * 257, "b", "c"]), "257 letters"),
        ((np.full((1, 3), 1e5), [0]), "f16 rows hold at most"),
        ((np.eye(3, dtype=object), [0, 1, 2]), "numbers are needed"),
        ((np.ma.masked_less(np.eye(3), 0.5), [0, 1, 2]), "masked"),
    ],
)
def test_an_error_names_the_device_and_leaves_nothing(
    bad: Any, message: str, tmp_path: Path
) -> None:
    message = rf"device 2.*{message}"
    kept = {"dimensions": 3, "dtype": "f16"}
    with pytest.raises((TypeError, ValueError), match=message):
        stored(tmp_path, [GOOD, GOOD, bad, GOOD], **kept)
    with pytest.raises((TypeError, ValueError), match=r"device 2 \('c'\)"):
        stored(tmp_path, [("a", *GOOD), ("b", *GOOD), ("c", *bad)], **kept)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "NaN"), (0, "cosine"), (1e5, "f16 rows hold at most"), (np.ma.masked, "masked")],
)
def test_an_error_in_a_block_names_the_device(value: Any, message: str, tmp_path: Path) -> None:
    x = np.ma.ones((6, 3))
    x[4] = value
    blocks = [([2, 1], *GOOD), ([0, 3, 2, 1], x, np.arange(6))]
    with pytest.raises(ValueError, match=f"device 4: .*{message}"):
        stored(tmp_path, blocks=blocks, dimensions=3, dtype="f16")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (([2], *GOOD), "add up to 2 were given for 3 rows"),
        (([4], *GOOD), "add up to 4 were given for 3 rows"),
        (([4, -1], *GOOD), "sizes from -1"),
        (([1.5, 1.5], *GOOD), "sizes of type float64"),
        (([[3]], *GOOD), r"shape \(1, 1\)"),
        (([3], np.zeros((3, 3)), [0, 1, 2]), "device 0: .*cosine"),
        (([3], np.eye(3), [0, 1]), r"labels of shape \(2,\)"),
    ],
)
def test_blocks_that_are_refused(block: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        stored(tmp_path, blocks=[block], dimensions=3)
    assert names(tmp_path) == []


def test_ways_of_giving_devices_that_are_refused(tmp_path: Path) -> None:
    for devices, message in [
        ([("a", *GOOD), GOOD], "device 1: give an id with all devices, or with none"),
        ([GOOD, ("a", *GOOD)], "device 1: give an id with all devices, or with none"),
        ([np.eye(3)], "device 0 was given as ndarray"),
        ([(np.eye(3),)], "device 0 was given as tuple"),
    ]:
        with pytest.raises(TypeError, match=message):
            stored(tmp_path, devices, dimensions=3)
    with pytest.raises(TypeError, match="one of the two"):
        write_population(tmp_path / "p", dimensions=3)
    with pytest.raises(TypeError, match="one of the two"):
        write_population(tmp_path / "p", [GOOD], blocks=[([3], *GOOD)], dimensions=3)
    with pytest.raises(TypeError, match="give one of the two"):
        stored(tmp_path, [("a", *GOOD)], ids=["a"], dimensions=3)
    with pytest.raises(ValueError, match="metric is 'near'"):
        stored(tmp_path, [GOOD], metric="near", dimensions=3)
    assert names(tmp_path) == []


# -- whole or absent ------------------------------------------------------------------------------


def test_a_population_that_stands_is_not_overwritten(tmp_path: Path) -> None:
    stored(tmp_path)
    before = (tmp_path / "p" / "codes.npy").read_bytes()
    with pytest.raises(FileExistsError, match="remove it first"):
        stored(tmp_path, [])
    assert (tmp_path / "p" / "codes.npy").read_bytes() == before
    with pytest.raises(FileNotFoundError, match="make it first"):
        stored(tmp_path / "nowhere", [])
    assert names(tmp_path) == ["p"]


def test_the_second_of_two_writers_is_refused(tmp_path: Path) -> None:
    def slow() -> Iterator[Any]:
        yield from rows_of()
        stored(tmp_path, [(np.ones((1, 6)), [7])])

    with pytest.raises(FileExistsError, match="remove it first"):
        stored(tmp_path, slow())
    assert Population(tmp_path / "p")[0].class_counts() == {7: 1}
    assert names(tmp_path) == ["p"]


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_an_error_on_the_way_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def failing() -> Iterator[Any]:
        yield from rows_of()
        assert names(tmp_path) != []
        raise error

    with pytest.raises(error):
        stored(tmp_path, failing())
    assert names(tmp_path) == []


STEPS = """
import os, sys
import numpy as np
from pathlib import Path
from fedlab.device.population import Population, write_population

folder = Path(sys.argv[1])

def die_at(step):
    count = 0
    def around(function):
        def call(*arguments, **more):
            nonlocal count
            for moment in (lambda: function(*arguments, **more), lambda: None):
                count += 1
                if count == step:
                    os.kill(os.getpid(), 9)
                result = moment() or locals().get("result")
            return result
        return call
    for name in ("fsync", "rename", "replace", "mkdir"):
        setattr(os, name, around(getattr(os, name)))

def devices():
    for place in range(3):
        yield "long " * place + "name", np.ones((2, 4)), [place, place]

outcomes, step, killed = [], 0, True
while killed:
    step += 1
    child = os.fork()
    if not child:
        die_at(step)
        write_population(folder / "p", devices(), dimensions=4)
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    left = set(os.listdir(folder)) - {"p"}
    whole = (folder / "p").exists()
    assert len(left) == (killed and not whole and step > 1), (step, left)
    outcomes.append(whole)
    if whole:
        assert Population(folder / "p").rows.tolist() == [2, 2, 2]
        os.system(f"rm -r '{folder}/p'")
assert sorted(outcomes) == outcomes and set(outcomes) == {False, True}, outcomes
print(step)
"""


@posix
def test_a_kill_before_or_after_any_step_leaves_all_or_nothing(tmp_path: Path) -> None:
    # Folder, widened ids, four columns, description, folder, move, parent: before and after each.
    assert int(run_child(STEPS, tmp_path)) > 20
    assert names(tmp_path) == []


FOREVER = """
import itertools, sys
import numpy as np
from fedlab.device.population import write_population
block = np.full(100, 20), np.ones((2000, 50)), np.zeros(2000, int)
def blocks():
    for number in itertools.count():
        if number == 3:
            print("writing", flush=True)
        yield block
write_population(sys.argv[1], blocks=blocks(), dimensions=50)
"""


@posix
def test_a_killed_writer_leaves_no_population_and_the_next_one_clears_up(tmp_path: Path) -> None:
    other = tmp_path / ".q.0123456789abcdef.tmp"
    other.mkdir()
    for wait in (0.0, 0.05):
        with subprocess.Popen(
            [sys.executable, "-c", FOREVER, str(tmp_path / "p")], cwd=ROOT, stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
            time.sleep(wait)
            stored(tmp_path)  # while the other one writes
            assert len(names(tmp_path)) == 3
            shutil.rmtree(tmp_path / "p")
            writer.send_signal(signal.SIGKILL)
        assert not (tmp_path / "p").exists()
        assert len(names(tmp_path)) == 2
        with pytest.raises(FileNotFoundError, match="no folder"):
            Population(tmp_path / "p")
    stored(tmp_path)
    assert names(tmp_path) == [other.name, "p"]


# -- torn and altered folders ---------------------------------------------------------------------


def described(folder: Path, **changes: Any) -> None:
    path = folder / "p" / "population.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.mark.parametrize("dtype", ["f32", "i8", "b1"])
def test_a_torn_or_missing_file_is_refused(dtype: str, tmp_path: Path) -> None:
    profiles = {name: np.linspace(0.1, 1, 5) for name in ("bandwidth", "compute", "availability")}
    stored(tmp_path, dtype=dtype, ids=list("abcde"), profiles=profiles)
    columns = [name for name in names(tmp_path / "p") if name.endswith(".npy")]
    assert len(columns) == (7 if dtype == "f32" else 8)
    for name in columns:
        path = tmp_path / "p" / name
        content = path.read_bytes()
        for cut in (0, 5, 10, 64, len(content) - 1):
            path.write_bytes(content[:cut])
            refused(tmp_path, rf"{name}.* torn")
        path.write_bytes(content + b"0")
        refused(tmp_path, rf"{name}.* torn: its header announces")
        path.unlink()
        refused(tmp_path, f"{name} is missing")
        path.mkdir()
        refused(tmp_path, f"{name} is missing")
        path.rmdir()
        path.write_bytes(content)
    Population(tmp_path / "p")


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("offsets", [0, 7, 5, 37, 38, 50], "falls 1 times"),
        ("offsets", [1, 7, 7, 37, 38, 50], "begins with 1"),
        ("offsets", [0, 7, 7, 37, 38, 49], "ends with 49"),
        ("offsets", [0, 2**62, 7, 37, 38, 50], "falls 1 times"),
        ("offsets", [0, 7, 7, 37, 50], r"shape \(5,\)"),
        ("labels", np.zeros(49, np.int64), r"shape \(49,\)"),
        ("labels", np.zeros((50, 1), np.int64), r"shape \(50, 1\)"),
        ("labels", np.zeros(50, np.int32), "<i4"),
        ("labels", np.zeros(50, ">i8"), ">i8"),
        ("labels", np.zeros(50, ">U3"), ">U3"),
        ("labels", np.array([{}] * 50, object), "Python objects"),
        ("codes", np.zeros((50, 6)), "<f8"),
        ("codes", np.zeros((300,), np.float32), r"shape \(300,\)"),
        ("codes", np.zeros((50, 6), np.float32, order="F"), "by column"),
        ("codes", np.array([[{}] * 6] * 50, object), "Python objects"),
        ("ids", np.zeros(5), "<f8"),
        ("ids", np.array(["a"] * 4), r"shape \(4,\)"),
        ("availability", np.array([1, 1, 2.0, 1, 1]), "availability of device 2 is 2.0"),
    ],
)
def test_a_column_of_another_shape_type_or_sense_is_refused(
    name: str, column: Any, message: str, tmp_path: Path
) -> None:
    stored(tmp_path, ids=list("abcde"), profiles={"availability": np.full(5, 0.5)})
    np.save(tmp_path / "p" / f"{name}.npy", np.asarray(column), allow_pickle=True)
    refused(tmp_path, message)


class _Trap:
    """Its unpickling would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


def test_nothing_in_a_folder_is_run(tmp_path: Path) -> None:
    stored(tmp_path)
    for content in (
        pickle.dumps(_Trap(tmp_path / "mark")),
        _npy("[(__import__('os').mkdir('mark'))]"),
        _npy("{'descr': '|O', 'fortran_order': False, 'shape': (50,)}")
        + pickle.dumps(_Trap(tmp_path / "mark")),
    ):
        (tmp_path / "p" / "labels.npy").write_bytes(content)
        refused(tmp_path, "labels.npy")
    np.savez(tmp_path / "p" / "labels", labels=np.zeros(50))
    os.replace(tmp_path / "p" / "labels.npz", tmp_path / "p" / "labels.npy")
    refused(tmp_path, "labels.npy")
    assert names(tmp_path) == ["p"]


def _npy(header: str) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "has version 2; this library reads version 1"),
        ({"version": "1"}, "has version '1'"),
        ({"version": None}, "KeyError"),
        ({"kind": "index"}, "describes a 'index'"),
        ({"devices": 6}, "offsets.npy"),
        ({"devices": -1}, "devices is -1"),
        ({"devices": True}, "devices is True"),
        ({"devices": 2**70}, "devices is 1180591620717411303424"),
        ({"rows": 49}, "codes.npy"),
        ({"rows": "50"}, "rows is '50'"),
        ({"dimensions": 5}, "codes.npy"),
        ({"dimensions": 0}, "dimensions is 0"),
        ({"metric": "near"}, "metric is 'near'"),
        ({"dtype": "i8"}, "codes.npy"),
        ({"dtype": "f64"}, "dtype is 'f64'"),
        ({"dtype": ["f32"]}, "describes no population"),
        ({"columns": ["ids"]}, "ids.npy is missing"),
        ({"columns": ["../labels"]}, "describes no population"),
        ({"columns": [[]]}, "describes no population"),
        ({"columns": 5}, "describes no population"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    stored(tmp_path)
    described(tmp_path, **changes)
    refused(tmp_path, message)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"null", b"1"])
def test_a_description_that_is_none_is_refused(text: bytes, tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / "p" / "population.json").write_bytes(text)
    refused(tmp_path, "describes no population")
    (tmp_path / "p" / "population.json").unlink()
    refused(tmp_path, "it has no population.json")
    shutil.rmtree(tmp_path / "p")
    with pytest.raises(FileNotFoundError, match="write_population makes one"):
        Population(tmp_path / "p")


@settings(
    max_examples=500,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(data=st.data())
def test_an_altered_header_is_refused_or_means_the_same(data: Any, tmp_path: Path) -> None:
    path = tmp_path / "p" / "labels.npy"
    if not path.exists():
        stored(tmp_path)
    content = path.read_bytes()
    place = data.draw(st.integers(0, 127))
    part = data.draw(st.binary(min_size=1, max_size=8))
    path.write_bytes((content[:place] + part + content[place + len(part) :])[: len(content)])
    try:
        population = Population(tmp_path / "p")
    except PopulationError as error:
        told = str(error)
    else:
        told = "labels.npy" * (len(population[2].training_rows()) == 30)
    path.write_bytes(content)
    assert "labels.npy" in told


def test_altered_rows_are_told_when_an_index_is_made(tmp_path: Path) -> None:
    population = stored(tmp_path)
    codes = np.lib.format.open_memmap(tmp_path / "p" / "codes.npy", "r+")
    codes[10] = np.nan
    codes.flush()
    with pytest.raises(ValueError, match=r"device 2 of p: 1 of 30 rows hold NaN"):
        _ = population[2].index
    assert len(population[0].index) == 7


# -- many -----------------------------------------------------------------------------------------

MANY = """
import resource, sys, time
import numpy as np
from fedlab.device.population import Population, write_population

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if MAC else 1 << 10)

MAC = sys.platform == "darwin"
count, step = 200_000, 2_000

def blocks():
    draw = np.random.default_rng(0)
    for _ in range(count // step):
        sizes = draw.integers(0, 41, step)
        x = draw.standard_normal((sizes.sum(), 16), dtype=np.float32)
        yield sizes, x, draw.integers(0, 10, len(x))

next(blocks())
before = peak()
ids = map("ward {}".format, range(count))
write_population(sys.argv[1], blocks=blocks(), dimensions=16, ids=ids)
began = time.perf_counter()
population = Population(sys.argv[1])
opened = time.perf_counter() - began
began = time.perf_counter()
some = np.random.default_rng(1).integers(0, count, 1_000)
devices = [population[place] for place in some]
rows = [device.training_rows() for device in devices]
asked = time.perf_counter() - began
assert sum(map(len, rows)) == population.rows[some].sum()
assert [device.id for device in devices] == [f"ward {place}" for place in some]
print(peak() - before, opened, asked)
"""


def test_200_000_devices_are_written_in_little_memory_and_opened_at_once(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="no such measure on Windows")
    megabytes, opened, asked = map(float, run_child(MANY, tmp_path / "p").split())
    size = sum(path.stat().st_size for path in (tmp_path / "p").iterdir())
    assert size > 250e6
    # Ids take most: 200,000 of them, given at once.
    assert megabytes < 64
    assert opened < 0.5
    assert asked < 0.5


def test_text_that_grows_is_kept_whole(tmp_path: Path) -> None:
    ids = ["x" * length for length in range(1, 257)]
    named = [(name, np.ones((1, 6)), [name[:-1]]) for name in ids]
    population = stored(tmp_path, named)
    assert list(population.ids) == ids
    assert [device.labels.item() for device in population] == [name[:-1] for name in ids]


def test_numbers_can_be_learned_too(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 6))
    y = x @ np.arange(6) + 1
    population = stored(tmp_path, [(x[:30], y[:30]), (x[30:], y[30:])], metric="l2sq")
    federation = Federation(population, LinearRegression(6), local=LocalSGD(batch_size=None))
    federation.run(rounds=400)
    np.testing.assert_allclose(federation.parameters, [0, 1, 2, 3, 4, 5, 1], atol=1e-3)


def test_devices_are_written_with_their_rows_ids_and_profiles(tmp_path: Path) -> None:
    devices = []
    for place, speed in enumerate((1e6, 1.25e6, 3e6)):
        index = VectorIndex(2, "l2sq")
        index.add(np.full((place + 1, 2), place), labels=[place] * (place + 1))
        devices.append(Device(f"ward {place}", index, Profile(bandwidth=speed)))
    write_population(tmp_path / "wards", devices, dimensions=2, metric="l2sq")
    stored = Population(tmp_path / "wards")
    assert [device.id for device in stored] == [device.id for device in devices]
    assert [device.profile for device in stored] == [device.profile for device in devices]
    for one, other in zip(stored, devices, strict=True):
        np.testing.assert_array_equal(one.training()[0], other.training()[0])
    with pytest.raises(TypeError, match="choose one of the two"):
        write_population(
            tmp_path / "mixed", [devices[1], ("ward 9", np.eye(2), [0, 1])], dimensions=2
        )
