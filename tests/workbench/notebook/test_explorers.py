"""A look at a split before anything is computed, and at one device after that."""

from __future__ import annotations

from typing import Any

import ipywidgets
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from scipy import stats

from fedlab import Device, Federation, LocalSGD, SoftmaxRegression, VectorIndex
from fedlab.data import label_table
from fedlab.training import train_cohort
from fedlab.workbench.notebook import cells, drill_down, explorers, split_explorer

LABELS = np.repeat(np.arange(5), 60)


@pytest.fixture(autouse=True)
def _drawing() -> Any:
    mpl.use("agg")
    with mpl.rc_context():
        mpl.style.use(cells.STYLE)
        yield
    pyplot.close("all")


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "is_batch", lambda: False)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(cells, "is_batch", lambda: True)
    monkeypatch.setattr(cells, "show", lambda figure, alt: found.append((figure, alt)))
    return found


# -- splits ------------------------------------------------------------------------------------


def test_each_control_makes_another_split(live: None, capsys: pytest.CaptureFixture[str]) -> None:
    box = split_explorer(LABELS, devices=6, alpha=1.0, seed=0)
    controls, output = box.children
    kind, devices, alpha, k = controls.children
    assert isinstance(output, ipywidgets.Output)
    assert "Dirichlet(1) label skew over 6 devices" in capsys.readouterr().out
    alpha.value = 0.1
    assert "Dirichlet(0.1) label skew over 6 devices" in capsys.readouterr().out
    devices.value = 4
    assert "Dirichlet(0.1) label skew over 4 devices" in capsys.readouterr().out
    for name, said in [
        ("by_quantity", "quantity skew over 4 devices"),
        ("by_classes", "2 of 5 classes each over 4 devices"),
        ("shards", "2 label-sorted shards each over 4 devices"),
        ("iid", "IID over 4 devices"),
    ]:
        kind.value = name
        assert said in capsys.readouterr().out
    kind.value, k.value = "by_classes", 3
    assert "3 of 5 classes each over 4 devices" in capsys.readouterr().out
    kind.value, devices.value = "dirichlet", 100  # of 300 rows: fewer than ten each
    assert "allow 1 ... 30" in capsys.readouterr().out


def test_another_kind_of_split_is_refused_with_those_that_there_are(live: None) -> None:
    with pytest.raises(ValueError, match="choose one of dirichlet, by_classes, shards"):
        split_explorer(LABELS, devices=6, kind="even", alpha=1.0, seed=0)


def test_a_batch_run_leaves_a_figure_and_the_measures(
    shown: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert split_explorer(LABELS, devices=6, kind="shards", alpha=0.5, k=1, seed=0) is None
    [(figure, alt)] = shown
    assert len(figure.axes) == 2
    assert "shards each over 6 devices, seed 0: 50 to 50 rows each" in alt
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("label distance", "majority guess", "size Gini"))


def test_measures_of_one_label_a_device_have_closed_forms() -> None:
    _, said, measures = explorers.explored(LABELS, "shards", 5, 1.0, 1, seed=3)
    assert measures.value.to_dict() == pytest.approx(
        {
            "label distance": 1 - 1 / 5,
            "label divergence": np.log2(5),
            "labels a device": 1.0,
            "majority guess": 1.0,
            "size Gini": 0.0,
        }
    )
    assert "label distance: 0.80" in said


def test_labels_a_device_are_the_exponential_of_scipys_entropy() -> None:
    _, _, measures = explorers.explored(LABELS, "dirichlet", 6, 0.5, 1, seed=1)
    split = explorers.SPLITS["dirichlet"](LABELS, 6, 0.5, 1, 1)
    table = label_table(split, LABELS)
    mean = np.average(stats.entropy(table, axis=1), weights=split.sizes)
    assert measures.value["labels a device"] == pytest.approx(np.exp(mean))


def test_what_is_dealt_at_random_is_as_hard_as_chance() -> None:
    many = np.tile(LABELS, 10)
    _, said, measures = explorers.explored(many, "iid", 10, 1.0, 1, seed=0)
    chance = float(said.partition("chance alone would be ")[2][:4])
    assert 0 < chance < 0.1
    assert measures.value["label distance"] == pytest.approx(chance, rel=0.3)


# -- devices -----------------------------------------------------------------------------------


def device(name: str, labels: list[int], seed: int) -> Device:
    index, y = VectorIndex(4), np.repeat(labels, 10)
    draw = np.random.default_rng(seed)
    index.add(np.eye(4)[y] + 0.05 * draw.normal(size=(len(y), 4)), labels=y)
    return Device(name, index).hold_out(0.2, seed=0)


