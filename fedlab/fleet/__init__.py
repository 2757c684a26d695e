"""Devices as hardware: who takes part in a round, and how long it takes."""

from fedlab.fleet.clock import round_seconds
from fedlab.fleet.cohort import choose_cohort

__all__ = ["choose_cohort", "round_seconds"]
