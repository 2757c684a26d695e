"""A box to ask a search engine over devices, in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
from IPython.display import display

from fedlab.data import TextEncoder
from fedlab.search import FederatedSearch
from fedlab.workbench.notebook import cells, widgets

if TYPE_CHECKING:
    from ipywidgets import VBox

#: Letters of a hit's text that are shown: about two lines of a page's table.
_SHOWN = 90


@dataclass(frozen=True, eq=False)
class TextSearch:
    """Questions in words, answered over all devices.

    Attributes
    ----------
    search : FederatedSearch
    encoder : TextEncoder
        The one by which the devices' rows were made.
    texts : sequence of str
        What each key stands for. In a real federation the text would be asked of its device.
    k : int
    """

    search: FederatedSearch
    encoder: TextEncoder
    texts: Sequence[str]
    k: int = 5

    def ask(self, question: str) -> tuple[pd.DataFrame, str]:
        """Return the hits as a table, and in a line what is known of them.

        Raises
        ------
        ValueError
            If no word of the question is known to the encoder.
        """
        [vector] = self.encoder([question])
        if not vector.any():
            raise ValueError(f"no word of {question!r} is known to the encoder; ask in others")
        hits = self.search.search(vector, self.k)
        filled = hits.found[0]
        places, keys = hits.devices[0][filled], hits.keys[0][filled]
        table = pd.DataFrame(
            {
                "device": [str(self.search.devices[place]) for place in places],
                "distance": hits.distances[0][filled].round(3),
                "text": [self.texts[int(key)] for key in keys],
            }
        )
        proof = "proven exact" if hits.certified[0] else "not proven exact"
        return table, (
            f"{question!r}: {len(table)} hits from {len(set(places.tolist()))} of "
            f"{len(self.search.devices)} devices, {proof}, {hits.ledger.bytes:,} bytes in "
            f"{hits.ledger.rounds} round{'s' if hits.ledger.rounds > 1 else ''}"
        )


def query_box(engine: TextSearch, example: str) -> VBox | None:
    """Show a box for questions, with a first one answered; in batch, the answer to that.

    Parameters
    ----------
    engine : TextSearch
    example : str
        The question that stands in the box.

    Returns
    -------
    VBox or None
        A cell that ends with it shows it; None in a batch run.
    """
    if cells.is_batch():
        _answer(engine, example)
        return None
    import ipywidgets

    box = ipywidgets.Text(
        value=example, description="ask", continuous_update=False, layout={"width": "95%"}
    )
    return widgets.live(box, partial(_answer, engine))


def _answer(engine: TextSearch, question: str) -> None:
    table, said = engine.ask(question)
    print(said)
    with pd.option_context("display.max_colwidth", _SHOWN):
        display(table)  # type: ignore[no-untyped-call]
