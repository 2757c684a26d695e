"""A node: one device with its sealed index, and what it answers to the server's messages.

A folder holds it::

    device.json        its id, its profile, and what its owner agrees to give to searches
    index.fedlab       its rows, sealed
    experiment.py      the experiment; see `experiment_of`
    kept/              what it keeps from round to round, sealed

The key lies elsewhere, in a file of its owner alone. Each message may be answered by a process of
its own, so nothing is remembered but in files.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedlab.core.threads import one_blas_thread
from fedlab.core.validation import read_only, require
from fedlab.deploy.messages import (
    Id,
    MessageError,
    Tree,
    blocks_out,
    differing,
    digest,
    packed,
    unpacked,
    versions,
)
from fedlab.deploy.remote import Remote
from fedlab.deploy.searching import answered
from fedlab.deploy.summing import Summing
from fedlab.device.device import Device
from fedlab.device.dispatch import Dispatch
from fedlab.device.profile import Profile
from fedlab.device.states import DeviceStates
from fedlab.federation import Federation
from fedlab.federation.on_devices import Asked, Here, reported, trained
from fedlab.files.arrays import FileKind
from fedlab.files.keys import Key
from fedlab.index.vectorindex import VectorIndex
from fedlab.metrics.scores import named_metrics
from fedlab.search.respondent import Responding
from fedlab.training.work import phases_of
from fedlab.updates.stages import At

KEPT = FileKind(b"FEDLABKP", "file of what a device keeps", ValueError)
#: So many rounds of what a device keeps stay in files, for a server that goes back to a checkpoint.
_BACK = 16


def experiment_of(path: str | os.PathLike[str]) -> Callable[..., Federation]:
    """Return the function of an experiment: ``federation(devices, **parameters)``.

    Server and nodes have the same file. It gets the devices, of which a node has only its own: of
    others it knows none but how many there are. It returns a `Federation`.
    """
    made: Callable[..., Federation] | None = runpy.run_path(os.fspath(path)).get("federation")
    if not callable(made):
        raise ValueError(
            f"{Path(path).name} has no function federation; write "
            "`def federation(devices): return Federation(devices, ...)`"
        )
    return made


def experiment_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of an experiment's file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Node:
    """What answers for one device.

    Parameters
    ----------
    folder : path-like
        See above.
    key : Key
        What its files are sealed under.
    """

    def __init__(self, folder: str | os.PathLike[str], key: Key) -> None:
        self.folder, self._key = Path(folder), key
        self._told = json.loads((self.folder / "device.json").read_text(encoding="utf-8"))
        index = VectorIndex.open(self.folder / "index.fedlab", key)
        self.device = Device(self._told["id"], index, Profile(**self._told.get("profile", {})))
        self._summing = Summing(self.folder / "kept" / "sum", key)

    def answer(self, kind: str, data: bytes) -> bytes:
        """Return the answer to a message; what goes wrong is told in it.

        Parameters
        ----------
        kind : {"hello", "train", "share", "mask", "tell", "measure", "score", "ask", "search"}
        data : bytes
        """
        try:
            asked = unpacked(data)
            ways = {"hello": self._hello, "train": self._train, "measure": self._measure}
            ways |= {"score": self._score, "ask": self._answer}
            ways |= {"share": self._summing.share, "mask": self._mask, "tell": self._summing.tell}
            if kind == "search":
                responding = Responding(self.device, gives=self._told.get("gives", ()))
                return packed(answered(responding, asked))
            if kind not in ways:
                raise MessageError(f"a message of kind {kind!r} came; there are {', '.join(ways)}")
            return packed({"nonce": asked["nonce"], **ways[kind](asked)})
        except Exception as error:  # whatever it is, the server is told, and the node goes on
            return packed({"failed": f"{type(error).__name__}: {error}"[:500]})

    # -- what it is ------------------------------------------------------------------------------

    def _mine(self, asked: Tree) -> tuple[Federation, Device]:
        """Return the experiment as it is seen from here, and the device as it takes part in it."""
        path, wanted = self.folder / "experiment.py", asked["experiment"]
        mine, theirs = experiment_digest(path) if path.exists() else "none", wanted["digest"]
        if mine != theirs:
            raise ValueError(f"experiment.py here is {mine[:16]}, the server's {theirs[:16]}")
        if odd := differing(versions(), asked["versions"]):
            raise ValueError(f"other versions: {odd}; make the environments alike")
        devices = among(self.device, asked["count"], asked["place"])
        federation = experiment_of(path)(devices, **wanted["parameters"])
        require(federation, "what federation() returned", "plan", "devices")
        device = federation.devices[asked["place"]]
        if device.id != self.device.id or isinstance(device, Remote):
            raise ValueError(f"device {self.device.id!r} is not at place {asked['place']}")
        return federation, device

    def _hello(self, asked: Tree) -> Tree:
        federation, device = self._mine(asked)
        profile = self._told.get("profile", {})
        facts = {"rows": device.rows, "validation_rows": device.validation_rows}
        of = {"dimensions": device.index.dimensions, "metric": device.index.metric}
        told = {"id": device.id, "profile": profile, "contents": device.contents}
        return {**told, **facts, **of, "plan": federation.plan.words()}

    # -- what it does ----------------------------------------------------------------------------

    def _asked(self, asked: Tree) -> Asked:
        """Return what the device is asked for, as in a cohort of one."""
        federation, _ = self._mine(asked)
        plan, places = federation.plan, np.array([asked["place"]])
        if (mine := digest(sorted(plan.words().items()))) != asked["plan"]:
            raise ValueError(f"another plan: {mine} here, {asked['plan']} at the server")
        kept, model, number = self._kept(asked["kept"]), read_only(asked["model"]), asked["round"]
        phases = phases_of(plan.algorithm.work(asked["learning"], model, places, kept))
        order = Dispatch.alike(1, number, asked["rate"], asked["epochs"])
        of = plan, number, places, federation.devices, model, asked["learning"], phases, order
        return Asked(*of, kept, plan.chain.init(len(model)), {})

    def _train(self, asked: Tree) -> Tree:
        of, number = self._asked(asked), asked["round"]
        with one_blas_thread():
            if of.plan.chain.secure is not None:
                [part] = trained(of, None)
                if part.set_aside:
                    return {
                        "round": number,
                        "aside": part.set_aside[0],
                        "hopeless": part.none_could,
                    }
                told = {"rows": part.rows[0], "epochs": part.epochs[0]}
                return {"round": number, **told, **self._summing.begin(asked, part)}
            [sent] = Here().work(of, None)
        if sent.set_aside:
            return {"round": number, "aside": sent.set_aside[0], "hopeless": sent.hopeless}
        updates, at, coded = sent.updates, At(of.plan.seed, number), of.messages or {}
        return {
            "round": number,
            "blocks": blocks_out(of.plan, updates, at, coded),
            "stats": {name: column[0] for name, column in updates.stats.items()},
            "weighed": {name: column[0] for name, column in updates.weighed.items()},
            "averaged": sorted(sent.averaged),
            "keeps": self._keep(asked["keep"], sent.kept),
        }

    def _mask(self, asked: Tree) -> Tree:
        one, first, part = self._summing.trained(asked)
        of, weight = self._asked(first), np.array([asked["weight"]])
        with one_blas_thread():
            sent = reported(of, part, weight)
        return {
            "masked": self._summing.masked(asked, one, sent, of.plan.chain.fixed),
            "blocks": sent.forms,  # what decodes a sum follows from that
            "averaged": sorted(sent.averaged),
            "keeps": self._keep(first["keep"], sent.kept),
        }

    def _measure(self, asked: Tree) -> Tree:
        federation, device = self._mine(asked)
        with one_blas_thread():
            found = Here().measure(federation.plan, [device], asked["model"], None)
        return {"measures": {name: column[0] for name, column in found.items()}}

    def _score(self, asked: Tree) -> Tree:
        federation, device = self._mine(asked)
        named = named_metrics(asked["metrics"])
        [told] = Here().score(federation.plan, [device], asked["model"], named)
        return {"scores": {name: list(pair) for name, pair in told.items()}}

    def _answer(self, asked: Tree) -> Tree:
        federation, device = self._mine(asked)
        plan, question = federation.plan, getattr(federation.plan.selection, "asks", None)
        if question is None:
            raise ValueError(f"{plan.selection} does not say what it asks; give it a property asks")
        with one_blas_thread():
            [answer] = Here().ask(question, [device], plan.model, read_only(asked["model"]))
        return {"answer": answer} if not isinstance(answer, str) else {"failed": answer}

    # -- what it keeps ---------------------------------------------------------------------------

    def _kept(self, name: str) -> DeviceStates:
        """Return what was kept under a name; the server says which round it goes on from."""
        if not name:
            return DeviceStates()
        path = self._file(name)
        if not path.exists():
            raise ValueError("what was kept after the round that the server goes on from is gone")
        return DeviceStates.of(KEPT.read(path, self._key)[1], None)

    def _keep(self, name: str, kept: DeviceStates) -> bool:
        """Write what is kept, if anything is; return whether it is."""
        path = self._file(name)
        if not kept.names:
            return False
        path.parent.mkdir(exist_ok=True, mode=0o700)
        KEPT.write(path, {}, kept.arrays(), self._key)
        files = sorted(path.parent.glob("*.kept"), key=lambda file: file.stat().st_mtime_ns)
        for old in files[:-_BACK]:
            old.unlink(missing_ok=True)
        return True

    def _file(self, name: str) -> Path:
        if not (len(name) == 32 and set(name) <= set("0123456789abcdef")):
            raise MessageError(f"{name[:40]!r} names no round")
        return self.folder / "kept" / f"{name}.kept"


def among(device: Device, count: int, place: int) -> list[Device]:
    """Return a device at its place among others, of which nothing is known.

    Their names only stand in order; so numbers come before text, and text that goes on comes later.
    """
    if not 0 <= place < count <= 1 << 20:
        raise MessageError(f"place {place} of {count} devices")
    if isinstance(device.id, int):
        names: list[Id] = [device.id - place + n for n in range(count)]
    else:
        names = [n if n < place else f"{device.id}/{n:07d}" for n in range(count)]
    of = device.index
    others = [Remote(n, rows=1, dimensions=of.dimensions, metric=of.metric) for n in names]
    return [*others[:place], device, *others[place + 1 :]]
