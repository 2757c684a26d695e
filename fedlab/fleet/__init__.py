"""Devices as hardware: who takes part in a round, and how long it takes."""

from fedlab.fleet.clock import round_seconds
from fedlab.fleet.cohort import choose_cohort
from fedlab.fleet.stragglers import Stragglers

__all__ = ["Stragglers", "choose_cohort", "round_seconds"]
