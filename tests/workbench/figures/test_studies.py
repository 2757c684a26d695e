"""Figures of studies draw what their frames say, on the axes that were given, with units."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot

from fedlab.metrics import mean_interval
from fedlab.study import effects, finals, pareto
from fedlab.workbench.figures import plot_contest, plot_effects, plot_pareto
from tests.study.test_comparing import frame_of, table_of


@pytest.fixture(autouse=True)
def canvas():
    mpl.use("agg")
    yield
    pyplot.close("all")


def curves(seeds=3):
    draw = np.random.default_rng(0)
    runs = [
        (
            {"way": way, "lr": lr, "seed": seed},
            {},
            ("accuracy", draw.random(4)),
            ("bytes_up", [2e6] * 4),
        )
        for way in ("fedavg", "scaffold")
        for lr in (0.1, 1.0)
        for seed in range(seeds)
    ]
    return frame_of(runs)


def test_a_line_is_the_mean_over_seeds_and_its_band_students_interval():
    frame = curves()
    _, ax, lines = plot_contest(frame, "way", "accuracy")
    mine = frame[(frame.way == "scaffold") & (frame.metric == "accuracy")]
    by_seed = mine.groupby(["round", "seed"]).value.mean()
    means = by_seed.groupby("round").mean()
    first, second = ax.get_lines()
    np.testing.assert_allclose(second.get_ydata(), means)
    np.testing.assert_allclose(first.get_xdata(), [1, 2, 3, 4])
    band = ax.collections[1].get_paths()[0].vertices
    told = mean_interval(by_seed.loc[2])
    at = band[np.isclose(band[:, 0], 2)][:, 1]
    assert (at.min(), at.max()) == pytest.approx((told.low, told.high))
    title = "".join(map(ax.get_title, ("left", "center", "right")))
    assert title == "mean of 3 seeds, and Student's 95% interval"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("round", "accuracy")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["fedavg", "scaffold"]
    assert list(lines) == ["round", "seed", "fedavg", "scaffold"]


def test_bytes_are_drawn_in_megabytes_and_one_seed_has_no_band():
    _, ax, lines = plot_contest(curves(seeds=1), "way", "bytes_up")
    assert ax.get_ylabel() == "bytes up (MB)"
    assert set(ax.get_lines()[0].get_ydata()) == {2.0}
    assert not ax.collections
    assert set(lines.fedavg) == {2e6}
    with pytest.raises(ValueError, match="metric by round is 'f1'; choose one of accuracy, bytes"):
        plot_contest(curves(), "way", "f1")


def test_contestants_may_be_numbers():
    _, ax, lines = plot_contest(curves(), "lr", "accuracy")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["0.1", "1.0"]
    assert len(ax.collections) == 2  # a band each
    assert list(lines) == ["round", "seed", "0.1", "1.0"]


def test_a_contestant_may_be_none_and_unequal_seeds_are_told():
    frame = curves()
    frame = frame[(frame.way == "scaffold") | (frame.seed < 2)]
    frame = frame.assign(way=frame.way.where(frame.way != "fedavg", None))
    _, ax, lines = plot_contest(frame, "way", "accuracy")
    assert list(lines) == ["round", "seed", "None", "scaffold"]
    title = "".join(map(ax.get_title, ("left", "center", "right")))
    assert title == "mean of 2 to 3 seeds, and Student's 95% interval"


def test_effects_stand_where_the_frame_says_with_their_shares():
    told = effects(
        table_of(lambda lr, seed: lr + 0.1 * seed, lr=[0.1, 1.0], seed=[0, 1]), "accuracy"
    )
    figure, ax, frame = plot_effects(told, xlabel="accuracy")
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "lr = 0.1",
        "lr = 1.0",
        "seed = 0",
        "seed = 1",
    ]
    drawn = np.concatenate([each.lines[0].get_xdata() for each in ax.containers])
    np.testing.assert_allclose(drawn, frame["mean"])
    assert [each.lines[0].get_xydata()[:, 1].tolist() for each in ax.containers] == [[0, 1], [2, 3]]
    bars = [bar[:, 0].tolist() for bar in ax.containers[0].lines[2][0].get_segments()]
    assert bars == [pytest.approx(ends) for ends in frame[["low", "high"]][:2].to_numpy().tolist()]
    texts = [t.get_text() for t in figure.legends[0].get_texts()]
    assert texts == ["lr: 99%", "seed: 1%"]
    title = "".join(map(ax.get_title, ("left", "center", "right")))
    assert title == "below: how much of the variance each explains"
    assert ax.get_xlabel() == "accuracy"


def both():
    runs = [
        ({"lr": lr, "seed": seed}, {"accuracy": accuracy, "bytes": bytes})
        for lr, accuracy, bytes in [(0.1, 0.5, 1e6), (0.5, 0.7, 2e6), (1.0, 0.6, 3e6)]
        for seed in range(2)
    ]
    return finals(frame_of(runs))


def test_the_front_is_drawn_apart_from_what_is_beaten():
    ways = {"accuracy": "higher", "bytes": "lower"}
    figure, ax, frame = plot_pareto(both(), ways)
    assert frame.lr[frame.front].tolist() == pareto(both(), ways).lr.tolist() == [0.1, 0.5]
    np.testing.assert_allclose(ax.collections[0].get_offsets(), [[3, 0.6]])
    [line] = ax.get_lines()
    np.testing.assert_allclose(line.get_xydata(), [[1, 0.5], [2, 0.7]])
    assert line.get_drawstyle() == "steps-post"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("sent and received (MB)", "accuracy")
    assert [t.get_text() for t in ax.texts] == ["lr 0.1", "lr 0.5"]
    figure.draw_without_rendering()
    with pytest.raises(ValueError, match="two metrics or more"):
        plot_pareto(both(), {"accuracy": "higher"})


def test_they_draw_on_given_axes():
    _, given = pyplot.subplots(1, 3)
    told = effects(both(), "accuracy")
    assert plot_contest(curves(), "way", "accuracy", ax=given[0])[1] is given[0]
    assert plot_effects(told, xlabel="accuracy", ax=given[1])[1] is given[1]
    assert plot_pareto(both(), {"accuracy": "higher", "bytes": "lower"}, ax=given[2])[1] is given[2]
