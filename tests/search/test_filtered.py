"""A filter that travels with the queries: the answer is that of one index under the same filter."""

from __future__ import annotations

import numpy as np
import pytest

from fedlab.device.device import Device
from fedlab.index.filters import FilterError
from fedlab.index.vectorindex import VectorIndex
from fedlab.search import FederatedSearch
from tests.helpers import METRICS, normal

ROWS = 240


def wards(metric: str) -> tuple[VectorIndex, list[Device]]:
    """One index over all patients, and four devices that each hold some of them."""
    draw = np.random.default_rng(3)
    rows, keys = normal(ROWS, 10), draw.permutation(5 * ROWS)[:ROWS]
    labels = draw.integers(0, 3, ROWS)
    about = {"age": draw.integers(20, 90, ROWS), "ward": draw.choice(["A", "B"], ROWS)}
    whole = VectorIndex(10, metric)
    whole.add(rows, keys, labels, about)
    devices = []
    for number, part in enumerate(np.array_split(np.arange(ROWS), [5, 90, 91])):
        index = VectorIndex(10, metric)
        index.add(rows[part], keys[part], labels[part], {n: c[part] for n, c in about.items()})
        devices.append(Device(f"hospital {number}", index))
    return whole, devices


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "where", ["age >= 65 and ward == 'A'", "label != 1", "key < 40", "age < 0"]
)
@pytest.mark.parametrize("first", [None, 1])
def test_the_answer_is_that_of_one_index(metric: str, where: str, first: int | None) -> None:
    whole, devices = wards(metric)
    queries = normal(9, 10, seed=1)
    expected = whole.search(queries, 6, exact=True, where=where)
    hits = FederatedSearch(devices, first=first).search(queries, 6, where=where)
    assert hits.certified.all()
    assert hits.keys.tolist() == expected.keys.tolist()
    assert hits.distances.tolist() == expected.distances.tolist()
    assert hits.counts.tolist() == [min(6, int(whole.passing(where).sum()))] * 9


def test_the_filter_is_counted_with_the_queries() -> None:
    _, devices = wards("l2sq")
    search, where = FederatedSearch(devices, first=3), "age >= 0 and ward in ['A', 'B']"
    plain, filtered = (search.search(normal(4, 10), 3, where=text) for text in (None, where))
    assert filtered.keys.tolist() == plain.keys.tolist()
    assert filtered.ledger.down - plain.ledger.down == len(devices) * len(where)


def test_what_is_no_filter_is_refused_with_the_device_that_says_so() -> None:
    _, devices = wards("l2sq")
    search = FederatedSearch(devices)
    with pytest.raises(TypeError, match="across devices is text"):
        search.search(normal(1, 10), 3, where=np.ones(ROWS, bool))  # type: ignore[arg-type]
    with pytest.raises(FilterError, match=r"device 'hospital \d' can't filter: .*'weight' is no"):
        search.search(normal(1, 10), 3, where="weight > 3")


def test_graphs_answer_under_a_filter_without_a_certificate() -> None:
    _, devices = wards("l2sq")
    hits = FederatedSearch(devices, exact=False).search(normal(5, 10), 4, where="age > 30")
    assert not hits.certified.any()
    ages = {int(key): age for d in devices for key, age in d.index.metadata["age"].items()}
    assert all(ages[int(key)] > 30 for key in hits.keys[hits.found])
