"""All schemes of this package, side by side."""

from __future__ import annotations

from dataclasses import astuple, fields
from typing import TYPE_CHECKING

from fedlab.privacy.masks import MASKED_SUMS
from fedlab.privacy.release import NOISY_RELEASE
from fedlab.privacy.release_total import NOISY_TOTAL
from fedlab.privacy.secret_shares import TWO_SERVER_SHARES
from fedlab.privacy.threat_model import Protection
from fedlab.search.private.knn_vote import MASKED_VOTE
from fedlab.search.private.kth_distance import MASKED_KTH_DISTANCE

if TYPE_CHECKING:
    import pandas as pd

_ALL = (
    *(MASKED_SUMS, MASKED_KTH_DISTANCE, MASKED_VOTE),
    *(TWO_SERVER_SHARES, NOISY_RELEASE, NOISY_TOTAL),
)


def protections() -> pd.DataFrame:
    """Return all schemes as a table, a row a scheme; the columns are those of `Protection`.

    Examples
    --------
    >>> list(protections().index)  # doctest: +NORMALIZE_WHITESPACE
    ['masked sums', 'masked k-th distance', 'masked vote', 'two-server shares', 'noisy release',
     'noisy total']
    """
    import pandas as pd

    names = [field.name for field in fields(Protection)]
    return pd.DataFrame(map(astuple, _ALL), columns=names).set_index("name")
