"""Figures return their data, label their axes with units, and draw what they say."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot

from fedlab import Federation, SoftmaxRegression
from fedlab.federation.history import SERVER, History
from fedlab.metrics.intervals import Interval, mean_interval
from fedlab.workbench.figures import learning
from tests.federations import class_device


@pytest.fixture(autouse=True)
def canvas():
    mpl.use("agg")
    yield
    pyplot.close("all")


def history(seed):
    devices = [class_device(n, [0, 1, 2] * 8).hold_out(0.25, seed) for n in range(4)]
    return Federation(devices, SoftmaxRegression(4, 3), cohort=2, seed=seed).run(5)


def test_convergence_draws_the_mean_and_student_s_band_of_paired_seeds():
    several = [history(seed) for seed in range(3)]
    figure, ax, frame = learning.plot_convergence({"a": several}, "validation_accuracy")
    values = np.array([h.series("validation_accuracy") for h in several])
    line = ax.get_lines()[0]
    np.testing.assert_allclose(line.get_ydata(), values.mean(axis=0))
    [band] = ax.collections
    drawn = band.get_paths()[0].vertices
    expected = mean_interval(values[:, 2])
    at_round_3 = drawn[drawn[:, 0] == 3, 1]
    assert (at_round_3.min(), at_round_3.max()) == pytest.approx((expected.low, expected.high))
    assert frame.columns.tolist() == ["run", "seed", "round", "value"]
    assert ax.get_xlabel() == "round"
    assert figure is ax.figure


@pytest.mark.parametrize(("x", "label"), [("bytes", "(MB)"), ("seconds", "(s)")])
def test_bytes_and_seconds_add_up_along_the_axis(x, label):
    run = history(0)
    _, ax, frame = learning.plot_convergence({"a": run}, "train_loss", x=x)
    wide = run.wide()
    total = wide.seconds.sum() if x == "seconds" else (wide.bytes_up + wide.bytes_down).sum()
    assert frame[x].iloc[-1] == pytest.approx(total)
    assert label in ax.get_xlabel()


def of_seconds(seconds, values):
    made = History()
    for number, (took, value) in enumerate(zip(seconds, values, strict=True), start=1):
        made.record(number, SERVER, seconds=took, bytes_up=1.0, bytes_down=1.0, accuracy=value)
    return made


def test_over_time_runs_are_averaged_at_the_same_moment_and_not_in_the_same_round():
    quick, slow = of_seconds([1.0] * 9, np.arange(9) / 10), of_seconds([2.0] * 4, np.arange(4) / 10)
    _, ax, frame = learning.plot_convergence({"a": [quick, slow]}, "accuracy", x="seconds")
    at, drawn = ax.get_lines()[0].get_data()
    assert (at.min(), at.max()) == (2.0, 8.0), "where all runs were measured"
    np.testing.assert_allclose(drawn, ((at - 1) / 10 + (at / 2 - 1) / 10) / 2)
    assert ax.collections[0].get_paths()[0].vertices[:, 0].max() == 8.0
    assert len(frame) == 9 + 4, "the frame has what was measured"


def test_rounds_without_a_measurement_leave_no_gap_in_the_line():
    devices = [class_device(n, [0, 1, 2] * 8).hold_out(0.25, 0) for n in range(4)]
    run = Federation(devices, SoftmaxRegression(4, 3), evaluate_every=2).run(6)
    _, ax, frame = learning.plot_convergence({"a": [run, run]}, "validation_accuracy")
    assert ax.get_lines()[0].get_xdata().tolist() == [2, 4, 6]
    assert frame["round"].tolist() == [2, 4, 6] * 2


def test_a_long_time_is_told_in_hours():
    run = of_seconds([3600.0] * 4, np.arange(4) / 10)
    _, ax, _ = learning.plot_convergence({"a": run}, "accuracy", x="seconds")
    assert ax.get_xlabel() == "simulated time (h)"
    assert ax.get_lines()[0].get_xdata().tolist() == [1, 2, 3, 4]


def test_a_measure_that_was_not_taken_is_named_with_those_that_were():
    with pytest.raises(KeyError, match=r"no 'auc' in the run 'a'; there are .*drift"):
        learning.plot_convergence({"a": history(0)}, "auc")


def test_labels_show_each_device_s_shares():
    counts = pd.DataFrame([[3, 1], [0, 0], [5, 5]], index=["x", "y", "z"], columns=[7, 8])
    _, [ax], shares = learning.plot_splits({"one": counts})
    assert shares.to_numpy().tolist() == [[0.75, 0.25], [0, 0], [0.5, 0.5]]
    np.testing.assert_array_equal(ax.collections[0].get_array(), shares.T)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["7", "8"]
    figure, panels, both = learning.plot_splits({"one": counts, "two": counts})
    assert [ax.get_title() or ax.get_title(loc="left") for ax in panels] == ["one", "two"]
    assert len(figure.axes) == 3, "one colour bar for all"
    assert len(both) == 6


def test_crossing_is_where_building_is_earned_back():
    costs = pd.DataFrame(
        {"rows": [10, 20], "build": [6.0, 8.0], "scan": [0.003, 0.001], "graph": [0.001, 0.002]}
    )
    _, _, frame = learning.plot_crossing(costs)
    assert frame.crossing.tolist() == [3000.0, np.inf]


def test_intervals_are_drawn_from_low_to_high():
    series = {"a": {"x": Interval(0.5, 0.2, 0.9)}, "b": {"x": Interval(-0.1, -0.3, 0.0)}}
    _, ax, frame = learning.plot_intervals(series, xlabel="difference", zero="better")
    segments = [c.get_segments()[0][:, 0].tolist() for c in ax.collections]
    assert segments == [[0.2, 0.9], [pytest.approx(-0.3), pytest.approx(0.0)]]
    assert frame.series.tolist() == ["a", "b"]


def test_sorted_goes_from_worst_to_best():
    level = ("all together", 0.95)
    _, ax, frame = learning.plot_sorted({"a": [0.9, 0.1, 0.5]}, ylabel="accuracy", reference=level)
    assert ax.get_lines()[1].get_ydata() == [0.95, 0.95]
    assert ax.get_lines()[0].get_ydata().tolist() == [0.1, 0.5, 0.9]
    assert frame.share.tolist() == pytest.approx([1 / 6, 3 / 6, 5 / 6])


def test_counts_and_tradeoff_and_lines_return_their_data():
    counts = pd.DataFrame({"well": [100, 40], "ill": [1, 60]}, index=["a", "b"])
    _, ax, frame = learning.plot_counts(counts)
    assert frame is counts
    assert sorted(text.get_text() for text in ax.texts) == ["1", "100", "40", "60"]
    storage = pd.DataFrame(
        {"bytes": [10.0, 20.0], "recall": [0.9, 1.0], "speed": [5.0, 6.0]}, index=["i8", "f32"]
    )
    _, ax, _ = learning.plot_tradeoff(storage)
    assert [text.get_text().split("\n")[0] for text in ax.texts] == ["i8", "f32"]
    _, ax, _ = learning.plot_lines(counts, xlabel="x", ylabel="y", log=True)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_lines_over_seeds_are_means_with_bands():
    lines = pd.DataFrame({"a": [1.0, 2.0, 4.0, 8.0], "b": [1.0, np.nan, 3.0, 5.0]}, [1, 1, 8, 8])
    _, ax, frame = learning.plot_lines(lines, xlabel="x", ylabel="y", log="x")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "8"]
    assert list(ax.get_xticks(minor=True)) == []
    assert [list(line.get_ydata()) for line in ax.get_lines()] == [[1.5, 6.0], [1.0, 4.0]]
    first, second = (band.get_paths()[0].vertices for band in ax.collections)
    wanted = [mean_interval([1.0, 2.0]), mean_interval([4.0, 8.0])]
    assert {*first[:, 1]} == {end for each in wanted for end in (each.low, each.high)}
    assert set(second[:, 0]) == {8.0}, "of one value there is no interval"
    assert frame is lines


def test_figures_draw_on_axes_that_are_given():
    figure, ax = pyplot.subplots()
    drawn, same, _ = learning.plot_sorted({"a": [1.0, 2.0]}, ylabel="y", ax=ax)
    assert drawn is figure
    assert same is ax
