"""What a protection is worth, as data: what it protects, what not, what it assumes and costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protection:
    """A scheme's threat model in plain words.

    Attributes
    ----------
    name : str
    protects : str
        What stays hidden, and from whom.
    does_not : str
        What is seen all the same, and what is not noticed.
    assumes : str
        What must hold for the rest to be true.
    cost : str
        Rounds and bytes: for D devices, n rows of d numbers in all, c classes or centroids.
    source : str
        Where the scheme is from.
    """

    name: str
    protects: str
    does_not: str
    assumes: str
    cost: str
    source: str
