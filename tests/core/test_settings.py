"""Settings are told apart by what they are made of, the same in each process."""

import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property, partial
from threading import Lock

import numpy as np
import pandas as pd
import pytest

from fedlab.core.settings import described


class Plain:
    def __init__(self, rate=0.1, layers=(1, 2)):
        self.rate, self.layers = rate, list(layers)

    @cached_property
    def derived(self):
        return Lock()


class Slotted:
    __slots__ = ("rate",)

    def __init__(self, rate):
        self.rate = rate


@dataclass
class Remembering:
    rate: float = 0.1

    def __post_init__(self):
        self.count = 0


def closure(number):
    return lambda device: device + number


PAIRS = {
    "numbers": (0.5, 0.25),
    "text": ("a", "b"),
    "arrays": (np.arange(3), np.array([0, 1, 3])),
    "types of arrays": (np.arange(3.0), np.arange(3)),
    "arrays of objects": (np.array(["a", None]), np.array(["b", None])),
    "objects": (Plain(0.1), Plain(0.2)),
    "objects within objects": (Plain(layers=[Plain(1)]), Plain(layers=[Plain(2)])),
    "slots": (Slotted(1), Slotted(2)),
    "dataclasses": (Remembering(1), Remembering(2)),
    "functions": (lambda v: v + 1, lambda v: v + 2),
    "names in functions": (lambda v: np.sin(v), lambda v: np.cos(v)),
    "functions within functions": (lambda v: lambda: v * 2, lambda v: lambda: v * 3),
    "closures": (closure(1), closure(2)),
    "defaults": (partial(max, 1), partial(max, 2)),
    "methods": (Plain(1).__init__, Plain(2).__init__),
    "generators": (np.random.default_rng(0), np.random.default_rng(1)),
    "frames": (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]})),
    "mappings": ({1: 2}, {1: 3}),
    "sets": ({1, 2}, {1, 3}),
    "classes": (Plain, Slotted),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_things_that_differ_are_told_apart(kind):
    one, other = PAIRS[kind]
    assert described(one) == described(one) != described(other)


def test_what_is_the_same_is_told_alike():
    assert described(np.float64(0.5)) == described(0.5)
    assert described({1: 2, 3: 4}) == described({3: 4, 1: 2})
    assert described(Plain()) == described(Plain())
    used = Plain()
    assert used.derived is used.derived  # an attribute now, and nothing that was set
    assert described(used) == described(Plain())


def test_what_an_object_remembers_is_told():
    one = Remembering()
    before = described(one)
    one.count += 1
    assert described(one) != before


@pytest.mark.parametrize("thing", [Lock(), (n for n in [1]), Plain(Lock())])
def test_what_has_no_content_to_tell_is_refused_by_name(thing):
    with pytest.raises(TypeError, match=r"the stage of class .* make it a dataclass"):
        described(thing, "the stage")


def test_a_thing_that_holds_itself_is_refused():
    loop: list = []
    loop.append(loop)
    with pytest.raises(TypeError, match="can't be told"):
        described(loop)


def test_words_are_the_same_in_each_process():
    program = (
        "from tests.core.test_settings import PAIRS; from fedlab.core.settings import described;"
        "print([described(thing) for pair in PAIRS.values() for thing in pair])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
