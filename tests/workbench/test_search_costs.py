"""Recall against bytes: the shape that is known, and figures that draw what they say."""

from __future__ import annotations

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot

from fedlab import Device
from fedlab.data.partitions import iid
from fedlab.data.splits import dirichlet
from fedlab.search import FederatedSearch
from fedlab.search.quantised import bytes_a_query
from fedlab.workbench.search_costs import (
    federated_recall,
    plot_recall_against_bytes,
    recall_against_bytes,
)
from tests.helpers import filled

DEVICES, COMPONENTS, D, QUERIES = 50, 50, 64, 100


@pytest.fixture(autouse=True)
def canvas():
    mpl.use("agg")
    yield
    pyplot.close("all")


def mixture(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """20,000 rows of a mixture of 50 Gaussians, whose each they are, and queries from the same."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(COMPONENTS, D))
    of_row, of_query = (
        draw.integers(COMPONENTS, size=20_000),
        draw.integers(COMPONENTS, size=QUERIES),
    )
    rows = centres[of_row] + draw.normal(size=(20_000, D))
    queries = centres[of_query] + draw.normal(size=(QUERIES, D))
    return np.float32(rows), of_row, np.float32(queries)


@pytest.fixture(scope="module")
def measured() -> dict[str, pd.DataFrame]:
    rows, of_row, queries = mixture()
    splits = {"iid": iid(len(rows), DEVICES, 0), "skewed": dirichlet(of_row, DEVICES, 0.1, 0)}
    frames = {}
    for name, split in splits.items():
        devices = [Device(place, filled(rows[part])) for place, part in enumerate(split.rows)]
        frames[name] = recall_against_bytes(devices, queries, 10, ask=[5, 10, 20, 50])
    return frames


def test_routing_pays_where_devices_differ(measured):
    """As in shared measurements: .74 / .86 / .93 of 50 devices skewed, .20 / .34 / .56 IID."""
    recalls = {
        name: frame[frame["query"] == "f32"].set_index("ask").recall
        for name, frame in measured.items()
    }
    assert recalls["iid"][50] == recalls["skewed"][50] == 1.0
    assert (recalls["skewed"][[5, 10, 20]] > [0.7, 0.85, 0.92]).all()
    assert (recalls["iid"][[5, 10, 20]] < [0.25, 0.4, 0.6]).all()
    # Little better than asking m of 50 at random.
    assert (recalls["iid"][[5, 10, 20]] > [0.1, 0.2, 0.4]).all()


def test_a_byte_a_number_loses_next_to_nothing_and_a_bit_loses_much(measured):
    for frame in measured.values():
        by_query = frame.set_index(["query", "ask"]).recall
        assert (by_query["i8"] > by_query["f32"] - 0.02).all()
        assert 0.2 < by_query["b1"][50] < 0.9


def test_bytes_are_what_the_formula_says(measured):
    for frame in measured.values():
        sizes = np.array([bytes_a_query(D, sent) for sent in frame["query"]])
        # Beside queries, hits and counts: 36 bytes a message, shared by the queries in it.
        rest = frame.bytes - frame.ask * (sizes + 16 * 10 + 4)
        assert (rest > 0).all()
        assert (rest <= 36 * DEVICES / QUERIES).all()
        np.testing.assert_array_equal(frame.devices, frame.ask)


def test_measuring_again_lifts_the_recall_of_one_bit_a_number():
    rows, of_row, queries = mixture(seed=1)
    split = dirichlet(of_row[:4000], 10, 0.1, 0)
    devices = [Device(place, filled(rows[part])) for place, part in enumerate(split.rows)]
    costs = [
        recall_against_bytes(devices, queries, 10, ask=[10], query=["b1"], rescore=rescore)
        for rescore in (0, 40, 160)
    ]
    recalls = [cost.recall[0] for cost in costs]
    assert recalls[0] + 0.2 < recalls[1] < recalls[2] - 0.05
    assert costs[0].bytes[0] < costs[1].bytes[0] < costs[2].bytes[0]


def test_the_figure_draws_a_line_for_each_way_to_send_a_query(measured):
    frame = measured["skewed"]
    _, ax, data = plot_recall_against_bytes(frame)
    assert [line.get_label() for line in ax.get_lines()] == ["f32", "i8", "b1"]
    np.testing.assert_allclose(ax.get_lines()[1].get_ydata(), frame[frame["query"] == "i8"].recall)
    np.testing.assert_allclose(
        ax.get_lines()[0].get_xdata(), frame[frame["query"] == "f32"].bytes / 1e3
    )
    assert "kB" in ax.get_xlabel()
    assert data is frame
    with pytest.raises(ValueError, match="several"):
        plot_recall_against_bytes(pd.concat([frame, frame.assign(engine="graph")]))


def test_graphs_and_first_rounds_are_measured_too():
    rows, _, queries = mixture(seed=2)
    devices = [Device(place, filled(part)) for place, part in enumerate(np.split(rows[:2000], 4))]
    frame = recall_against_bytes(
        devices, queries, 5, ask=[4], query=["f16"], first=[2, 5], engines=["scan", "graph"]
    )
    by_engine = frame.set_index(["engine", "first"])
    scans = by_engine.loc["scan"]
    assert (scans.recall > 0.98).all()
    assert scans.recall[2] == scans.recall[5]
    assert scans.bytes[2] != scans.bytes[5]
    assert (by_engine.loc["graph"].recall > 0.95).all()


def test_recall_counts_device_and_key():
    devices = [Device(place, filled(np.eye(3, dtype=np.float32) + place)) for place in range(2)]
    truth = FederatedSearch(devices).search(np.eye(3), 4)
    assert federated_recall(truth, truth) == 1.0
    other = replace(truth, devices=1 - truth.devices)
    same = [
        len({*zip(*a, strict=True)} & {*zip(*b, strict=True)})
        for a, b in zip(
            zip(truth.devices.tolist(), truth.keys.tolist(), strict=True),
            zip(other.devices.tolist(), other.keys.tolist(), strict=True),
            strict=True,
        )
    ]
    assert federated_recall(other, truth) == sum(same) / 12
    empty = FederatedSearch([Device(0, filled(np.empty((0, 3), np.float32)))])
    assert federated_recall(*[empty.search(np.eye(3), 4)] * 2) == 1.0
