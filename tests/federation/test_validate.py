"""A model's metrics by device: against scikit-learn on the same rows, and what has none."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from fedlab import Federation, LinearRegression, SoftmaxRegression
from fedlab.erasure import erase_across
from tests.federations import class_device, regression_device


@pytest.fixture
def federation() -> Federation:
    held = [class_device(n, [0, 1, 1, 0] * 8, seed=3).hold_out(0.5, seed=1) for n in ("a", "b")]
    one = class_device("one class", [0, 1, 0, 0] * 4, seed=3)
    held.append(one.holding_out(one.index.keys[one.labels == 0][:5]))
    federation = Federation(held, SoftmaxRegression(4, 2))
    federation.run(3)
    return federation


def test_metrics_are_those_of_each_device_s_rows_and_one_class_is_named(
    federation: Federation,
) -> None:
    plain = federation.validate()
    said = (
        r"^NaN stands where a metric says nothing: device 'one class': all rows are of class 0 \("
    )
    with pytest.warns(UserWarning, match=said + r"auc, f1, roc_auc_score\)$") as told:
        frame = federation.validate(["auc", "f1", roc_auc_score])
    assert len(told) == 1, "NumPy's and scikit-learn's own are not let out"
    assert frame.loc["one class", ["auc", "f1", "roc_auc_score"]].isna().all()
    assert frame[plain.columns].equals(plain)
    for device in federation.devices[:2]:
        x, y = device.validation()
        shares = federation.model.predict(federation.parameters, x)  # type: ignore[attr-defined]
        assert frame.auc[device.id] == frame.roc_auc_score[device.id]
        assert frame.auc[device.id] == pytest.approx(roc_auc_score(y, shares[:, 1]))
        assert frame.f1[device.id] == pytest.approx(f1_score(y, shares.argmax(axis=1)))


def test_functions_have_the_names_that_they_are_given(federation: Federation) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = federation.validate({"rows again": lambda y, scores: len(y)})
    assert frame["rows again"].tolist() == frame["rows"].tolist()


def test_what_can_t_be_measured_is_refused(federation: Federation) -> None:
    with pytest.raises(ValueError, match=r"no metric is called 'auroc' .*; there are auc"):
        federation.validate("auroc")
    with pytest.raises(ValueError, match="'r2' is no measure of classes"):
        federation.validate("r2")


def test_numbers_are_measured_too() -> None:
    devices = [regression_device(n, 30, 3, seed=1).hold_out(0.4, seed=2) for n in range(2)]
    federation = Federation(devices, LinearRegression(3))
    federation.run(20)
    frame = federation.validate(["r2", "mae"])
    for device in federation.devices:
        x, y = device.validation()
        error = federation.model.predict(federation.parameters, x) - y  # type: ignore[attr-defined]
        assert frame.mae[device.id] == pytest.approx(np.abs(error).mean(), rel=1e-5)
        assert frame.r2[device.id] == pytest.approx(1 - np.square(error).mean() / y.var(), rel=1e-4)


@pytest.mark.parametrize("what", ["all of a device's rows", "those that it holds out"])
def test_a_device_whose_rows_were_erased_spoils_nobody_s_measures(what: str) -> None:
    devices = [class_device(n, [0, 1, 2] * 6).hold_out(0.3, seed=0) for n in range(3)]
    federation = Federation(devices, SoftmaxRegression(4, 3))
    federation.run(2)
    last = federation.devices[2]
    gone = last.index.keys if what.startswith("all") else last.validation_keys
    erase_across(federation.devices, gone.copy(), device=last.id)
    with warnings.catch_warnings():
        warnings.simplefilter("error" if not what.startswith("all") else "ignore", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        losses = federation.run(2).series("validation_loss")
        frame = federation.validate(metrics="f1")
    assert np.isfinite(losses).all()
    assert frame.index.tolist() == [0, 1]
    assert frame["rows"].dtype == np.int64
