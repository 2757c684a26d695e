"""Text on devices, for language models: dealt out by subject, and continued with a context."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import log_softmax

from fedlab.algorithms.lora import adapters_of
from fedlab.core.ledger import Ledger
from fedlab.core.randomness import Purpose, generator
from fedlab.core.threads import usable_threads
from fedlab.core.typing import F32, F64, Array
from fedlab.core.validation import known
from fedlab.data import Dataset, Pretrained, TextEncoder, Texts, dirichlet
from fedlab.device import Device
from fedlab.device.from_data import spread
from fedlab.index import VectorIndex
from fedlab.models import Model
from fedlab.search import FederatedSearch, Responding

#: Rows of tokens whose scores are computed together.
_ROWS = 4


def deal_texts(
    texts: Texts,
    subjects: Sequence[str],
    pretrained: Pretrained,
    length: int,
    rows: tuple[int, int, int],
    seed: int,
) -> tuple[list[Device], list[Device]]:
    """Return one device a subject, twice: holding out rows to measure on, and rows to choose on.

    A device's rows are blocks of tokens. Its texts are drawn in an order of their own for each
    seed, and no text has a part in two of the three: rows to train on, to choose on, to measure on.

    Parameters
    ----------
    texts : Texts
    subjects : sequence of str
    pretrained : Pretrained
        By whose tokenizer texts become tokens.
    length : int
        Tokens of a row.
    rows : tuple of three int
        Rows to train on, to choose on, and to measure on.
    seed : int

    Raises
    ------
    ValueError
        If there is no such subject, or it has too few texts.
    """
    measured: list[Device] = []
    choosing: list[Device] = []
    for subject in subjects:
        place = texts.classes.index(known(subject, texts.classes, "subject"))
        draw = generator(seed, Purpose.PARTITION, device=place)
        order = iter(draw.permutation(np.flatnonzero(texts.y == place)).tolist())
        parts = []
        for count in rows:
            taken: list[str] = []
            part = pretrained.blocks(taken, length)
            while len(part) < count:
                if (text := next(order, None)) is None:
                    raise ValueError(f"{subject} has too few texts for {rows} rows of {length}")
                taken.append(texts.texts[text])
                part = pretrained.blocks(taken, length)
            parts.append(part[:count])
        keys = np.split(np.arange(sum(rows)), np.cumsum(rows)[:-1])
        for devices, held in ((measured, 2), (choosing, 1)):
            index = VectorIndex(length, "l2sq")
            for which in (0, held):
                index.add(parts[which], keys=keys[which], labels=np.full(rows[which], place))
            devices.append(Device(subject, index).holding_out(keys[held]))
    return measured, choosing


def deal_stories(
    texts: Texts, pretrained: Pretrained, length: int, rows: int, devices: int, seed: int
) -> list[Device]:
    """Return devices with some of the texts, dealt out by Dirichlet label skew at alpha = 1.

    A row is a text, cut or filled to a length; a third of each device's rows is held out.
    """
    draw = generator(seed, Purpose.RESAMPLING)
    drawn = texts.take(np.sort(draw.permutation(len(texts))[:rows]))
    x = pretrained.padded(drawn.texts, length)
    features = tuple(f"token {place}" for place in range(length))
    stories = Dataset(x, drawn.y, texts.classes, features, drawn.origin)
    partition = dirichlet(drawn.y, devices, 1.0, seed=seed)
    return [device.hold_out(1 / 3, seed) for device in spread(stories, partition, metric="l2sq")]


def passages(device: Device, pretrained: Pretrained, encoder: TextEncoder) -> Device:
    """Return the device with an index of its passages: halves of its training rows, as text.

    Their vectors are the encoder's, and their text is the column ``text``.
    """
    rows = device.training()[0]
    found = [pretrained.text(half) for half in _whole(rows.reshape(-1, rows.shape[1] // 2))]
    vectors = encoder(found)
    index = VectorIndex(vectors.shape[1])
    index.add(vectors, metadata=pd.DataFrame({"text": found}))
    return Device(device.id, index)


def retrieved(
    devices: Sequence[Device], pretrained: Pretrained, encoder: TextEncoder
) -> tuple[pd.DataFrame, Ledger]:
    """Find a passage for each row that devices hold out: some own one, the nearest own, of all.

    The third quarter of a row asks. The search over all devices is exact and certified, and all
    owners agree to give text.

    Returns
    -------
    DataFrame
        A row for each one held out: ``device``; passages ``any of its own``, ``nearest of its
        own``, ``nearest of all``; ``elsewhere``, whether the last is another device's.
    Ledger
        What the searches over all devices sent.

    Raises
    ------
    RuntimeError
        If an answer is not certified.
    """
    stores = [passages(device, pretrained, encoder) for device in devices]
    held = [device.validation()[0] for device in devices]
    half, quarter = held[0].shape[1] // 2, held[0].shape[1] // 4
    rows = np.concatenate(held)[:, half : half + quarter]
    places = [place for place, each in enumerate(held) for _ in each]
    asked = encoder([pretrained.text(row) for row in _whole(rows)])
    search = FederatedSearch([Responding(store, gives=["text"]) for store in stores])
    hits = search.search(asked, 1, columns=["text"])
    if not hits.certified.all():
        raise RuntimeError(f"answers are not certified: {hits.set_aside or hits.approximate}")
    texts = [store.index.metadata["text"] for store in stores]
    near = [stores[p].index.search(one, 1).keys[0, 0] for p, one in zip(places, asked, strict=True)]
    some = [texts[p].iloc[number % len(texts[p])] for number, p in enumerate(places)]
    return pd.DataFrame(
        {
            "device": [devices[place].id for place in places],
            "any of its own": some,
            "nearest of its own": [texts[p].loc[key] for p, key in zip(places, near, strict=True)],
            "nearest of all": hits.given["text"][:, 0],
            "elsewhere": hits.devices[:, 0] != places,
        }
    ), hits.ledger


def _whole(rows: Array) -> list[list[int]]:
    found: list[list[int]] = rows.astype(np.int64).tolist()
    return found


def adapters_apart(model: Model, ends: Sequence[Array]) -> float:
    """Return how far the product of averaged adapters is from the average of their products.

    Relative to the latter, over all layers, in the Frobenius norm; 0 where nothing is lost by
    averaging A and B apart.
    """

    def products(vector: Array) -> F64:
        pairs = adapters_of(model.layout, np.asarray(vector, np.float64))
        return np.concatenate([(b @ a).ravel() for a, b, _ in pairs])

    exact = np.mean([products(end) for end in ends], axis=0)
    lost = products(np.mean(ends, axis=0)) - exact
    return float(np.linalg.norm(lost) / np.linalg.norm(exact))


def with_context(contexts: Sequence[str], rows: ArrayLike, pretrained: Pretrained) -> F32:
    """Return rows whose first half is the end of a text of each one's own, (n, length).

    Where a text is shorter than half a row, it is filled from the left.
    """
    made = np.array(rows, np.float32)
    half = made.shape[1] // 2
    for row, tokens in zip(made, pretrained.tokens(list(contexts)), strict=True):
        row[:half] = ([pretrained.padding] * half + tokens)[-half:]
    return made


def continuation_losses(model: Any, parameters: Array, rows: ArrayLike, last: int) -> F64:
    """Return the mean -log p of the last tokens of each row, (n,)."""
    asked = np.asarray(rows, np.float32)

    def losses(start: int) -> F64:
        part = asked[start : start + _ROWS]
        scores = model.predict(parameters, part)[:, -last - 1 : -1].astype(np.float64)
        following = part[:, -last:, None].astype(np.int64)
        log_p = np.take_along_axis(log_softmax(scores, axis=-1), following, -1)
        return np.asarray(-log_p[..., 0].mean(axis=1))

    with ThreadPoolExecutor(usable_threads()) as pool:
        return np.concatenate(list(pool.map(losses, range(0, len(asked), _ROWS))))
