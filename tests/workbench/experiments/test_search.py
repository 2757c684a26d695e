"""The search engine of the notebook: what it compares, counts, draws and answers."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot

from fedlab.data import text_encoder
from fedlab.data.partitions.partition import iid
from fedlab.data.partitions.schemes import dirichlet
from fedlab.device.device import Device
from fedlab.index.vectorindex import VectorIndex
from fedlab.search import FederatedSearch, judge
from fedlab.search.queries import QUERY_TYPES, bytes_a_query
from fedlab.workbench import figures
from fedlab.workbench.experiments import search as searching
from fedlab.workbench.notebook import TextSearch, cells, query_box
from tests.helpers import clustered, filled, gaussians

PUBLIC = [f"{a} {b} {c}" for a in ("cat", "dog", "moon") for b in ("river", "tree")
          for c in ("sun", "rain", "snow")]  # fmt: skip


@pytest.fixture(autouse=True)
def canvas():
    mpl.use("agg")
    yield
    pyplot.close("all")


def devices(rows, count=6):
    """Rows in `count` runs, keys their places: neighbours in number are neighbours in space."""
    order = np.argsort(rows[:, 0])
    made = []
    for name, part in enumerate(np.array_split(order, count)):
        index = VectorIndex(rows.shape[1], "l2sq")
        index.add(rows[part], keys=part)
        made.append(Device(f"d{name}", index))
    return made


def test_the_federated_answer_is_compared_with_brute_force():
    rows, queries = clustered(240, 8), clustered(20, 8, seed=3)
    nearest = ((rows[None] - queries[:, None]) ** 2).sum(axis=2).argsort(axis=1)
    truth = [{int(key)} for key in nearest[:, 2]]  # the third nearest is the right one
    compared = searching.compare_searches(
        devices(rows), queries, 5, lambda keys, found: judge(keys, truth, found)
    )
    for name in ("one index over all rows", "federated, exact"):
        assert compared.table.loc[name, "recall@5"] == 1
        assert compared.table.loc[name, "MRR"] == pytest.approx(1 / 3)
        assert compared.table.loc[name, "nDCG@5"] == pytest.approx(1 / 2)
    assert compared.farthest < 1e-9
    assert compared.hits.certified.all()
    # Each right row lies on one device, which finds it, since it is nearer than its others.
    assert compared.alone["success@5"].sum() == pytest.approx(1)
    best = compared.table.loc["the best device alone"]
    assert best["nDCG@5"] == compared.alone["nDCG@5"].max()
    sent = compared.hits.ledger.bytes / 20
    assert compared.table.loc["federated, exact", "bytes a query"] == pytest.approx(sent)


def test_ways_find_less_as_they_send_less():
    ways = searching.recall_against_bytes(
        devices(clustered(240, 8)), clustered(20, 8, seed=3), 5,
        firsts=(1, 5), asks=(1, 3, 6), types=("f32", "b1"), seed=0,
    )  # fmt: skip
    exact = ways[ways.way == "exact, by k'"]
    assert exact.recall.tolist() == exact.certified.tolist() == [1, 1]
    assert exact.once.tolist() == [0, 0]
    routed = ways[ways.way == "routed, devices asked"]
    assert routed.recall.is_monotonic_increasing
    assert routed.bytes.is_monotonic_increasing
    assert routed.recall.iloc[-1] == 1  # all six were asked
    assert (routed.once > 0).all()
    whole, bits = ways[ways.way == "all devices, query in"].itertuples()
    assert whole.recall == 1
    assert bits.bytes < whole.bytes


@pytest.fixture(scope="module")
def ways():
    """20,000 rows of a mixture of 50 Gaussians on 50 devices, dealt at random and by Dirichlet."""
    rows, of_row, queries = gaussians(rows=20_000, queries=100)
    splits = {"iid": iid(len(rows), 50, 0), "skewed": dirichlet(of_row, 50, 0.1, 0)}
    return {
        name: searching.recall_against_bytes(
            [Device(place, filled(rows[part])) for place, part in enumerate(split.rows)],
            queries, 10, firsts=(2, 10), asks=(5, 10, 20, 50), types=QUERY_TYPES, seed=0,
        )
        for name, split in splits.items()
    }  # fmt: skip


def recalls(frame, way):
    return frame[frame.way == way].set_index("setting").recall


def test_routing_pays_where_devices_differ(ways):
    """As in shared measurements: .74 / .86 / .93 of 50 devices skewed, .20 / .34 / .56 IID."""
    found = {name: recalls(frame, "routed, devices asked") for name, frame in ways.items()}
    few = ["5", "10", "20"]
    assert found["iid"]["50"] == found["skewed"]["50"] == 1.0
    assert (found["skewed"][few] > [0.7, 0.85, 0.92]).all()
    assert (found["iid"][few] < [0.25, 0.4, 0.6]).all()
    # Little better than asking m of 50 at random.
    assert (found["iid"][few] > [0.1, 0.2, 0.4]).all()


def test_a_byte_a_number_loses_next_to_nothing_and_a_bit_loses_much(ways):
    for frame in ways.values():
        by_type = recalls(frame, "all devices, query in")
        assert (recalls(frame, "exact, by k'") == 1).all()
        assert by_type["f32"] == 1
        assert (by_type[["f16", "bf16", "i8"]] > 0.98).all()
        assert 0.2 < by_type["b1"] < 0.9
        # What is measured again in full is in order: i8 loses no more than routing does.
        routed = recalls(frame, "routed, devices asked")
        assert (recalls(frame, "routed, and query in i8") > routed - 0.02).all()


def test_bytes_are_what_the_formula_says():
    rows, _, queries = gaussians(rows=2_000, queries=50)
    members = devices(rows, 10)
    # For one hit there is one round: all devices are asked for it at once.
    frame = searching.recall_against_bytes(
        members, queries, 1, firsts=(1,), asks=(1, 4), types=QUERY_TYPES, seed=0
    )
    frame = frame[frame.way != "routed, and query in i8"]
    sent = [*["f32"] * 3, *QUERY_TYPES]
    sizes = np.array([bytes_a_query(rows.shape[1], name) for name in sent])
    # Beside queries, hits and counts: 36 bytes a message, shared by the queries in it.
    rest = frame.bytes - np.array([10, 1, 4, *[10] * len(QUERY_TYPES)]) * (sizes + 16 + 4)
    assert (rest > 0).all()
    assert (rest <= 36 * 10 / 50 + 1e-9).all()


def engine():
    encoder = text_encoder("hashing", public=PUBLIC, dimensions=6)
    vectors = encoder(PUBLIC)
    parts = []
    for name, part in (("odd", slice(1, None, 2)), ("even", slice(0, None, 2))):
        index = VectorIndex(6)
        index.add(vectors[part], keys=np.arange(len(PUBLIC))[part])
        parts.append(Device(name, index))
    return TextSearch(FederatedSearch(parts), encoder, PUBLIC, k=3)


def test_an_engine_answers_in_words():
    table, said = engine().ask("moon tree snow")
    assert table.text[0] == "moon tree snow"
    assert table.distance[0] == pytest.approx(0, abs=1e-6)
    assert set(table.device) <= {"odd", "even"}
    assert "3 hits" in said
    assert "proven exact" in said
    with pytest.raises(ValueError, match="no word of 'zzz' is known"):
        engine().ask("zzz")


def test_in_a_batch_the_box_leaves_its_first_answer(capsys):
    assert query_box(engine(), "dog river") is None
    assert "'dog river': 3 hits from" in capsys.readouterr().out


def test_live_the_box_answers_what_is_typed(monkeypatch):
    pytest.importorskip("ipywidgets")
    monkeypatch.setattr(cells, "is_batch", lambda: False)
    shown = []
    monkeypatch.setattr("fedlab.workbench.notebook.text_search.display", shown.append)
    box = query_box(engine(), "dog river")
    assert shown[0].text.str.contains("dog river").all()
    box.children[0].value = "moon tree snow"
    assert shown[-1].text[0] == "moon tree snow"


def test_what_a_box_can_not_answer_it_says(monkeypatch, capsys):
    pytest.importorskip("ipywidgets")
    monkeypatch.setattr(cells, "is_batch", lambda: False)
    monkeypatch.setattr("fedlab.workbench.notebook.text_search.display", lambda _: None)
    query_box(engine(), "zzz")
    assert "no word of 'zzz' is known" in capsys.readouterr().out


def test_recall_is_drawn_against_bytes():
    points = pd.DataFrame({
        "way": ["exact", "exact", "routed", "routed"], "setting": ["k' = 1", "k' = 2", "1", "5"],
        "recall": [1.0, 1.0, 0.2, 0.9], "bytes": [9000, 4000, 500, 2500],
    })  # fmt: skip
    figure, ax, frame = figures.plot_recall_bytes(points)
    first, second = ax.get_lines()
    assert first.get_xdata().tolist() == [4000, 9000]
    assert second.get_ydata().tolist() == [0.2, 0.9]
    assert [text.get_text() for text in ax.texts] == ["k' = 2", "1", "5"]
    assert ax.get_xscale() == "log"
    assert frame is points
    assert figure is ax.figure
    assert ax.xaxis.get_major_formatter()(10_000, 0) == "10 kB"
