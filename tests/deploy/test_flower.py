"""Real processes on loopback: SuperLink, SuperNodes, TLS, keys. One bed for all; few messages.

Everything waits for a bounded time, and the last test looks for what is left.
"""

from __future__ import annotations

import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import numpy as np
import pytest

from fedlab.core.extras import flower, missing
from fedlab.deploy import respondents
from fedlab.deploy.__main__ import main
from fedlab.deploy.bed import TestBed, marked
from fedlab.federation.checkpoint import Checkpoint
from fedlab.files.keys import Key
from fedlab.search import FederatedSearch
from tests.deploy.parties import EXPERIMENT, folders, here

EXPERIMENTS = runpy.run_path(str(EXPERIMENT))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing("flower")), reason="Flower is not there (make flower)"),
]
#: Seconds for a message; the machine may be a busy one.
PATIENCE = 240.0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return folders(tmp_path_factory.mktemp("devices"))


class Proxy:
    """Passes bytes on between a node and SuperLink, and counts them, as long as the tests run."""

    def __init__(self, port):
        self.to, self.up, self.down = port, 0, 0
        self.door = socket.create_server(("127.0.0.1", 0))
        self.port = self.door.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                near, _ = self.door.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.to))
            for one, other, way in ((near, far, "up"), (far, near, "down")):
                threading.Thread(target=self._pass, args=(one, other, way), daemon=True).start()

    def _pass(self, one, other, way):
        try:
            while data := one.recv(1 << 16):
                setattr(self, way, getattr(self, way) + len(data))
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def bed(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bed") / "bed"
    with TestBed(folder, here(made), patience=PATIENCE) as bed:
        yield bed
    assert marked(folder) == []
    with socket.socket() as again:  # nobody listens there any more
        assert again.connect_ex(("127.0.0.1", bed.port)) != 0


def test_three_rounds_have_the_bits_of_the_simulation(bed, made):
    apart = bed.federation(EXPERIMENT, patience=PATIENCE, way="scaffold")
    together = EXPERIMENTS["federation"](here(made), way="scaffold")
    for _ in range(2):
        apart.round()
        together.round()
    assert apart.parameters.tobytes() == together.parameters.tobytes()
    assert apart.history.to_frame().equals(together.history.to_frame())
    assert len(apart.history.remarks()) == 0


def test_an_experiment_that_is_refused_leaves_the_old_one_with_the_nodes(bed, tmp_path):
    federation = bed.federation(EXPERIMENT, patience=PATIENCE)
    (tmp_path / "wrong.py").write_text("federation = 3\n")
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        bed.federation(tmp_path / "wrong.py", patience=PATIENCE)
    with pytest.raises(FileNotFoundError):
        bed.federation(tmp_path / "none.py", patience=PATIENCE)
    assert federation.round().measures["devices"] == 3


def test_what_nodes_keep_and_codecs_too(bed, made, tmp_path):
    apart = bed.federation(EXPERIMENT, patience=PATIENCE, way="feedback")
    together = EXPERIMENTS["federation"](here(made), way="feedback")
    apart.run_to(2, tmp_path / "run")
    together.run(2)
    assert apart.parameters.tobytes() == together.parameters.tobytes()


def test_a_sum_under_masks_has_the_bits_of_the_simulation(bed, made):
    apart = bed.federation(EXPERIMENT, patience=PATIENCE, way="masked rows")
    together = EXPERIMENTS["federation"](here(made), way="masked rows")
    apart.round()
    together.round()
    assert apart.parameters.tobytes() == together.parameters.tobytes()
    assert apart.history.to_frame().equals(together.history.to_frame())


def test_a_node_that_is_killed_is_named_and_comes_back(bed, made):
    federation = bed.federation(EXPERIMENT, patience=PATIENCE)
    bed.kill("ward 2")
    assert bed.status()["ward 2"] == "ended"
    began = time.monotonic()
    federation.round()  # Flower misses a node's heartbeat within a minute
    assert time.monotonic() - began < PATIENCE + 30
    assert federation.history.remarks().who.tolist() == ["ward 2"]
    assert "left out" in federation.history.remarks().text[0]
    bed.start_node("ward 2")
    bed.wait()
    report = federation.round()
    assert report.measures["devices"] == 3


def test_nobody_is_let_in_with_another_key_or_to_another_server(bed, tmp_path):
    strangers = tmp_path / "keys"
    strangers.mkdir()
    python = str(flower() / "python")
    command = [python, "-m", "fedlab.deploy.keys", "make", str(strangers), "1"]
    subprocess.run(command, env=bed.environment, check=True, timeout=PATIENCE)
    bed.kill("ward 1")
    limits = {"max-retries": "2", "max-wait-time": "20"}
    for wrong in (
        {"auth-supernode-private-key": str(strangers / "node0")},
        {"root-certificates": str(strangers / "ca.crt")},
    ):
        bed.start_node("ward 1", **wrong, **limits)
        end = time.monotonic() + 90
        while bed.status()["ward 1"] != "ended" and time.monotonic() < end:
            assert "ward 1" not in bed.link.online()
            time.sleep(1)
        bed.kill("ward 1")
    bed.start_node("ward 1")
    bed.wait()
    assert set(bed.status().values()) == {"online"}


def test_a_run_goes_on_after_superlink_was_killed(bed, made, tmp_path):
    path = tmp_path / "run"
    federation = bed.federation(EXPERIMENT, patience=PATIENCE, way="fedper")
    federation.run_to(1, path)
    bed.kill()
    federation.round()
    assert len(federation.history.remarks()) >= 3
    bed.start_superlink()
    bed.wait()  # the link has come anew by itself
    report = federation.round()
    assert report.measures["devices"] == 3
    again = bed.federation(EXPERIMENT, patience=PATIENCE, way="fedper")
    again.run_to(2, path)
    together = EXPERIMENTS["federation"](here(made), way="fedper")
    together.run(2)
    assert again.parameters.tobytes() == together.parameters.tobytes()


LIMITED = """
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from fedlab.deploy import superlink

superlink.limit()
store = SqlObjectStore(":memory:", verify=False)
store.initialize()

def tree(count):
    parts = [ObjectTree(object_id=f"{n:064x}") for n in range(count)]
    return ObjectTree(object_id="f" * 64, children=parts)

most = superlink.LARGEST // superlink.CHUNK
assert len(store.preregister(1, tree(most))) == most + 1
store.put("f" * 64, bytes(superlink.CHUNK))
store.clear()
for refused in (
    lambda: store.preregister(1, tree(4 * most)),
    lambda: store.put("f" * 64, bytes(2 * superlink.CHUNK)),
):
    try:
        refused()
    except ValueError as error:
        print(error)
assert len(store) == 0
"""


def test_superlink_refuses_a_message_that_is_larger_than_ours(bed):
    command = [str(flower() / "python"), "-c", LIMITED]
    done = subprocess.run(command, env=bed.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    objects, size = done.stdout.splitlines()
    assert objects == "a message of more than 60 objects; 268,435,456 bytes may be"
    assert size == "an object of 10,485,760 bytes; 5,242,880 may be"


def test_the_command_line_reaches_a_bed(bed, made, capsys, tmp_path):
    experiment = tmp_path / "digits.py"
    experiment.write_bytes(EXPERIMENT.read_bytes())
    assert main(["--bed", str(bed.folder), "status"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{id}: online" for id in made]
    words = [str(experiment), "--rounds", "1", "--set", 'way="nova"']
    assert main(["--bed", str(bed.folder), "run", *words]) == 0
    assert "train_loss" in capsys.readouterr().out
    for wrong, says in ((["--set", "way=nova"], "--set way=nova: "), (["--set", "pace=1"], "pace")):
        assert main(["--bed", str(bed.folder), "run", *words[:3], *wrong]) == 1
        assert says in capsys.readouterr().err.splitlines()[-1]
    run = EXPERIMENTS["federation"](here(made), way="nova")
    run.round()
    saved = Checkpoint.read(tmp_path / "digits.checkpoint").state
    assert saved.parameters.tobytes() == run.parameters.tobytes()


def test_search_is_certified_and_its_bytes_are_those_on_the_wire(bed, made):
    # Last of those with nodes: a SuperNode behind the proxy would end with SuperLink.
    federation = bed.federation(EXPERIMENT, patience=PATIENCE)
    proxy = Proxy(bed.port)
    bed.kill(7)
    bed.start_node(7, superlink=f"127.0.0.1:{proxy.port}")
    bed.wait()
    devices = sorted(here(made), key=lambda device: str(device.id))
    together = FederatedSearch(devices, first=20)
    apart = FederatedSearch(
        respondents(bed.link, federation, PATIENCE), first=20, patience=PATIENCE
    )
    queries = np.tile(devices[0].index.vectors, (20, 1))[:4000]
    counted, said = [], []
    for some in (queries[:10], queries):
        before = proxy.up, proxy.down
        one, other = apart.search(some, 20), together.search(some, 20)
        assert one.set_aside == {}
        assert one.keys.tolist() == other.keys.tolist()
        assert one.certified.all()
        frame = one.ledger.to_frame()
        assert frame.equals(other.ledger.to_frame())
        mine = frame[frame.device == 7]
        said.append([int(mine[mine.direction == way].bytes.sum()) for way in ("up", "down")])
        counted.append([proxy.up - before[0], proxy.down - before[1]])
    more_said, more_counted = (np.subtract(*pair[::-1]) for pair in (said, counted))
    # What does not grow with the message: TLS, HTTP, polling, heads of messages.
    assert (abs(more_counted - more_said) <= 0.03 * more_said + 50_000).all()
    assert (more_said > 900_000).all()


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGINT, "down"], ids=repr)
def test_a_bed_ends_when_it_is_told_to(made, tmp_path, way):
    devices, folder = tmp_path / "wards", tmp_path / "bed"
    devices.mkdir()
    [device, *_] = here(made)
    key = Key.generate()
    key.write(devices / "ward.key")
    device.index.save(devices / "ward.fedlab", key)
    command = [sys.executable, "-m", "fedlab.deploy", "--bed", str(folder)]
    up = [*command, "up", "--devices", str(devices)]
    with subprocess.Popen(up, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "1 nodes are there; Ctrl-C ends them\n"
        assert marked(folder)
        if way == "down":
            main(["--bed", str(folder), "down"])
        else:
            process.send_signal(way)
        assert process.wait(60) == {signal.SIGTERM: 143}.get(way, 0)
    assert marked(folder) == []


def test_private_keys_are_the_owner_s_alone_and_in_no_log(bed):
    secrets = [*(bed.folder / "keys").iterdir()]
    assert len(secrets) == 3 * 3 + 3
    for file in secrets:
        assert file.suffix in (".crt", ".pub") or file.stat().st_mode & 0o077 == 0
    lines = {
        line
        for file in secrets
        if not file.suffix or file.suffix == ".key"
        for line in file.read_text().splitlines()
        if len(line) > 30 and "PRIVATE" not in line
    }
    logs = "".join(file.read_text(errors="replace") for file in (bed.folder / "logs").iterdir())
    assert lines
    assert not [line for line in lines if line in logs]
    assert "FEDLAB_KEY" not in os.environ
