"""Codecs on both ways: what devices hold, what each receives, and resuming to the same bits."""

from __future__ import annotations

from typing import Any

import pytest

from fedlab import Federation, SoftmaxRegression, spread
from fedlab.data import iid, load_digits
from fedlab.updates import ErrorFeedback, TopK


@pytest.fixture(scope="module")
def ten() -> Any:
    digits = load_digits()
    return spread(digits, iid(len(digits), devices=10, seed=0))


def federation(devices: Any, **given: Any) -> Federation:
    model = SoftmaxRegression(inputs=64, classes=10)
    return Federation(devices, model, **{"cohort": 4, "seed": 3, **given})


BOTH = {"updates": [ErrorFeedback(TopK(0.1))], "down": [TopK(0.1)]}


def test_a_run_coded_on_both_ways_learns_and_goes_on_from_a_file_to_the_same_bits(
    ten: Any, tmp_path: Any
) -> None:
    whole, plain = federation(ten, **BOTH), federation(ten)
    whole.run(30)
    plain.run(30)
    assert whole.history.last("train_loss") < 1.5 * plain.history.last("train_loss")
    for name in ("bytes_up", "bytes_down"):
        assert whole.history.series(name).sum() < plain.history.series(name).sum() / 2
    federation(ten, **BOTH).run_to(13, tmp_path / "run")
    second = federation(ten, **BOTH)
    second.run_to(30, tmp_path / "run")
    assert second.parameters.tobytes() == whole.parameters.tobytes()
    assert second.history.to_frame().equals(whole.history.to_frame())
