"""What leaks: protections of vectors that others search, and the attacks that they are put to."""

from fedlab.leaks.attacks import Attack, KnownPairs, Linkage, Measured, Membership, Trilateration
from fedlab.leaks.defences import (
    Counts,
    Noise,
    Plain,
    Protection,
    Quantised,
    Rotation,
    ScaleAndPerturb,
    Seen,
    Shares,
)
from fedlab.leaks.meter import ATTACKS, PROTECTIONS, leak_summary, leak_table, measure_leaks
from fedlab.leaks.scene import Scene
from fedlab.leaks.trilateration import Prior, trilaterate

__all__ = [
    "ATTACKS",
    "PROTECTIONS",
    "Attack",
    "Counts",
    "KnownPairs",
    "Linkage",
    "Measured",
    "Membership",
    "Noise",
    "Plain",
    "Prior",
    "Protection",
    "Quantised",
    "Rotation",
    "ScaleAndPerturb",
    "Scene",
    "Seen",
    "Shares",
    "Trilateration",
    "leak_summary",
    "leak_table",
    "measure_leaks",
    "trilaterate",
]
