"""A run is a plan and a state: an iterator of reports that others wrap, and that nothing tears."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy as np
import pytest

from fedlab import (
    Convergence,
    Federation,
    LocalSGD,
    Population,
    SoftmaxRegression,
    write_population,
)
from fedlab.federation import Report
from fedlab.federation import federation as module
from fedlab.federation.plan import Plan
from tests.federations import class_device


def made(**given: Any) -> Federation:
    devices = [class_device(n, [0, 1, 2] * (2 + n)).hold_out(0.2, seed=0) for n in range(6)]
    settings = {"cohort": 3, "local": LocalSGD(batch_size=4), "seed": 4, **given}
    return Federation(devices, SoftmaxRegression(4, 3), **settings)


def test_rounds_are_one_run_whoever_wraps_them() -> None:
    whole, wrapped = made(), made()
    whole.run(5)
    told = []
    for report in wrapped.rounds():  # a monitor, or a pruner
        told.append(report)
        assert wrapped.round_number == report.round
        if report.round == 5:
            break
    assert wrapped.parameters.tobytes() == whole.parameters.tobytes()
    assert wrapped.history.to_frame().equals(whole.history.to_frame())
    losses = [report.measures["validation_loss"] for report in told]
    assert losses == whole.history.series("validation_loss").tolist()
    assert [len(list(made().rounds(count))) for count in (0, 3)] == [0, 3]


def test_a_state_and_its_history_stay_as_they_were() -> None:
    one = made(algorithm="scaffold", server="adam")
    one.run(3)
    before, kept = one.state, one.state.kept.column("control")[1]
    history = before.history
    told = history.to_frame()
    one.run(4)
    assert (before.round, len(history.to_frame())) == (3, len(told))
    assert history.to_frame().equals(told)
    assert before.kept.column("control")[1].tobytes() == kept.tobytes()
    after = one.parameters
    one.state = before  # back, and on again: the same bits
    one.run(4)
    assert one.parameters.tobytes() == after.tobytes()
    assert one.history.series("rows").index.tolist() == [1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(FrozenInstanceError):
        before.round = 9  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        one.plan.seed = 9  # type: ignore[misc]


def test_an_interrupt_anywhere_in_a_round_leaves_the_last_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """After training, after participation was noted, or within: never half a round."""
    whole = made()
    whole.run(6)

    def interrupted(what: str) -> Federation:
        one = made()
        one.run(3)
        noted = one._participation.note
        with monkeypatch.context() as patch:
            if what == "in play":
                patch.setattr(module, "play", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            else:

                def torn(*given: Any) -> None:
                    noted(*given)
                    raise KeyboardInterrupt

                patch.setattr(one._participation, "note", torn)
            with pytest.warns(UserWarning, match="interrupted after round 3"):
                one.run_to(6, tmp_path / what)
        assert (one.stopped, one.round_number) == ("interrupted", 3)
        assert one.history.series("rows").index.tolist() == [1, 2, 3]
        keys = one.devices[2].training_keys.tolist()
        assert all(max(one.rounds_that_used(2, key), default=0) <= 3 for key in keys)
        return one

    for what in ("in play", "after the note"):
        one = interrupted(what)
        one.run(3)
        assert one.parameters.tobytes() == whole.parameters.tobytes()
        again = made()
        again.run_to(6, tmp_path / what)
        assert again.parameters.tobytes() == whole.parameters.tobytes()
        key = int(again.devices[2].training_keys[0])
        assert again.rounds_that_used(2, key).tolist() == whole.rounds_that_used(2, key).tolist()


def test_settings_come_from_the_plan_s_fields() -> None:
    one = made()
    told = one._settings
    of_plan = {part.name for part in fields(Plan) if part.metadata.get("set", True)}
    assert of_plan <= told.keys()
    assert not {"evaluation", "trainer", "backend", "weigh"} & told.keys()


def test_the_model_is_measured_every_so_many_rounds() -> None:
    each, seldom = made(), made(evaluate_every=3)
    each.run(7)
    seldom.run(7)
    assert seldom.history.series("validation_loss").index.tolist() == [3, 6]
    assert seldom.history.series("train_loss").index.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert seldom.parameters.tobytes() == each.parameters.tobytes()
    seldom = made(evaluate_every=2)
    seldom.run(40, Convergence("validation_loss", tolerance=10.0, patience=3))
    assert (seldom.stopped, seldom.round_number) == ("converged", 8)
    unmeasured = made(evaluate_every=5)
    unmeasured.run(3)  # nothing to watch so far, which is no fault
    unmeasured.run(3, Convergence("validation_loss"))
    assert unmeasured.history.series("validation_loss").index.tolist() == [5]
    with pytest.raises(ValueError, match="evaluate_every"):
        made(evaluate_every=0)


def test_single_devices_are_recorded_on_request(tmp_path: Any) -> None:
    plain, told = made(), made(record="devices")
    plain.run(4)
    told.run_to(4, tmp_path / "run")
    frame = told.history.to_frame()
    assert frame[frame.who == "server"].reset_index(drop=True).equals(plain.history.to_frame())
    each = frame[frame.who != "server"]
    told_each = {"rows", "epochs", "steps", "train_loss", "bytes_up", "bytes_down"}
    assert set(each.metric) == told_each
    sums = each.groupby(["round", "metric"]).value.sum().unstack()
    assert sums.rows.tolist() == plain.history.series("rows").tolist()
    assert sums.bytes_up.tolist() == plain.history.series("bytes_up").tolist()
    assert sums.bytes_down.tolist() == plain.history.series("bytes_down").tolist()
    again = made(record="devices")
    again.load(tmp_path / "run")
    assert again.history.to_frame().equals(frame)
    with pytest.raises(ValueError, match="choose one of cohort, devices"):
        made(record="all")


def test_reports_are_values() -> None:
    report = next(made().rounds())
    assert isinstance(report, Report)
    assert report.senders.tolist() == sorted(report.senders.tolist())
    assert np.isfinite(list(report.measures.values())).all()


def test_the_order_in_which_devices_are_given_makes_no_other_run(tmp_path: Any) -> None:
    """Of a list, of a population, with numbers and with text for ids; nor does a store's order."""
    names: list[list[Any]] = [[3, 40, 5, 1, 22, 6], ["b", "a", "ward 10", "ward 9", "c", "z"]]
    for ids in names:
        ends = []
        for order in (range(6), (5, 3, 1, 0, 4, 2)):
            devices = [class_device(ids[n], [0, 1, 2] * (2 + n)) for n in order]
            settings = {"cohort": 3, "seed": 4, "algorithm": "scaffold", "record": "devices"}
            path = tmp_path / f"{ids[0]} {order[0]}"
            write_population(path, devices, dimensions=4, metric="l2sq")
            for given in (devices, Population(path)):
                one = Federation(
                    given, SoftmaxRegression(4, 3), local=LocalSGD(batch_size=4), **settings
                )
                one.run(4)
                ends.append((one.parameters.tobytes(), one.history.to_frame().to_csv()))
                if given is devices:
                    assert [d.id for d in one.devices] == sorted(ids)
        assert len(set(ends)) == 1
    shares = {"cohort": 2, "seed": 0}
    mixed = [class_device(name, [0, 1]) for name in ("a", 2, 10, "9")]
    federation = Federation(mixed, SoftmaxRegression(4, 2), **shares)
    assert [device.id for device in federation.devices] == [2, 10, "9", "a"]


def test_a_changing_list_keeps_the_order_of_ids(tmp_path: Any) -> None:
    class Moving:
        def __init__(self, order: tuple[int, ...]) -> None:
            self.order = order

        def at(self, round: int) -> list[Any]:
            return [class_device(n, [0, 1, 2] * (1 + (n + round) % 3)) for n in self.order]

    ends = set()
    for order in ((0, 1, 2, 3), (2, 0, 3, 1)):
        one = Federation(Moving(order), SoftmaxRegression(4, 3), cohort=2)
        one.run(5)
        ends.add(one.parameters.tobytes())
    assert len(ends) == 1
