"""What server and nodes say to each other: named arrays and plain values, bounded and checked.

A message is a tree of arrays, numbers, text, lists and dicts, in the form of fedlab's files
(`fedlab.files.arrays`): its arrays are as long as the message is, and nothing in it can run code.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np

from fedlab._version import __version__
from fedlab.core.typing import Array, Places
from fedlab.federation.checkpoint import flattened, unflattened
from fedlab.federation.on_devices import Asked
from fedlab.federation.plan import Plan
from fedlab.files.arrays import FileKind
from fedlab.updates import Updates
from fedlab.updates.codecs import Codec, ErrorFeedback
from fedlab.updates.stages import At

Id = int | str
Tree = dict[str, Any]
#: Bytes of a message, at most; and those around its arrays, as a rule.
LARGEST, AROUND = 1 << 28, 1 << 13
#: Packages on which bits depend.
_PACKAGES = ("numpy", "numba", "llvmlite", "scipy", "scikit-learn", "usearch")


class MessageError(ValueError):
    """A message that is torn, too long, or says something else than it should."""


MESSAGE = FileKind(b"FEDLABMS", "message", MessageError)


def packed(tree: Mapping[str, Any]) -> bytes:
    """Return a tree as a message.

    Examples
    --------
    >>> unpacked(packed({"round": 3, "model": np.zeros(2)}))
    {'round': 3, 'model': array([0., 0.])}
    """
    arrays: dict[str, Any] = {}
    said = flattened(dict(tree), "", arrays)
    return MESSAGE.to_bytes({"said": said}, arrays)


def unpacked(data: bytes, most: int = LARGEST) -> Tree:
    """Return what a message says.

    Raises
    ------
    MessageError
        If it is longer than `most`, torn, or no message.
    """
    if len(data) > most:
        raise MessageError(f"a message of {len(data):,} bytes came; {most:,} are the most")
    parameters, arrays = MESSAGE.from_bytes(data)
    try:
        return dict(unflattened(parameters["said"], arrays))
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise MessageError(f"a message says nothing that could be read ({error})") from error


def versions() -> dict[str, str]:
    """Return what must be the same at server and nodes for the same bits."""
    here = {"fedlab": __version__, "machine": platform.machine()}
    here["python"] = ".".join(platform.python_version_tuple()[:2])
    return here | {name: version(name) for name in _PACKAGES}


def differing(here: Mapping[str, str], server: Mapping[str, str]) -> str:
    """Return in words what is not the same at a node and at the server; "" if all is."""
    odd = [n for n in sorted(here.keys() | server.keys()) if here.get(n) != server.get(n)]
    return ", ".join(f"{n} {here.get(n)} (the server {server.get(n)})" for n in odd)[:500]


def digest(*parts: object) -> str:
    """Return 16 bytes that stand for some values, as hex digits."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


# -- blocks, as they travel -----------------------------------------------------------------------


def blocks_out(plan: Plan, sent: Updates, at: At, messages: Mapping[str, bytes]) -> dict[str, Any]:
    """Return a device's blocks: as its codec coded them, where that is what the stages passed on.

    A block that is counted as nothing is left out.
    """
    blocks: dict[str, Any] = {}
    for name, block in sent.blocks.items():
        size, row = int(sent.nbytes_of(name)[0]), block[0]
        told = {"size": size, "width": len(row), "type": row.dtype.str, "coded": False}
        message = messages.get(name, b"")
        if size and size == len(message):
            coded = {**told, "coded": True, "row": np.frombuffer(message, np.uint8)}
            with suppress(TypeError, ValueError):  # what no server could read travels whole
                if block_in(plan, name, coded, sent, at).tobytes() == row.tobytes():
                    told = coded
        if size:
            told.setdefault("row", row)
        blocks[name] = told
    return blocks


#: Why an answer is set aside that can't be joined with the others.
OTHER_FORM = "its blocks have another form than those of other devices"


def refuse_aside(asked: Asked, answer: Mapping[str, Any]) -> None:
    """Raise, with the reason, where an answer to training is of another round, or of no update."""
    if answer["round"] != asked.number:
        raise ValueError(f"an answer of round {answer['round']}, in round {asked.number}")
    if "aside" in answer:
        raise ValueError(str(answer["aside"]))


def form_in(asked: Asked, places: Places, blocks: Mapping[str, Any]) -> Updates:
    """Return blocks of zeros, of which devices tell (width, type), with their layouts; checked."""
    layout, layouts, zeros = asked.plan.model.layout, {}, dict[str, Array]()
    for name, (width, told) in blocks.items():
        kind = np.dtype({"<f4": "<f4"}.get(told, "<f8"))
        travels = asked.wire.travels(name)
        wide = layout.size if travels is None else int(np.count_nonzero(travels))
        if name == "change" and (width, told) != (wide, asked.model.dtype.str):
            raise ValueError(f"a change of {width} {told}; {wide} are needed")
        if not 0 <= width * kind.itemsize <= LARGEST:
            raise MessageError(f"{name!r} would have {width} numbers")
        if width == wide:
            layouts[name] = layout if travels is None else layout.part(travels)
        zeros[name] = np.zeros((len(places), width), kind)
    return Updates(places, zeros, np.ones(len(places)), {}, layouts=layouts)


def block_in(plan: Plan, name: str, told: Mapping[str, Any], like: Updates, at: At) -> Array:
    """Return the row of a block that a device sent, (n,); `like` has blocks of its form."""
    zeros = like.blocks[name]
    if "row" not in told:
        return np.asarray(zeros[0])
    row: Array = told["row"]
    if told["coded"]:
        codec, stage = _codec(plan, name)
        where = codec.context(name, zeros, like, at._replace(stage=stage))
        row = codec.decode(row.tobytes(), replace(where, device=int(like.places[0])))
    if row.shape != zeros[0].shape or row.dtype != zeros.dtype:
        said = f"it says {zeros.shape[1]} {zeros.dtype}"
        raise MessageError(f"{name!r} is {row.dtype} of shape {row.shape}; {said}")
    return row


def _codec(plan: Plan, name: str) -> tuple[Any, int]:
    """Return the codec that a block passes last, and the place of its stage."""
    for place, stage in reversed([*enumerate(plan.chain.stages)]):
        codec = stage.codec if isinstance(stage, ErrorFeedback) else stage
        if isinstance(codec, Codec) and name in (codec.blocks or (name,)):
            return codec, place
    raise MessageError(f"{name!r} came coded, and the plan has no codec for it")
