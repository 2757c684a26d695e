"""The leak meter's figure draws recall against the strongest attack, and says which it was."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot

from fedlab.workbench.figures.leaks import plot_grid, plot_images, plot_leaks, trade_frame

COLUMNS = ["protection", "setting", "kind", "attacker", "metric", "seed", "value", "chance"]


@pytest.fixture(autouse=True)
def canvas():
    mpl.use("agg")
    yield
    pyplot.close("all")


def frame():
    rows = []
    for seed, more in ((0, -0.1), (1, 0.1)):
        rows += [
            ("noise", "σ=1", "x", "", "recall@10", seed, 0.5 + more, 0.1),
            ("noise", "σ=1", "x", "holder", "linkage", seed, 0.6 + more, 0.2),
            ("noise", "σ=1", "x", "holder", "membership", seed, 0.9, 0.5),
            ("noise", "σ=1", "x", "asker", "membership", seed, 0.4, 0.5),
            ("noise", "σ=2", "x", "", "recall@10", seed, 0.2, 0.1),
            ("noise", "σ=2", "x", "holder", "linkage", seed, 0.36, 0.2),
            ("shares", "", "x", "", "recall@10", seed, 1.0, 0.1),
            ("shares", "", "x", "holder", "linkage", seed, 0.2, 0.2),
            ("shares", "", "x", "asker", "membership", seed, 1.0, 0.5),
            ("counts", "ε=1", "x", "asker", "membership", seed, 0.7, 0.5),
        ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_the_strongest_attack_is_measured_from_its_chance():
    trade = trade_frame(frame(), "holder")
    assert trade.protection.tolist() == ["noise", "noise", "shares"]
    assert trade.recall.tolist() == pytest.approx([0.5, 0.2, 1.0])
    # membership: (.9 - .5) / (1 - .5) = .8 beats linkage: (.6 - .2) / (1 - .2) = .5
    assert trade.success.tolist() == pytest.approx([0.8, 0.2, 0.0])
    assert trade.attack.tolist() == ["membership", "linkage", "linkage"]


def test_below_chance_counts_as_chance_and_counts_have_no_recall():
    trade = trade_frame(frame(), "asker")
    assert trade.success.tolist() == pytest.approx([0.0, 1.0])
    assert "counts" not in set(trade.protection)


def test_a_marker_lies_where_the_frame_says():
    figure, ax, trade = plot_leaks(frame())
    drawn = np.concatenate([dots.get_offsets() for dots in ax.collections])
    np.testing.assert_allclose(drawn, trade[["success", "recall"]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["noise", "shares"]
    assert {text.get_text() for text in ax.texts} == {"σ=1", "σ=2"}
    assert "holder" in ax.get_xlabel()
    assert ax.figure is figure


def test_it_draws_on_given_axes():
    _, given = pyplot.subplots()
    assert plot_leaks(frame(), attacker="asker", ax=given)[1] is given


def test_a_frame_without_attacks_is_refused():
    lone = frame().query("attacker == ''")
    with pytest.raises(ValueError, match="0 attacks of the holder"):
        plot_leaks(lone)


def test_a_grid_says_every_number_and_a_colour_means_the_same_in_all_panels():
    names = {"index": ["mean", "median"]}
    even = pd.DataFrame({"none": [0.9, 0.88], "flip": [0.1, np.nan]}, **names)
    skewed = pd.DataFrame({"none": [0.5, 1.0], "flip": [0.3, 0.4]}, **names)
    figure, panels, told = plot_grid({"IID": even, "skewed": skewed}, label="accuracy")
    said = [[text.get_text() for text in ax.texts] for ax in panels]
    assert said == [[".90", ".10", ".88", "-"], [".50", ".30", "1.00", ".40"]]
    assert {ax.images[0].get_clim() for ax in panels} == {(0.1, 1.0)}
    assert [t.get_text() for t in panels[0].get_xticklabels()] == ["none", "flip"]
    assert [t.get_text() for t in panels[0].get_yticklabels()] == ["mean", "median"]
    assert [t.get_color() for t in panels[1].texts] == ["k", "k", "w", "k"]
    assert told.loc["skewed"].equals(skewed)
    assert figure.axes[-1].get_ylabel() == "accuracy"


def test_images_stand_side_by_side_each_on_its_own_scale():
    rows = {"the row": np.arange(6.0), "what was read": 100 * np.arange(6.0)[None]}
    _, panels, told = plot_images(rows, 3)
    # Which of the three a title is follows from the style, and with it from other tests.
    titles = ["".join(map(ax.get_title, ("left", "center", "right"))) for ax in panels]
    assert titles == list(rows)
    for ax, pixels in zip(panels, rows.values(), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), np.reshape(pixels, (2, 3)))
        assert ax.images[0].get_clim() == (pixels.min(), pixels.max())
    assert list(told["what was read"]) == [0, 100, 200, 300, 400, 500]
