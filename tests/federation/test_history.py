"""One tidy frame a run."""

import math

import pytest

from fedlab.federation.history import SERVER, History, effort_to


def test_a_run_is_one_tidy_frame():
    history = History()
    history.record(1, SERVER, loss=0.5, rows=3)
    history.record(1, 7, loss=0.25)
    history.record(2, SERVER, loss=0.125)
    frame = history.to_frame()
    assert frame.columns.tolist() == ["round", "who", "metric", "value"]
    assert frame.to_numpy().tolist()[2] == [1, "7", "loss", 0.25]
    assert history.series("loss").to_dict() == {1: 0.5, 2: 0.125}
    assert history.series("loss", who=7).to_dict() == {1: 0.25}
    assert history.last("loss") == 0.125
    assert history.wide().loc[1].to_dict() == {"loss": 0.5, "rows": 3.0}


def test_wall_times_and_remarks_stay_out_of_what_determinism_compares():
    history = History()
    history.time(1, 0.25)
    history.remark(1, "ward", "left out: no rows")
    assert history.to_frame().empty
    assert history.remarks().to_numpy().tolist() == [[1, "ward", "left out: no rows"]]


def test_effort_tells_both_directions_apart_up_to_the_first_round_at_the_target():
    history = History()
    for round, accuracy in enumerate([0.2, 0.7, 0.6, 0.9], start=1):
        sent = {"bytes_up": 10.0**round, "bytes_down": 2.0 * 10**round, "seconds": 0.5}
        history.record(round, SERVER, accuracy=accuracy, **sent)
    reached = effort_to(history, "accuracy", 0.7)
    spent = {"bytes": 330.0, "bytes_up": 110.0, "bytes_down": 220.0, "seconds": 1.0}
    assert reached == {"rounds": 2.0, **spent}
    never = effort_to(history, "accuracy", 0.91)
    assert never.keys() == reached.keys()
    assert all(map(math.isnan, never.values()))


def test_a_measure_that_was_not_taken_is_named_with_those_that_were():
    history = History()
    history.record(1, SERVER, loss=0.5)
    with pytest.raises(KeyError, match=r"no 'accuracy' of server .* \['loss'\]"):
        history.series("accuracy")
