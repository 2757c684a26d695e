"""What is handed on is read back by MLflow and by rocrate: all runs, failed ones too; no more."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from fedlab.study import finals, load_runs, to_crate, to_mlflow
from fedlab.study.records import Failure, RunRecord

MlflowClient = pytest.importorskip("mlflow", reason="the extra export is missing").MlflowClient
ROCrate = pytest.importorskip("rocrate.rocrate", reason="the extra export is missing").ROCrate

CANARIES = ("canary-log", "canary-trace", "canary-unnamed", "canary-variable")


def write_run(study, parameters, values, *, attempt=1, error=None, files=(), **recorded):
    """Leave a run's folder, as a study would."""
    name = hashlib.sha256(json.dumps(parameters).encode()).hexdigest()[:12]
    folder = study / "runs" / f"{name}-{attempt}"
    folder.mkdir(parents=True)
    rows = [(r, "server", "accuracy", v) for r, v in enumerate(values, start=1)]
    rows += [(r, "ward 3", "loss", 1 - v) for r, v in enumerate(values, start=1)]
    rows += [(pd.NA, "run", n, v) for n, v in recorded.items() if isinstance(v, float)]
    kinds = {"round": "Int64", "who": "string", "metric": "string", "value": "float64"}
    frame = pd.DataFrame(rows, columns=[*kinds]).astype(kinds)
    frame.to_parquet(folder / "results.parquet", index=False)
    (folder / "notebook.ipynb").write_text('{"cells": [], "nbformat": 4}')
    for file in files:
        (folder / file).write_bytes(b"weights")
    named = ["results.parquet", "notebook.ipynb", *files]
    digests = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in named}
    (folder / "log.txt").write_text(f"canary-log {study}")
    (folder / "trace.json").write_text(f"canary-trace {study}")
    (folder / "model.tmp").write_text("canary-unnamed")
    RunRecord(
        id=name,
        attempt=attempt,
        target="04_see_non_iid",
        status="failed" if error else "done",
        parameters=parameters,
        started="2026-11-29T12:00:00.000+00:00",
        seconds=2.5,
        source="c0de",
        command="fedlab run 04_see_non_iid -p alpha=0.1",
        error=error,
        recorded=recorded,
        environment={"python": "3.11.9", "platform": "Linux", "distributions": {"numpy": "2.3.1"}},
        digests=digests,
    ).write(folder)
    return folder


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLAB_TEST_SECRET", "canary-variable")
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "canary-place"
    error = Failure("ValueError", "<script>no</script>", 3)
    write_run(place, {"alpha": 0.1, "seed": 0}, [0.5, 0.7], test_accuracy=0.75, note="fine, it is")
    write_run(place, {"alpha": 0.1, "seed": 1}, [0.1], error=error)
    write_run(place, {"alpha": 0.1, "seed": 1}, [0.6, np.nan], attempt=2)
    write_run(place, {"alpha": 1.0, "seed": 0, "layers": [4, 2]}, [0.8], accuracy=0.6)
    return place


def test_the_frame_of_real_folders_gives_a_table(study):
    table = finals(load_runs(study)).sort_values(["alpha", "seed"])
    assert table.status.tolist() == ["done"] * 3
    assert table.layers.tolist() == ["None", "None", "[4, 2]"]
    assert table.accuracy.fillna(-1).tolist() == [0.7, -1, 0.6]
    assert table.test_accuracy.fillna(-1).tolist() == [0.75, -1, -1]


# -- MLflow ----------------------------------------------------------------------------------------


def mlflow_runs(uri):
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("04_see_non_iid")
    runs = client.search_runs([experiment.experiment_id])
    return client, {run.data.tags["fedlab.run"]: run for run in runs}


