"""Keys and certificates of a test bed, made and made known where Flower is installed.

An authority that signs one certificate and is thrown away, and a key pair for each node. Run as
``python -m fedlab.deploy.keys make FOLDER NODES``, and ``register FOLDER NODES``, which prints the
numbers that SuperLink gives the nodes.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import sys
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec

from fedlab.files.atomic import write_bytes

_DAYS = datetime.timedelta(days=30)


def make(folder: Path, nodes: int) -> None:
    """Write ``ca.crt``, ``server.crt``, ``server.key``, and ``node0`` ... with ``.pub`` beside."""
    authority, server, *pairs = (ec.generate_private_key(ec.SECP384R1()) for _ in range(nodes + 2))
    for name, key in (("ca", authority), ("server", server)):
        crt = _certificate(f"fedlab {name}", key.public_key(), authority)
        (folder / f"{name}.crt").write_bytes(crt.public_bytes(form.Encoding.PEM))
    write_bytes(folder / "server.key", _private(server, form.PrivateFormat.PKCS8), mode=0o600)
    for number, pair in enumerate(pairs):
        public = pair.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
        write_bytes(
            folder / f"node{number}", _private(pair, form.PrivateFormat.OpenSSH), mode=0o600
        )
        (folder / f"node{number}.pub").write_bytes(public)


def _private(key: ec.EllipticCurvePrivateKey, kind: Any) -> bytes:
    return key.private_bytes(form.Encoding.PEM, kind, form.NoEncryption())


def _certificate(name: str, key: Any, signer: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    now, common = datetime.datetime.now(datetime.UTC), x509.NameOID.COMMON_NAME
    mine, by = (x509.Name([x509.NameAttribute(common, n)]) for n in (name, "fedlab ca"))
    here = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    made = x509.CertificateBuilder(by, mine, key, x509.random_serial_number())
    made = made.not_valid_before(now - _DAYS).not_valid_after(now + _DAYS)
    made = made.add_extension(x509.BasicConstraints(mine == by, None), critical=True)
    made = made.add_extension(x509.SubjectAlternativeName(here), critical=False)
    return made.sign(signer, hashes.SHA384())


def register(folder: Path, nodes: int) -> list[int]:
    """Make the nodes' public keys known to SuperLink: nobody else is let in."""
    from flwr.cli.flower_config import read_superlink_connection
    from flwr.cli.utils import init_http_client_from_connection
    from flwr.proto.control_pb2 import RegisterNodeRequest
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    control = init_http_client_from_connection(read_superlink_connection("fedlab"))
    numbers = []
    for number in range(nodes):
        public = form.load_ssh_public_key((folder / f"node{number}.pub").read_bytes())
        asked = RegisterNodeRequest(public_key=public_key_to_bytes(public))
        numbers.append(control.RegisterNode(request=asked).node_id)
    control.close()
    return numbers


if __name__ == "__main__":
    os.umask(0o077)
    way = {"make": make, "register": register}[sys.argv[1]]
    if (numbers := way(Path(sys.argv[2]), int(sys.argv[3]))) is not None:
        print("nodes:", *numbers)
