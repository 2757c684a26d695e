"""Devices from data: shared stores, tables, held-out rows."""

import numpy as np
import pandas as pd
import pytest

from fedlab import (
    Drifting,
    Federation,
    LocalSGD,
    Profile,
    SoftmaxRegression,
    devices_from_table,
    spread,
    standardised,
)
from fedlab.data import (
    ColumnSums,
    Drift,
    Preparation,
    by_classes,
    by_column,
    dirichlet,
    iid,
    load_digits,
    read_table,
)


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.mark.parametrize("dtype", ["f32", "i8", "b1"])
def test_every_row_is_on_one_device_with_its_label(digits, dtype):
    split = dirichlet(digits.y, devices=8, alpha=0.5, seed=1)
    devices = spread(digits, split, dtype=dtype)
    keys = np.concatenate([device.index.keys for device in devices])
    assert sorted(keys.tolist()) == list(range(len(digits)))
    for device, rows in zip(devices, split.rows, strict=True):
        np.testing.assert_array_equal(device.labels, digits.y[rows])
        if dtype == "f32":
            np.testing.assert_array_equal(device.index.vectors, digits.x[rows])


def test_devices_are_views_into_one_store(digits):
    devices = spread(digits, iid(len(digits), 4, seed=0))
    bases = {id(device.index.vectors.base.base) for device in devices}
    assert len(bases) == 1
    devices[0].index.add(np.ones((1, 64)), labels=[3])
    assert sum(len(device.index) for device in devices) == len(digits) + 1


@pytest.fixture(scope="module")
def drift(digits):
    start, end = iid(len(digits), 6, seed=0), by_classes(digits.y, 6, 2, seed=0)
    return Drift(start, end, digits.y, first=2, last=6, seed=3)


def test_drifting_devices_hold_each_round_s_rows(digits, drift):
    devices = Drifting(digits, drift, metric="l2sq")
    for number in (1, 3, 6, 9):
        for device, rows in zip(devices.at(number), drift.at(number).rows, strict=True):
            assert sorted(device.index.keys.tolist()) == sorted(rows.tolist())
    assert devices.at(7) is devices.at(8), "nothing moves any more"


def test_a_federation_trains_on_what_devices_hold_in_that_round(digits, drift, tmp_path):
    def federation():
        return Federation(
            Drifting(digits, drift), SoftmaxRegression(64, 10), local=LocalSGD(), seed=1
        )

    run = federation()
    run.run(8)
    for number in (1, 4, 8):
        before = Federation(
            spread(digits, drift.at(number)), SoftmaxRegression(64, 10), local=LocalSGD(), seed=1
        )
        before.round_number = number - 1
        to_here = federation()
        to_here.run(number - 1)
        before.parameters = to_here.parameters
        before.round()
        to_here.round()
        assert before.parameters.tobytes() == to_here.parameters.tobytes()
    saved = federation()
    saved.run_to(3, tmp_path / "run")
    resumed = federation()
    resumed.run_to(8, tmp_path / "run")
    assert resumed.parameters.tobytes() == run.parameters.tobytes()


def test_weights_by_a_function_and_rows_that_move_are_still_the_same_run(digits, drift, tmp_path):
    def federation():
        return Federation(
            Drifting(digits, drift),
            SoftmaxRegression(64, 10),
            weights=lambda device: device.rows**0.5,
            seed=1,
        )

    whole, stopped, resumed = (federation() for _ in range(3))
    whole.run(7)
    stopped.run_to(5, tmp_path / "run", every=2)
    resumed.run_to(7, tmp_path / "run")
    assert resumed.parameters.tobytes() == whole.parameters.tobytes()


def test_a_split_of_other_rows_is_refused(digits):
    with pytest.raises(ValueError, match="splits 10 rows; the data have 1797"):
        spread(digits, iid(10, 2, seed=0))


@pytest.fixture
def patients():
    draw = np.random.default_rng(5)
    age = draw.normal(60, 10, 90)
    age[::7] = np.nan
    return pd.DataFrame(
        {
            "age": age,
            "sex": draw.choice(["f", "m"], 90),
            "ill": draw.choice(["no", "yes"], 90),
            "ward": draw.choice(["north", "south", "west"], 90),
        }
    )


def test_a_frame_becomes_devices_in_one_call(patients, tmp_path):
    made = devices_from_table(patients, label="ill", device="ward")
    assert [device.id for device in made.devices] == ["north", "south", "west"]
    assert sum(device.rows for device in made.devices) == 90
    assert made.classes == ("no", "yes")
    patients.to_csv(tmp_path / "patients.csv", index=False)
    again = devices_from_table(tmp_path / "patients.csv", label="ill", device="ward")
    for one, other in zip(made.devices, again.devices, strict=True):
        np.testing.assert_array_equal(one.index.vectors, other.index.vectors)


def test_scaling_and_imputing_are_fitted_on_training_rows_only(patients):
    aside = np.zeros(90, bool)
    aside[::3] = True
    made = devices_from_table(patients, label="ill", device="ward", held_out=aside)
    pooled = ColumnSums.of(patients[~aside], ["age"], ["sex"])
    expected, _ = Preparation.from_sums(pooled).apply(patients)
    for device, rows in zip(made.devices, by_column(patients.ward).rows, strict=True):
        np.testing.assert_allclose(device.index.vectors, expected[rows], atol=1e-6)
        assert device.validation_rows == aside[rows].sum()
    changed = patients.copy()
    changed.loc[aside, "age"] = 1e6
    still = devices_from_table(changed, label="ill", device="ward", held_out=aside)
    np.testing.assert_array_equal(made.preparation.mean, still.preparation.mean)


