"""Devices as hardware: who takes part in a round, how long it takes, who averages with whom."""

from fedlab.fleet.admission import admit
from fedlab.fleet.asking import ByDiversity, ByQuality, PowerOfChoice
from fedlab.fleet.asynchronous import FedAsync, FedBuff, Schedule
from fedlab.fleet.clock import round_seconds
from fedlab.fleet.deadline import Deadline
from fedlab.fleet.oort import Oort
from fedlab.fleet.roster import Changing, Columnar, Roster
from fedlab.fleet.selection import (
    AtRandom,
    ByRows,
    FedCS,
    Poisson,
    RoundRobin,
    choose_cohort,
    cohort_size,
)
from fedlab.fleet.stragglers import Stragglers
from fedlab.fleet.topology import Gossip, Hierarchy, Topology
from fedlab.fleet.view import Cohort, Inquiry, Plainly, Selection, View

__all__ = [
    "AtRandom",
    "ByDiversity",
    "ByQuality",
    "ByRows",
    "Changing",
    "Cohort",
    "Columnar",
    "Deadline",
    "FedAsync",
    "FedBuff",
    "FedCS",
    "Gossip",
    "Hierarchy",
    "Inquiry",
    "Oort",
    "Plainly",
    "Poisson",
    "PowerOfChoice",
    "Roster",
    "RoundRobin",
    "Schedule",
    "Selection",
    "Stragglers",
    "Topology",
    "View",
    "admit",
    "choose_cohort",
    "cohort_size",
    "round_seconds",
]
