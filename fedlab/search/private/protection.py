"""What a protection is worth, as data: what it protects, what not, what it assumes and costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Protection", "protections"]


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


def protections(schemes: Iterable[Protection] | None = None) -> pd.DataFrame:
    """Return schemes as a table, a row a scheme; by default all of this package.

    Examples
    --------
    >>> list(protections().index)  # doctest: +NORMALIZE_WHITESPACE
    ['masked sums', 'masked k-th distance', 'masked vote', 'two-server shares', 'noisy release',
     'noisy total']
    """
    import pandas as pd

    rows = list(_all() if schemes is None else schemes)
    names = [field.name for field in fields(Protection)]
    table = pd.DataFrame([[getattr(row, name) for name in names] for row in rows], columns=names)
    return table.set_index("name")


def _all() -> tuple[Protection, ...]:
    from fedlab.search.private.bisection import MASKED_KTH_DISTANCE
    from fedlab.search.private.masks import MASKED_SUMS
    from fedlab.search.private.release import NOISY_RELEASE
    from fedlab.search.private.shares import TWO_SERVER_SHARES
    from fedlab.search.private.total import NOISY_TOTAL
    from fedlab.search.private.voting import MASKED_VOTE

    masked = MASKED_SUMS, MASKED_KTH_DISTANCE, MASKED_VOTE
    return *masked, TWO_SERVER_SHARES, NOISY_RELEASE, NOISY_TOTAL
