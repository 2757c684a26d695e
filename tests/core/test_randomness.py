from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedlab.core.randomness import Purpose, address_of, generator
from tests.helpers import run_child


def first(*address: Any, **more: Any) -> int:
    return int(generator(*address, **more).integers(2**63))


def test_the_same_address_gives_the_same_stream_whatever_was_drawn_between() -> None:
    one = generator(3, Purpose.BATCHES, round=2, device="ward", part=1).random(100)
    generator(3, Purpose.BATCHES, round=2, device="ward", part=0).random(1000)
    np.testing.assert_array_equal(
        one, generator(3, Purpose.BATCHES, round=2, device="ward", part=1).random(100)
    )


def test_the_stream_is_philox_at_the_address() -> None:
    bits = np.random.Philox(
        counter=np.array([0, 5, 7, 2], np.uint64), key=np.array([3, 4], np.uint64)
    )
    expected = np.random.Generator(bits).random(10)
    drawn = generator(3, Purpose.BATCHES, round=2, device=7, part=5).random(10)
    np.testing.assert_array_equal(drawn, expected)


def test_published_numbers_stand() -> None:
    # A change here changes every published result: it wants a new major version.
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "PARTITION": 1,
        "INITIAL": 2,
        "COHORT": 3,
        "BATCHES": 4,
        "VALIDATION": 5,
        "RESAMPLING": 6,
        "BUILD": 7,
        "STRAGGLERS": 8,
        "FEATURE_NOISE": 9,
        "SYNTHETIC": 10,
        "PROJECTION": 11,
        "ROUTING": 12,
        "RELEASE": 14,
        "ATTACK": 15,
        "PROTECTION": 16,
        "CODEBOOK": 17,
        "MODEL": 18,
        "UNSEEN": 19,
        "ROWS": 20,
        "BYZANTINE": 21,
        "CODEC": 22,
        "REACHABLE": 30,
        "DROPOUT": 31,
        "PROFILES": 32,
        "SECURE_SUM": 40,
        "SIMULATED_NOISE": 50,
        "PRIVATE_ROWS": 60,
        "GRAPH": 70,
        "STUDY": 80,
        "VALIDATORS": 90,
        "FEDEX": 91,
        "CANDIDATES": 92,
    }
    drawn = generator(0, Purpose.BATCHES, round=3, device="Cleveland").random(2)
    np.testing.assert_array_equal(drawn.round(8), [0.74185022, 0.7655658])


def test_streams_at_different_addresses_differ() -> None:
    words = [0, 1, 2, 2**32, 2**63, 2**64 - 1]
    drawn = [first(seed, Purpose.COHORT) for seed in words]
    drawn += [first(0, purpose) for purpose in Purpose if purpose != Purpose.COHORT]
    drawn += [first(0, Purpose.COHORT, round=word) for word in words[1:]]
    drawn += [first(0, Purpose.COHORT, device=word) for word in words[1:]]
    drawn += [first(0, Purpose.COHORT, part=word) for word in words[1:]]
    drawn += [first(0, Purpose.COHORT, device=name) for name in ("", "0", "1", "a")]
    assert len(set(drawn)) == len(drawn)


def test_neighbouring_streams_do_not_overlap_or_correlate() -> None:
    streams = np.array([generator(0, Purpose.COHORT, round=r).normal(size=2000) for r in range(20)])
    correlations = np.corrcoef(streams)[np.triu_indices(20, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(2000)
    assert len(np.unique(streams)) == streams.size


def test_names_mean_the_same_in_every_process() -> None:
    code = "from fedlab.core.randomness import address_of; print(address_of('Zürich'))"
    assert int(run_child(code)) == int(run_child(code)) == address_of("Zürich")


@pytest.mark.parametrize("name", ["seed", "round", "device", "part"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (2**64, ValueError), (1.5, TypeError), (True, TypeError), (None, TypeError)],
)
def test_what_is_no_address_is_refused(name: str, value: Any, error: type[Exception]) -> None:
    address: dict[str, Any] = {"seed": 0, "purpose": Purpose.BATCHES, name: value}
    with pytest.raises(error, match=f"{name} is {value}"):
        generator(**address)


def test_an_unknown_purpose_is_refused() -> None:
    with pytest.raises(ValueError, match="99"):
        generator(0, 99)  # type: ignore[arg-type]