def test_a_share_is_held_out_on_each_device(patients):
    made = devices_from_table(patients, label="ill", device="ward", held_out=0.25, seed=3)
    for device in made.devices:
        assert device.validation_rows == pytest.approx(len(device.index) / 4, abs=1)
    assert made.bytes_sent == 3 * (8 + 24 + 2 * 9)


def test_what_is_missing_is_asked_for(patients):
    with pytest.raises(TypeError, match="name the columns"):
        devices_from_table(patients)
    with pytest.raises(ValueError, match="90 truth values"):
        devices_from_table(patients, label="ill", device="ward", held_out=np.zeros(3, bool))


def test_counts_are_no_classes_where_that_is_said():
    visits = pd.DataFrame({"age": [1.0, 2, 3, 4], "count": [0, 1, 5, 40], "ward": list("aabb")})
    numbered = devices_from_table(visits, label="count", device="ward")
    assert numbered.classes == (0, 1, 5, 40)
    counted = devices_from_table(visits, label="count", device="ward", target="number")
    assert counted.classes is None
    assert [d.labels.tolist() for d in counted.devices] == [[0, 1], [5, 40]]


def test_keys_and_metadata_go_into_the_devices_indexes(patients):
    patients["patient"] = np.arange(90)[::-1] + 500
    made = devices_from_table(
        patients.dropna(), label="ill", device="ward", key="patient", metadata=["age", "sex"]
    )
    assert made.preparation.features == ("age", "sex=f", "sex=m")
    for device in made.devices:
        rows = patients[(patients.ward == device.id) & patients.age.notna()]
        np.testing.assert_array_equal(device.index.keys, rows.patient)
        np.testing.assert_array_equal(device.index.metadata["age"], rows.age)
        hits = device.most_similar(np.zeros((1, 3)), 9, where="age > 65 and sex == 'f'")
        assert sorted(hits.keys[0, : hits.counts[0]]) == sorted(
            rows.patient[(rows.age > 65) & (rows.sex == "f")]
        )


def test_hospitals_may_number_their_patients_alike_and_hold_out_theirs():
    frame = pd.DataFrame({"ill": [0, 1] * 20, "x": np.arange(40) / 7})
    parts = {
        name: frame.assign(patient=np.arange(40), x=frame.x + n) for n, name in enumerate("ab")
    }
    aside = np.zeros(80, bool)
    aside[[3, 50]] = True
    made = devices_from_table(parts, label="ill", key="patient", held_out=aside)
    assert [device.validation_keys.tolist() for device in made.devices] == [[3], [10]]
    assert [device.index.keys.tolist() for device in made.devices] == [list(range(40))] * 2
    spread_out = devices_from_table(parts, label="ill", key="patient", held_out=0.25, seed=1)
    assert [device.validation_rows for device in spread_out.devices] == [10, 10]
    made.devices[0].index.add([[0.0]], labels=[1])
    assert 40 in made.devices[0].index


def test_names_below_zero_work(tmp_path):
    (tmp_path / "w.csv").write_text("ill,ward,x\n" + "0,-1,1.5\n1,-1,2.5\n1,1,2\n0,1,3.5\n" * 5)
    made = devices_from_table(tmp_path / "w.csv", label="ill", device="ward", held_out=0.2)
    assert [device.id for device in made.devices] == ["-1", "1"]
    federation = Federation(made.devices, SoftmaxRegression(1, 2))
    federation.run(2)
    assert federation.validate().index.tolist() == ["-1", "1"]


def test_one_new_patient_with_a_missing_value_is_prepared(patients):
    made = devices_from_table(patients, label="ill", device="ward")
    mean = made.preparation.apply(patients)[0][patients.age.isna()][0]
    for one in (
        pd.DataFrame([{"age": None, "sex": patients.sex[0]}]),
        pd.DataFrame({"age": pd.array([None], "Float64"), "sex": [patients.sex[0]]}),
        pd.DataFrame(
            {"age": pd.array([None], "Int64"), "sex": pd.array([patients.sex[0]], "string")}
        ),
    ):
        np.testing.assert_array_equal(made.preparation.apply(one)[0][0], mean)
    nobody = made.preparation.apply(pd.DataFrame([{"age": None, "sex": pd.NA}]))[0][0]
    assert nobody.tolist() == [0.0, 1.0, 0.0, 0.0]


def test_words_for_a_table_that_was_read_already_are_refused(patients):
    table = read_table(patients, label="ill", device="ward")
    with pytest.raises(TypeError, match=r"a Table knows its columns; give device, key to read_tab"):
        devices_from_table(table, device="sex", key="age")
    with pytest.raises(ValueError, match=r"profiles name \['nord'\], which are no devices"):
        devices_from_table(table, profiles={"nord": Profile()})


def test_scaling_takes_a_partition_of_the_same_data(digits):
    for total in (10, 3000):
        with pytest.raises(ValueError, match=f"splits {total} rows; the data have 1797"):
            standardised(digits, iid(total, 2, seed=0))
