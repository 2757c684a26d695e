"""``python -m fedlab.deploy``: a test bed of real processes on this machine, from the shell."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedlab.deploy.bed import TestBed
from fedlab.device.device import Device
from fedlab.files.keys import Key
from fedlab.index.vectorindex import VectorIndex
from fedlab.search import FederatedSearch

_EPILOG = """example:
  python -m fedlab.deploy up --devices wards        (in one shell; Ctrl-C or `down` ends it)
  python -m fedlab.deploy run experiment.py --rounds 5
  python -m fedlab.deploy search experiment.py queries.npy -k 3"""


def devices_in(folder: Path) -> list[Device]:
    """Return the devices of a folder: ``NAME.fedlab`` sealed under the key in ``NAME.key``."""
    files = sorted(folder.glob("*.fedlab"))
    if not files:
        raise FileNotFoundError(f"{folder} has no NAME.fedlab; save indexes there, with their keys")
    keys = [Key.from_file(file.with_suffix(".key")) for file in files]
    return [Device(f.stem, VectorIndex.open(f, k)) for f, k in zip(files, keys, strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m fedlab.deploy", epilog=_EPILOG, formatter_class=form
    )
    parser.add_argument("--bed", type=Path, default=Path("bed"), help="its folder (bed)")
    ways = parser.add_subparsers(dest="way", required=True)
    up = ways.add_parser("up", help="start a bed, and hold it until it is told to end")
    up.add_argument("--devices", type=Path, required=True, help="NAME.fedlab and NAME.key files")
    run, search = ways.add_parser("run", help="train"), ways.add_parser("search", help="find rows")
    for way in (run, search):
        way.add_argument("experiment", type=Path)
        way.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="its parameters")
    run.add_argument("--rounds", type=int, required=True, help="in all, counted from the first")
    search.add_argument("queries", type=Path, help="a .npy file")
    search.add_argument("-k", type=int, default=5)
    ways.add_parser("status", help="who is there")
    ways.add_parser("down", help="end the bed")
    given = parser.parse_args(arguments)
    gone = given.way not in ("up", "down") and (given.bed / "stop").exists()
    if given.way != "up" and (gone or not (given.bed / "bed.json").exists()):
        parser.error(f"no test bed is in {given.bed}; start one with `up`, or name it by --bed")
    if given.way == "down":
        (given.bed / "stop").touch()
        return 0
    try:
        return _up(given.bed, devices_in(given.devices)) if given.way == "up" else _asked(given)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _asked(given: argparse.Namespace) -> int:
    """Do what a bed that runs is asked for."""
    how = dict(map(_parameter, getattr(given, "set", ())))
    bed = TestBed.at(given.bed)
    try:
        bed.connect()
        if given.way == "status":
            print(*(f"{device}: {how}" for device, how in bed.status().items()), sep="\n")
            return 0
        federation = bed.federation(given.experiment, **how)
        if given.way == "run":
            federation.run_to(given.rounds, given.experiment.with_suffix(".checkpoint"), every=1)
            print(federation.history.wide().to_string())
            if len(remarks := federation.history.remarks()):
                print(remarks.to_string(index=False))
        else:
            queries = np.load(given.queries, allow_pickle=False)
            there = bed.respondents(federation)
            hits = FederatedSearch(there, patience=bed.patience).search(queries, given.k)
            print(hits.to_frame().to_string(index=False))
    finally:
        bed.close()
    return 0


def _parameter(word: str) -> tuple[str, Any]:
    name, _, value = word.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        said = f"--set {word}: a parameter is NAME=JSON, such as rate=0.1 or way='\"fast\"'"
        raise ValueError(said) from None


def _up(folder: Path, devices: list[Device]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with TestBed(folder, devices) as bed:
            print(f"{len(devices)} nodes are there; Ctrl-C ends them", flush=True)
            while not (folder / "stop").exists():
                time.sleep(0.2)
            print("ending", bed.status())
    except KeyboardInterrupt:
        print("ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())