@pytest.fixture
def store(tmp_path):
    pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed (it comes with optuna)")
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_mlflow_has_every_attempt_with_its_parameters_metrics_and_status(study, store):
    assert to_mlflow(study, store) == 4
    client, runs = mlflow_runs(store)
    assert sorted(run.info.status for run in runs.values()) == ["FAILED", *["FINISHED"] * 3]
    [failed] = [run for run in runs.values() if run.info.status == "FAILED"]
    assert failed.data.tags["fedlab.error"] == "ValueError: <script>no</script> (cell 3)"
    assert failed.data.tags["fedlab.status"] == "failed"
    assert failed.data.params == {"alpha": "0.1", "seed": "1"}
    [done] = [run for run in runs.values() if "fine, it is" in run.data.tags["fedlab.recorded"]]
    points = client.get_metric_history(done.info.run_id, "accuracy")
    assert [(p.step, p.value) for p in points] == [(1, 0.5), (2, 0.7)]
    assert done.data.metrics["accuracy"] == 0.7
    points = client.get_metric_history(done.info.run_id, "loss/ward 3")
    assert [p.value for p in points] == pytest.approx([0.5, 0.3])
    assert done.data.metrics["test_accuracy"] == 0.75
    assert done.info.end_time - done.info.start_time == 2500
    assert done.data.tags["fedlab.command"].startswith("fedlab run")
    assert json.loads(done.data.tags["fedlab.software"])["distributions"] == {"numpy": "2.3.1"}
    [diverged] = [run for key, run in runs.items() if key.endswith("-2")]
    assert np.isnan(diverged.data.metrics["accuracy"])
    [listed] = [run for run in runs.values() if "layers" in run.data.params]
    assert listed.data.params["layers"] == "[4, 2]"
    assert listed.data.metrics["accuracy"] == 0.6  # what the run says of itself comes last


def test_a_second_export_adds_nothing_and_one_that_was_killed_is_completed(study, store):
    to_mlflow(study, store)
    client, runs = mlflow_runs(store)
    assert to_mlflow(study, store) == 0
    assert mlflow_runs(store)[1].keys() == runs.keys()
    half = next(iter(runs.values())).info.run_id
    client.update_run(half, "RUNNING")
    write_run(study, {"alpha": 5.0, "seed": 0}, [0.4])
    assert to_mlflow(study, store) == 2
    _, after = mlflow_runs(store)
    assert len(after) == 5
    assert half not in [run.info.run_id for run in after.values()]


def test_no_run_in_mlflow_tells_of_this_machine(study, store, tmp_path):
    to_mlflow(study, store)
    client, runs = mlflow_runs(store)
    experiment = client.get_experiment_by_name("04_see_non_iid")
    said = str([run.to_dictionary() for run in runs.values()]) + str(dict(experiment))
    for canary in (*CANARIES, str(tmp_path), "canary-place", os.environ.get("USER") or "no user"):
        assert canary not in said


# -- RO-Crate --------------------------------------------------------------------------------------


def written(study, tmp_path, name="crate", **about):
    to_crate(study, tmp_path / name, **about)
    return ROCrate(tmp_path / name)


def test_a_crate_has_an_action_for_each_attempt_with_all_that_the_profile_asks(study, tmp_path):
    crate = written(study, tmp_path)
    actions = crate.get_by_type("CreateAction")
    assert len(actions) == 4
    assert {a.id for a in crate.root_dataset["mentions"]} == {a.id for a in actions}
    [failed] = [a for a in actions if a["actionStatus"].endswith("/FailedActionStatus")]
    assert failed["error"] == "ValueError: <script>no</script> (cell 3)"
    for action in actions:
        assert action["instrument"][0].type == "SoftwareSourceCode"
        assert action["instrument"][0]["version"] == "c0de"
        software = {a["name"]: a["softwareVersion"] for a in action["instrument"][1:]}
        assert software == {"numpy": "2.3.1"}
        assert action["instrument"][0]["runtimePlatform"] == "Python 3.11.9"
        assert {p["name"]: p["value"] for p in action["object"]}["alpha"] in ("0.1", "1.0")
        assert {f["name"] for f in action["result"] if f.type == "File"} == {
            "results.parquet",
            "notebook.ipynb",
        }
        assert (action["startTime"], action["endTime"]) == (
            "2026-11-29T12:00:00+00:00",
            "2026-11-29T12:00:02+00:00",
        )
        assert action["description"].startswith("fedlab run")
        assert (action is failed) == ("error" in action)
    values = {v["name"]: v for v in crate.get_by_type("PropertyValue")}
    assert values["test_accuracy"]["value"] == "0.75"
    assert values["test_accuracy"]["propertyID"] == "urn:fedlab:test_accuracy"
    assert values["note"]["value"] == "fine, it is"


