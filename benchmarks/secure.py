"""What does a secure sum cost? Bytes and seconds, by devices, parameters and neighbours.

Each sum is run whole, with a share of the devices that drop out before they send and as many after,
and must equal the sum modulo 2**24 of what was sent. Bytes are exact; they hold keys, shares and
masked numbers of 24 bits. Seconds are those of this machine, on one thread: a device's are the mean
of all, for its keys, shares and masks; the server's are for taking out what did not cancel.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fedlab.files.atomic import write_bytes
from fedlab.privacy.secure_aggregation import SecureExchange, few_neighbours, ring

BITS = 24


@dataclass(frozen=True)
class Cost:
    """Of one sum.

    Attributes
    ----------
    devices, parameters, neighbours, dropped : int
    up, down : float
        Mean bytes of a device.
    ratio : float
        Of `up` to the bytes of plain float32 numbers.
    device, server : float
        Seconds.
    """

    devices: int
    parameters: int
    neighbours: int
    dropped: int
    up: float
    down: float
    ratio: float
    device: float
    server: float


def cost(devices: int, parameters: int, few: bool, drops: float) -> Cost:
    """Run one sum, check it, and return what it cost."""
    draw = np.random.default_rng(0)
    near, threshold = few_neighbours(devices) if few else (devices - 1, -(-2 * devices // 3))
    graph = ring(devices, near, draw.permutation(devices).tolist())
    lost = int(drops * devices)
    order = draw.permutation(devices).tolist()
    began = time.perf_counter()
    exchange = SecureExchange(graph, threshold, [BITS])
    total, words = np.zeros(parameters, np.uint32), np.arange(parameters, dtype=np.uint32)
    for place in order[lost:]:
        exchange.send(place, [words * np.uint32(place + 1)])
    sent = time.perf_counter()
    [summed] = exchange.finish(order[lost : 2 * lost])
    done = time.perf_counter()
    for place in order[lost:]:
        total += words * np.uint32(place + 1)
    if not np.array_equal(summed, total & np.uint32(2**BITS - 1)):
        raise RuntimeError(f"the sum over {devices} devices is wrong")
    up, down = (part / devices for part in (exchange.ledger.up, exchange.ledger.down))
    seconds = (sent - began) / devices, done - sent
    return Cost(*(devices, parameters, near, lost), up, down, up / (4 * parameters), *seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write all numbers to a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks secure", description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[10, 100, 1_000])
    parser.add_argument("--parameters", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument(
        "--all", type=int, default=100, help="up to so many devices, with all as neighbours (100)"
    )
    parser.add_argument("--drops", type=float, default=0.05, help="before sending, and after (.05)")
    parser.add_argument(
        "--json", type=Path, default=Path("reports/benchmarks/secure.json"), help="results, whole"
    )
    given = parser.parse_args(arguments)
    if min(*given.devices, *given.parameters) < 3 or not 0 <= given.drops < 0.15:
        parser.error("--devices and --parameters take numbers from 3, --drops less than .15")
    found: list[Cost] = []
    print(
        f"{'devices':>7} {'numbers':>8} {'neighbours':>10} {'kB up':>8} {'kB down':>8} "
        f"{'to plain':>8} {'s device':>9} {'s server':>9}"
    )
    for devices in given.devices:
        for few in (False, True):
            if devices > given.all if not few else few_neighbours(devices)[0] == devices - 1:
                continue
            for parameters in given.parameters:
                one = cost(devices, parameters, few, given.drops)
                found.append(one)
                print(
                    f"{one.devices:>7,} {one.parameters:>8,} {one.neighbours:>10} "
                    f"{one.up / 1e3:>8.1f} {one.down / 1e3:>8.1f} {one.ratio:>8.2f} "
                    f"{one.device:>9.4f} {one.server:>9.3f}",
                    flush=True,
                )
    given.json.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(given.json, json.dumps([asdict(one) for one in found], indent=1).encode())
    print(f"all numbers: {given.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
