"""A study handed on: to MLflow, and as an RO-Crate, failed runs included.

What leaves is what the records of its runs hold, and the files that these name with their digests:
no path of this machine, no environment variable, no log.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fedlab.core.extras import imported
from fedlab.files.atomic import making_folder
from fedlab.study.records import NOTEBOOK, RESULTS, RunRecord, attempts
from fedlab.study.results import WHOLE, digests

PROCESS_RUN = "https://w3id.org/ro/wfrun/process/0.5"
_SITE = "https://esciencelab.org.uk/federated-learning-ro-crate-profile"
FEDERATED = f"{_SITE}/federated-learning-profile.html"
_STATUS = "http://schema.org/{}ActionStatus"
_KINDS = {RESULTS: "vnd.apache.parquet", NOTEBOOK: "x-ipynb+json"}
#: Where MLflow would look for files: on its server, not in a folder of this machine.
_NOWHERE = "mlflow-artifacts:/"
#: MLflow takes so many metrics at once, and so many characters.
_AT_ONCE, _LONGEST = 1000, 5000
_Path = str | os.PathLike[str]


def to_mlflow(folder: _Path, tracking_uri: str) -> int:
    """Write all runs of a study to an MLflow server or database; return how many were new.

    Each attempt becomes a run of an experiment that is called like the study's target, with its
    parameters, its metrics by round, and tags for its status, error, command and software. One that
    is there already is left as it is; one that a killed export left half-written is made anew.

    Parameters
    ----------
    folder : path-like
        The study's.
    tracking_uri : str
        Such as ``sqlite:///mlflow.db`` (which needs SQLAlchemy), or a server's address.

    Raises
    ------
    ImportError
        Without MLflow; the extra ``export`` brings it.
    ValueError
        If there are no runs, or a file is not as its run left it.

    Notes
    -----
    Metrics of a device, or of one of several histories, have that behind their names: ``loss/ward
    3``. MLflow's own telemetry is switched off. A new database says where it was made; no run does.
    """
    kept, ids, known, new = _attempts(folder), dict[str, str](), dict[str, Any](), 0
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow: Any = imported("mlflow", "export", "to_mlflow")
    client = mlflow.MlflowClient(tracking_uri)
    for name in {record.target for record, _ in kept}:
        found = client.get_experiment_by_name(name)
        ids[name] = found.experiment_id if found else client.create_experiment(name, _NOWHERE)
        runs = client.search_runs([ids[name]], max_results=50_000)
        known |= {run.data.tags.get("fedlab.run"): run.info for run in runs}
    for record, place in kept:
        if was := known.get(record.folder):
            if was.status != "RUNNING":
                continue
            client.delete_run(was.run_id)
        about = {"run": record.folder, "status": record.status, "error": str(record.error or "")}
        about |= {"command": record.command, "recorded": json.dumps(record.recorded)}
        about |= {"software": json.dumps(record.environment)}
        tags = {f"fedlab.{name}": text[:_LONGEST] for name, text in about.items() if text}
        when = [int(1000 * each.timestamp()) for each in _times(record)]
        made = client.create_run(ids[record.target], when[0], tags, run_name=record.folder)
        run, param, metric = made.info.run_id, mlflow.entities.Param, mlflow.entities.Metric
        given = [param(n, _text(v)[:_LONGEST]) for n, v in record.parameters.items()]
        client.log_batch(run, params=given)
        metrics = [metric(n, v, when[whole], at) for n, v, at, whole in _metrics(record, place)]
        for start in range(0, len(metrics), _AT_ONCE):
            client.log_batch(run, metrics[start : start + _AT_ONCE])
        client.set_terminated(run, "FAILED" if record.error else "FINISHED", when[1])
        new += 1
    return new


def to_crate(
    folder: _Path, target: _Path, *, author: str | None = None, license: str | None = None
) -> None:
    """Write a study as an RO-Crate, in a new folder.

    Each attempt is a ``CreateAction`` as Process Run Crate 0.5 asks: its code and software are the
    instrument, its parameters the object, its files and recorded values the result; one that failed
    says so, and why. The federated learning profile 0.1 asks for the same, and for the model that
    each run made: the crate says that it conforms if every run that is done has a file ``model.*``.

    Parameters
    ----------
    folder : path-like
        The study's.
    target : path-like
        The folder to make.
    author, license : str, optional
        Who made it, and the address of its licence (``https://spdx.org/licenses/CC-BY-4.0``).

    Raises
    ------
    ImportError
        Without ``rocrate``; the extra ``export`` brings it.
    FileExistsError
        If the folder exists.
    ValueError
        If there are no runs, or a file is not as its run left it.
    """
    kept, crates = _attempts(folder), imported("rocrate.rocrate", "export", "to_crate")
    crate = crates.ROCrate(version="1.1")  # that which Process Run Crate 0.5 stands on

    def note(at: str, kind: str, **about: Any) -> dict[str, str]:
        """Refer to what is described once."""
        if not crate.get(at):
            crate.add_jsonld({"@id": at, "@type": kind, **about})
        return {"@id": at}

    def values(given: Mapping[str, Any], *of: str) -> list[dict[str, str]]:
        return [
            note(_at(*of, n, v), "PropertyValue", name=n, value=v, propertyID=f"urn:fedlab:{n}")
            for n, v in zip(given, map(_text, given.values()), strict=True)
        ]

    who = {"agent": note("#author", "Person", name=author)} if author else {}
    actions = []
    for record, place in kept:
        code = {"name": record.target, "version": record.source}
        code["runtimePlatform"] = f"Python {record.environment.get('python')}"
        tools = [note(_at(*code.values()), "SoftwareSourceCode", **code)]
        for name, version in record.environment.get("distributions", {}).items():
            at = f"pkg:pypi/{quote(name)}@{quote(version)}"
            tools.append(note(at, "SoftwareApplication", name=name, softwareVersion=version))
        made = values(record.recorded, record.folder)
        for name, digest in record.digests.items():
            about = {"encodingFormat": f"application/{_KINDS.get(name, 'octet-stream')}"}
            about |= {"name": name, "sha256": digest}
            path = f"runs/{record.folder}/{name}"
            made.append({"@id": path})
            crate.add_file(place / name, path, properties=about, record_size=True)
        begun, ended = (when.isoformat(timespec="seconds") for when in _times(record))
        action: dict[str, Any] = {"name": f"{record.target}: {record.folder}", **who}
        action |= {"description": record.command, "startTime": begun, "endTime": ended}
        action |= {"instrument": tools, "object": values(record.parameters), "result": made}
        action["actionStatus"] = _STATUS.format("Failed" if record.error else "Completed")
        action |= {"error": str(record.error)} if record.error else {}
        actions.append(note(_at(record.folder), "CreateAction", **action))
    profiles = [note(PROCESS_RUN, "CreativeWork", name="Process Run Crate", version="0.5")]
    if all(one.error or any(n.startswith("model.") for n in one.digests) for one, _ in kept):
        name = "Federated Learning RO-Crate Profile"
        profiles.append(note(FEDERATED, "CreativeWork", name=name, version="0.1"))
    terms = note(license or "#licence", "CreativeWork", name=license or "not stated: ask for it")
    targets = ", ".join(sorted({one.target for one, _ in kept}))
    root = {"name": f"A study of {targets}", "license": terms, "mentions": actions}
    root["description"] = f"{len(kept)} runs of {targets}, failed ones included"
    root["datePublished"] = max(_times(one)[1] for one, _ in kept).isoformat()
    root |= {"conformsTo": profiles} | ({"author": who["agent"]} if who else {})
    for name, value in root.items():
        crate.root_dataset[name] = value
    with making_folder(target) as aside:
        crate.write(aside)


def _attempts(folder: _Path) -> list[tuple[RunRecord, Path]]:
    """Return all runs with their folders, if the files in these are what records say."""
    kept = [(one, Path(folder, "runs", one.folder)) for one in attempts(Path(folder))]
    if not kept:
        raise ValueError(f"{folder} has no runs; give the folder that a study was written to")
    for one, place in kept:
        if one.digests != digests(place, [name for name in one.digests if Path(name).name == name]):
            what = f"the files of {one.folder} are not as that run left them"
            raise ValueError(f"{what}; remove it from the study, and run it again")
    return kept


def _metrics(record: RunRecord, place: Path) -> Iterator[tuple[str, float, int, bool]]:
    """Yield what a run measured: name, value, round, and whether it is of the whole run."""
    import pandas as pd

    frame = pd.read_parquet(place / RESULTS) if RESULTS in record.digests else pd.DataFrame()
    last = frame["round"].fillna(0).max() if len(frame) else 0
    for at, who, metric, value, *further in frame.itertuples(index=False):
        parts = [metric, *([] if who in (WHOLE, "server") else [who]), *further]
        told = [re.sub(r"[^\w\-. :]", "_", str(part)) for part in parts if not pd.isna(part)]
        yield "/".join(told), value, int(last if pd.isna(at) else at), pd.isna(at)


def _times(record: RunRecord) -> tuple[datetime, datetime]:
    begun = datetime.fromisoformat(record.started)
    return begun, begun + timedelta(seconds=record.seconds)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _at(*parts: str) -> str:
    return "#" + "/".join(quote(part, "") for part in parts)
