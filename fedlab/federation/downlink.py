"""The model's way down, coded: what devices hold, and what each must still receive.

The server keeps the model that devices have decoded, x̂. In a round it sends everybody who takes
part the coded difference x - x̂, and x̂ moves by what that decodes to; devices train from x̂, and
their changes are measured from it, while the server's x moves by these in full. A device that
missed rounds receives the differences that it missed, or all of x̂ where that is fewer bytes, as
for one that comes first.

Source: Gruntkowska, Tyurin and Richtarik, "EF21-P and friends: improved theoretical communication
complexity for distributed optimization with bidirectional compression", ICML 2023, algorithm 1
(EF21-P). What was left out stays in x - x̂, so that no further error feedback is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedlab.algorithms import Algorithm
from fedlab.core.typing import I64, Array, Places
from fedlab.core.validation import read_only
from fedlab.device.states import DeviceStates
from fedlab.federation.plan import Plan
from fedlab.federation.state import RunState
from fedlab.federation.wire import BUFFERS, CHANGE
from fedlab.training.work import phases_of
from fedlab.updates import Codec, Updates
from fedlab.updates.codecs import refuse_stretching
from fedlab.updates.stages import At

#: What a device keeps: how many differences there were when it last received the model.
_SEEN = "differences seen"


def begun(
    down: Sequence[Codec], algorithm: Algorithm, state: Any, start: Array
) -> dict[str, Array] | None:
    """Return what the server keeps of what it sent, before the first round.

    Refused are codecs that can't bring a model down, and an algorithm that sends none.
    """
    if not down:
        return None
    for codec in down:
        refuse_stretching(codec, "a codec of down=")
    work = algorithm.work(state, read_only(start), np.zeros(1, np.intp), DeviceStates())
    phases = phases_of(work)
    if not any(p.start is not None and not p.own and p.received is None for p in phases):
        raise ValueError(
            f"down= codes a model that all devices start from, and {type(algorithm).__name__} "
            "sends them something else; leave it out"
        )
    return {"model": start, "bytes": np.zeros(1, np.int64)}


def sent_down(plan: Plan, state: RunState, places: Places) -> tuple[RunState, I64]:
    """Return the state after the server has sent its model, and the bytes by which each of some
    devices receives fewer than all of it (more, if negative), (m,).
    """
    # Under privacy a round without devices is like any other: what was sent tells of none.
    if state.sent is None or not (len(places) or plan.privacy):
        return state, np.zeros(len(places), np.int64)
    held, number = state.sent["model"], state.round + 1
    difference, layout = (state.parameters - held)[None], plan.model.layout
    travels = np.ones(layout.size, np.bool_) if layout.buffered is None else ~layout.buffered
    blocks = {CHANGE: difference[:, travels], BUFFERS: difference[:, ~travels]}
    layouts = {CHANGE: layout.part(travels)}
    sent = Updates(np.zeros(1, np.intp), blocks, np.ones(1), {}, layouts=layouts)
    kept = state.kept
    for place, codec in enumerate(plan.down):
        sent, _, kept = codec.apply({}, sent, kept, At(plan.seed, number, stage=f"down {place}"))
    model = held.copy()
    model[travels] += sent.blocks[CHANGE][0]
    model[~travels] += sent.blocks[BUFFERS][0]
    total = state.sent["bytes"]
    total = np.append(total, total[-1] + sent.nbytes_of(CHANGE)[0] + sent.nbytes_of(BUFFERS)[0])
    seen = kept.rows(_SEEN, places, np.array([-1]))[:, 0]
    missed = np.where(seen < 0, held.nbytes, total[-1] - total[seen])
    now = np.full((len(places), 1), len(total) - 1)
    after = replace(state, sent={"model": model, "bytes": total}, kept=kept.put(_SEEN, places, now))
    return after, held.nbytes - np.minimum(missed, held.nbytes)
