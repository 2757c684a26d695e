"""What leaks: defences of vectors that others search, and the attacks that they are put to."""

from fedlab.leaks.attacks import (
    Attack,
    AttackResult,
    KnownPairs,
    Linkage,
    Membership,
    Trilateration,
)
from fedlab.leaks.defences import (
    Counts,
    Defence,
    Noise,
    Quantised,
    Rotation,
    ScaleAndPerturb,
    Seen,
    Shares,
    Undefended,
)
from fedlab.leaks.meter import ATTACKS, DEFENCES, leak_summary, leak_table, measure_leaks
from fedlab.leaks.scene import Scene
from fedlab.leaks.trilateration import Prior, trilaterate

__all__ = [
    "ATTACKS",
    "DEFENCES",
    "Attack",
    "AttackResult",
    "Counts",
    "Defence",
    "KnownPairs",
    "Linkage",
    "Membership",
    "Noise",
    "Prior",
    "Quantised",
    "Rotation",
    "ScaleAndPerturb",
    "Scene",
    "Seen",
    "Shares",
    "Trilateration",
    "Undefended",
    "leak_summary",
    "leak_table",
    "measure_leaks",
    "trilaterate",
]
