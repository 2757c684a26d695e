"""What leaks: defences of vectors that others search, and the attacks that they are put to; and
what models, and changes of them, tell of rows.

The attacks on searches know vectors, distances and counts, no more. What a search is given besides,
by ``FederatedSearch.search(columns=)``, needs no attack: labels and metadata arrive in the clear,
for the keys that were found. So the asker learns an attribute of a known row by asking near it, and
with enough queries the whole column of a device that agreed to give it. The device learns which of
its rows are among the k nearest of all, which it is not told otherwise, unless hits are checked or
rescored. A device that declines tells that it holds a hit, as its answer did before.
"""

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
from fedlab.leaks.models import Overheard, chosen_auc, membership_auc, row_from_change
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
    "Overheard",
    "Prior",
    "Quantised",
    "Rotation",
    "ScaleAndPerturb",
    "Scene",
    "Seen",
    "Shares",
    "Trilateration",
    "Undefended",
    "chosen_auc",
    "leak_summary",
    "leak_table",
    "measure_leaks",
    "membership_auc",
    "row_from_change",
    "trilaterate",
]
