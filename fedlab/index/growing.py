"""An index that is made of files: of a saved one, and of parts that are to go into it.

In memory stand keys, labels, metadata, lengths and scales, and where in those files each row's
codes stand. Codes are read when they are asked for, so there may be more of them than memory holds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fedlab.core.typing import U64
from fedlab.files.blocks import ChosenRows
from fedlab.index import ingest
from fedlab.index import metadata as about
from fedlab.index.file import Stored
from fedlab.index.table import RowTable
from fedlab.index.texts import TextColumn, plain


class GrowingIndex:
    """An index that takes in rows of others.

    Parameters
    ----------
    stored : Stored
        Without rows, or one whose codes stay in its file.
    """

    def __init__(self, stored: Stored) -> None:
        columns: dict[str, Any] = stored.table.columns
        self._stored, self._codes = stored, [columns["codes"]]
        places = np.arange(stored.table.rows)
        self._table = RowTable({**columns, "codes": places}, dimensions=stored.dimensions)

    def take(self, part: RowTable) -> None:
        """Take in rows, behind those that stand and in the place of those that have their keys.

        Raises
        ------
        ValueError
            If labels or metadata are of another kind than those that stand; nothing is taken then.
        """
        table, columns, start = self._table, part.columns, sum(map(len, self._codes))
        stored = ("codes", "scales", "squares", "keys")
        block: dict[str, Any] = {name: columns[name] for name in stored if name in columns}
        block["codes"] = np.arange(start, start + part.rows)
        labels = plain(columns["labels"]) if "labels" in columns else None
        block |= ingest.labels_for(part.rows, labels, table)
        standing, given = table.columns if table.rows else None, about.metadata_in(columns)
        block |= about.added(standing, given, part.rows)
        self._table = table.appended(block)
        self._codes.append(columns["codes"])
        next_key = max(self._stored.next_key, int(columns["keys"].max()) + 1)
        self._stored = replace(self._stored, next_key=next_key)

    def settled(self, keys: U64 | None = None) -> Stored:
        """Return the index: of rows that share a key the last one; by default those of all keys."""
        known = self._table.columns["keys"]
        chosen = np.zeros(len(known), np.bool_)
        chosen[len(known) - 1 - np.unique(known[::-1], return_index=True)[1]] = True
        if keys is not None:
            chosen &= np.isin(known, keys)
        if not chosen.all():
            self._table = self._table.kept(chosen)
        columns = self._table.columns
        texts = {n: c.merged() for n, c in columns.items() if isinstance(c, TextColumn)}
        rows = {**columns, **texts, "codes": ChosenRows([*self._codes], columns["codes"])}
        return replace(self._stored, table=RowTable(rows, dimensions=self._stored.dimensions))
