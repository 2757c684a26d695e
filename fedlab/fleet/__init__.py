"""Devices as hardware: who takes part in a round, and how long it takes."""

from fedlab.fleet.admission import admit
from fedlab.fleet.clock import round_seconds
from fedlab.fleet.roster import Changing, Columnar, Roster
from fedlab.fleet.selection import choose_cohort, choose_places, cohort_size
from fedlab.fleet.stragglers import Stragglers

__all__ = [
    "Changing",
    "Columnar",
    "Roster",
    "Stragglers",
    "admit",
    "choose_cohort",
    "choose_places",
    "cohort_size",
    "round_seconds",
]