@pytest.fixture
def federation() -> Federation:
    """Three devices that agree, and one whose labels nobody else has."""
    fleet = [device(f"ward {n}", [0, 1], n) for n in range(3)] + [device("ward 9", [2, 3], 9)]
    local = LocalSGD(batch_size=None, learning_rate=0.5)
    model = SoftmaxRegression(4, 4)
    made = Federation(fleet, model, local=local, record="devices", seed=0)
    made.run(3)
    return made


def test_the_worst_is_looked_at_first(
    federation: Federation, shown: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = federation.parameters
    assert drill_down(federation, "loss") is None
    [(figure, alt)] = shown
    worst = federation.validate()["loss"].idxmax()
    assert worst == "ward 9"
    assert alt.startswith("Device('ward 9': 20 rows of 4, 4 of them held out), VectorIndex(20 rows")
    assert "number 1 of 4 from the worst" in alt
    assert "Only a simulation sees all this" in alt
    assert len(figure.axes) == 3
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    assert heights == [10, 10]
    assert "distance" in capsys.readouterr().out
    np.testing.assert_array_equal(federation.parameters, before)
    assert federation.round_number == 3


def test_updates_are_those_of_the_next_round_against_their_mean(
    federation: Federation, shown: list[Any]
) -> None:
    """By the definition of both: the change that the round makes is the weighted mean of these."""
    drill_down(federation, "train_loss")
    dots = shown[0][0].axes[2].collections[0].get_offsets()
    start = federation.parameters
    how = federation.model, start, federation.local
    trained = train_cohort(federation.devices, *how, seed=0, round=4)
    federation.run(1)
    mean = federation.parameters - start
    order = federation.history.to_frame().query("metric == 'train_loss' and round == 3")
    order = order[order.who != "server"].set_index("who").value.sort_values(ascending=False)
    names = [one.id for one in federation.devices]
    for (length, cosine), who in zip(np.asarray(dots), order.index, strict=True):
        change = trained.changes[names.index(who)]
        assert length == pytest.approx(np.linalg.norm(change) / np.linalg.norm(mean), rel=1e-4)
        expected = change @ mean / np.linalg.norm(change) / np.linalg.norm(mean)
        assert cosine == pytest.approx(expected, rel=1e-4)


def test_a_recorded_metric_is_drawn_by_round(federation: Federation, shown: list[Any]) -> None:
    drill_down(federation, "train_loss")
    lines = shown[0][0].axes[0].get_lines()
    assert [len(line.get_xdata()) for line in lines] == [3, 3, 3, 3]
    expected = federation.history.series("train_loss", "ward 9")
    np.testing.assert_allclose(lines[0].get_ydata(), expected)


def test_another_device_and_another_row_can_be_chosen(
    federation: Federation, live: None, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[np.ndarray] = []
    box = drill_down(federation, draw_row=lambda row, ax: drawn.append(row))
    devices, row = box.children[0].children
    assert {who for _, who in devices.options} == {f"ward {n}" for n in (0, 1, 2, 9)}
    devices.value = "ward 1"
    assert "Device('ward 1'" in capsys.readouterr().out
    del drawn[:]
    row.value = 7
    index = next(one for one in federation.devices if one.id == "ward 1").index
    np.testing.assert_array_equal(drawn[0], index.vectors[7])  # itself, at no distance
    assert len(drawn) == 5
    row.value = 10_000  # the last one
    np.testing.assert_array_equal(drawn[5], index.vectors[-1])


def test_rows_near_a_given_vector(
    federation: Federation, shown: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: list[pd.DataFrame] = []
    monkeypatch.setattr("fedlab.workbench.notebook.widgets.display", tables.append)
    drill_down(federation, "loss", query=np.eye(4)[3])
    [near] = tables
    index = federation.devices[3].index
    hits = index.search(np.eye(4)[3], 5)
    assert near.index.tolist() == hits.keys[0].tolist()
    assert near.distance.tolist() == hits.distances[0].round(4).tolist()
    assert near.label.tolist() == [3] * 5


def test_an_unknown_metric_is_refused_with_those_that_there_are(
    federation: Federation, shown: list[Any]
) -> None:
    with pytest.raises(ValueError, match=r"metric is 'auc'; choose one of .*accuracy"):
        drill_down(federation, "auc")
    assert shown == []