def test_a_crate_holds_the_files_that_records_name_and_no_other(study, tmp_path):
    crate = written(study, tmp_path)
    there = {
        p.relative_to(tmp_path / "crate").as_posix()
        for p in (tmp_path / "crate").rglob("*.*")
        if p.is_file()
    }
    files = {unquote(f.id): f for f in crate.get_by_type("File") if f.id.startswith("runs/")}
    assert there == {*files, "ro-crate-metadata.json"}
    for path, file in files.items():
        content = (tmp_path / "crate" / path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert int(file["contentSize"]) == len(content)


def test_the_metadata_is_a_closed_graph_with_the_root_that_ro_crate_asks_for(study, tmp_path):
    written(study, tmp_path, author="A. Nonymous", license="https://spdx.org/licenses/CC-BY-4.0")
    told = json.loads((tmp_path / "crate" / "ro-crate-metadata.json").read_text())
    assert told["@context"] == "https://w3id.org/ro/crate/1.1/context"
    graph = {each["@id"]: each for each in told["@graph"]}
    assert len(graph) == len(told["@graph"])
    assert graph["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    root = graph["./"]
    assert {"name", "description", "datePublished", "license", "hasPart"} <= root.keys()
    assert root["conformsTo"] == [{"@id": "https://w3id.org/ro/wfrun/process/0.5"}]
    assert root["license"] == {"@id": "https://spdx.org/licenses/CC-BY-4.0"}
    assert graph[root["author"]["@id"]]["name"] == "A. Nonymous"
    said = re.findall(r'"@id": "([^"]+)"', json.dumps(told))
    outside = {each for each in said if each not in graph}
    assert {each.split("/")[2] for each in outside} == {"w3id.org"}


def test_a_study_whose_runs_keep_their_models_conforms_to_the_federated_profile(study, tmp_path):
    lone = tmp_path / "lone"
    write_run(lone, {"seed": 0}, [0.5], files=["model.npz"])
    write_run(lone, {"seed": 1}, [], error=Failure("ValueError", "no"))
    crate = written(lone, tmp_path)
    profiles = [each.id for each in crate.root_dataset["conformsTo"]]
    assert profiles[1].startswith("https://esciencelab.org.uk/federated-learning-ro-crate-profile/")
    write_run(lone, {"seed": 2}, [0.5])
    assert len(written(lone, tmp_path, "other").root_dataset["conformsTo"]) == 1


def test_nothing_else_gets_into_a_crate(study, tmp_path):
    to_crate(study, tmp_path / "crate")
    files = [path for path in (tmp_path / "crate").rglob("*") if path.is_file()]
    held = b"".join(file.read_bytes() + file.name.encode() for file in files)
    for canary in (*CANARIES, str(tmp_path), "canary-place", str(Path.home()), os.uname().nodename):
        assert canary.encode() not in held, canary


def test_two_crates_of_one_study_are_alike(study, tmp_path):
    for name in "ab":
        to_crate(study, tmp_path / name)
    a, b = ((tmp_path / n / "ro-crate-metadata.json").read_text() for n in "ab")
    assert a == b


def test_a_folder_that_stands_is_left_and_nothing_half_written_stays(study, tmp_path):
    (tmp_path / "crate").mkdir()
    (tmp_path / "crate" / "mine").touch()
    with pytest.raises(FileExistsError, match="crate exists"):
        to_crate(study, tmp_path / "crate")
    assert [p.name for p in (tmp_path / "crate").iterdir()] == ["mine"]
    with pytest.raises(ValueError, match="has no runs"):
        to_crate(tmp_path / "empty", tmp_path / "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["canary-place", "crate"]


@pytest.mark.parametrize("harm", ["changed", "gone", "elsewhere"])
def test_what_is_not_as_its_run_left_it_is_not_handed_on(study, tmp_path, store, harm):
    folder = write_run(study, {"alpha": 7.0}, [0.5])
    if harm == "changed":
        (folder / "results.parquet").write_bytes(b"other")
    elif harm == "gone":
        (folder / "notebook.ipynb").unlink()
    else:
        content = json.loads((folder / "record.json").read_text())
        secret = tmp_path / "secret"
        secret.write_text("canary")
        content["digests"]["../../../secret"] = hashlib.sha256(b"canary").hexdigest()
        (folder / "record.json").write_text(json.dumps(content))
    for export in (lambda: to_crate(study, tmp_path / "crate"), lambda: to_mlflow(study, store)):
        with pytest.raises(
            ValueError, match=f"files of {folder.name} are not as that run left them"
        ):
            export()
    assert not (tmp_path / "crate").exists()
    assert not (tmp_path / "mlflow.db").exists()
