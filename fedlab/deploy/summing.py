"""Secure sums over a network: a device's part, which lies in a file between messages; the server's.

A device trains, and sends public keys; takes those of others, and sends shares of its secrets;
takes shares of theirs, masks what it trained, and sends that; tells shares of those that came, or
dropped out (see `fedlab.privacy.secure_aggregation`). Any of these messages may find another
process at its node.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedlab.core.typing import Array
from fedlab.deploy.messages import OTHER_FORM, Tree, form_in, refuse_aside
from fedlab.device.states import DeviceStates
from fedlab.federation.checkpoint import flattened, unflattened
from fedlab.federation.on_devices import Asked, Sent, weights_of
from fedlab.files.arrays import FileKind
from fedlab.files.keys import Key
from fedlab.privacy.fixed_point import from_bits, to_bits
from fedlab.privacy.masks import KEY, Words
from fedlab.privacy.secure_aggregation import (
    SEALED,
    Graph,
    SumExchange,
    Summand,
    ThresholdError,
    lowest,
)
from fedlab.privacy.shamir import SHARE
from fedlab.training import Trained
from fedlab.updates import Updates
from fedlab.updates.secure import TOLD, told_of, whole_words
from fedlab.updates.stages import At

SUMMAND = FileKind(b"FEDLABSU", "file of a sum under masks", ValueError)
Read = Callable[[int, Tree], Any]
#: ``ask(kind, messages, read)``: what was read of devices' answers, by their places in the sum.
Ask = Callable[[str, Mapping[int, Tree], Read], dict[int, Any]]


class Summing:
    """A device's part in a sum. A message uses up the file that the one before it left.

    Parameters
    ----------
    path : Path
    key : Key
        What the file is sealed under.
    """

    def __init__(self, path: Path, key: Key) -> None:
        self._path, self._key = path, key

    def begin(self, asked: Tree, part: Trained) -> Tree:
        """Keep what was trained, and return the device's public keys."""
        one, name = Summand(0), os.urandom(16).hex()
        fields = "blocks", "kept", "stats", "rows", "epochs", "steps", "losses"
        trained = {field: getattr(part, field) for field in fields}
        self._leave("share", one, sum=name, asked=asked, trained=trained)
        return {"sum": name, "publics": one.publics}

    def share(self, asked: Tree) -> Tree:
        """Return a share of its secrets for each neighbour."""
        memory, one = self._taken("share", asked)
        shares = one.share(asked["met"], asked["threshold"])
        self._leave("mask", one, **memory)
        return {"shares": shares}

    def trained(self, asked: Tree) -> tuple[Summand, Tree, Trained]:
        """Take shares of others; return the message by which it trained, and what came of it."""
        memory, one = self._taken("mask", asked)
        one.receive(asked["sealed"])
        part = Trained(places=np.zeros(1, np.intp), set_aside={}, **memory["trained"])
        return one, memory["asked"], part

    def masked(self, asked: Tree, one: Summand, sent: Sent, fixed: Any) -> list[Array]:
        """Return what it sends under masks: bits of its whole numbers, and of what it tells."""
        told = told_of(sent.updates, sorted(sent.averaged), asked["among"])
        [words] = whole_words(fixed, sent.updates, told, asked["among"])
        bits = fixed.bits, 64
        masked = lowest(one.masked(words), bits)
        self._leave("tell", one, sum=asked["sum"], at=one.place)
        coded = (to_bits(word, width) for word, width in zip(masked, bits, strict=True))
        return [np.frombuffer(data, np.uint8) for data in coded]

    def tell(self, asked: Tree) -> Tree:
        """Return shares of the secrets by which masks are taken out of the sum."""
        _, one = self._taken("tell", asked)
        return {"shares": one.unmask(asked["came"], asked["dropped"])}

    def _leave(self, next: str, one: Summand, **memory: Any) -> None:
        arrays: dict[str, Any] = {}
        said = flattened({**memory, "next": next, "summand": one.memory}, "", arrays)
        self._path.parent.mkdir(exist_ok=True, mode=0o700)
        SUMMAND.write(self._path, {"said": said}, arrays, self._key)

    def _taken(self, way: str, asked: Tree) -> tuple[Tree, Summand]:
        try:
            said, arrays = SUMMAND.read(self._path, self._key)
            memory: Tree = unflattened(said["said"], arrays)
            if (memory.pop("next"), memory["sum"]) != (way, asked["sum"]):
                raise FileNotFoundError
            self._path.unlink()  # of two messages at once, one gets it
        except FileNotFoundError:
            why = "this device has answered that message of a sum before, or has no part in it"
            raise ValueError(why) from None
        memory.setdefault("at", asked.get("at"))
        return memory, Summand.recalled(memory["at"], memory.pop("summand"))


class AtNodes(SumExchange):
    """The server's side of a sum whose devices are at nodes.

    Parameters
    ----------
    ask : callable
    graph, threshold, bits
        See `fedlab.privacy.secure_aggregation.SumExchange`.
    """

    def __init__(self, ask: Ask, graph: Graph, threshold: int, bits: tuple[int, ...]) -> None:
        super().__init__(graph, threshold, bits)
        self._ask = ask

    def finish(self, gone: Collection[int] = ()) -> list[Words]:
        """Ask for shares, and return the sums."""
        whose = self.asked(gone)
        ways = {n: {"came": [*came], "dropped": [*out]} for n, (came, out) in whose.items()}
        told = self._ask("tell", ways, lambda n, a: _shares(a, set.union(*whose[n]), SHARE))
        self.silent += sorted(whose.keys() - told.keys())
        return self.told(told)


def summed(
    ask: Callable[[str, dict[int, Tree]], dict[int, Tree | str]],
    asked: Asked,
    answers: Mapping[int, Tree | str],
) -> tuple[Sent, list[int]]:
    """Return the sum of what devices trained, and who keeps something.

    Parameters
    ----------
    ask : callable
        ``ask(kind, messages)``: what devices answer, by their places in the cohort, or in words
        why there is no answer.
    asked : Asked
    answers : mapping of int to dict, or to str
        What they said after they had trained.
    """
    plan, places, aside = asked.plan, asked.places, dict[int, str]()
    began = _read(answers, lambda _, answer: _begun(asked, answer), aside)
    here, number = [*began], {at: n for n, at in enumerate(began)}

    def these(kind: str, messages: Mapping[int, Tree], read: Read) -> dict[int, Any]:
        """Ask devices by their places in the sum; set aside those with no answer to believe."""
        named = {here[n]: {**told, "sum": began[here[n]]["sum"]} for n, told in messages.items()}
        read_at = _read(ask(kind, named), lambda at, answer: read(number[at], answer), aside)
        return {number[at]: found for at, found in read_at.items()}

    try:
        at = At(plan.seed, asked.number)
        total = plan.chain.open(places[here], at, through=partial(AtNodes, these))
    except ThresholdError as error:
        total, aside = None, aside | dict.fromkeys(here, f"no secure sum: {error}")
    if total is None:
        nobody = Updates(places[:0], {}, np.empty(0), {}), np.empty(0, np.intp)
        lost = not here and all(isinstance(a, dict) and a.get("hopeless") for a in answers.values())
        return Sent(*nobody, asked.kept, asked.stages, set_aside=aside, hopeless=lost), []
    exchange: AtNodes = total.exchange
    bits, least = exchange.server.bits, exchange.server.threshold
    # Keys, then shares: who sends none takes part no longer.
    met = exchange.met({n: told["publics"] for n, told in enumerate(began.values())})
    ways: dict[int, Tree] = {n: {"at": n, "threshold": least, "met": m} for n, m in met.items()}
    sealed = exchange.shared(these("share", ways, lambda n, a: _shares(a, {*met[n]}, SEALED)))
    # Weights of those that are left, and what they send under masks.
    left = np.array([here[n] for n in sealed], np.intp)
    stats = {name: np.array([began[at][name] for at in left]) for name in ("rows", "epochs")}
    cohort = [asked.devices[place] for place in places.tolist()]
    weights = weights_of(plan, cohort, left, stats["rows"])
    own = zip(sealed.items(), weights.tolist(), strict=True)
    ways = {n: {"sealed": of, "weight": weight, "among": len(here)} for (n, of), weight in own}
    masked = these("mask", ways, lambda _, answer: _masked(asked, bits, answer))
    forms = [form for form, _, _ in masked.values()]
    usual: Any = max(forms, key=forms.count, default=((), ()))
    # From updates of nobody follow the form of the sum, and how codecs read it.
    like = form_in(asked, places[:0], {name: of for name, *of in usual[0]})
    total.expect(plan.chain.apply(asked.stages, like, DeviceStates(), at)[0], [*TOLD, *usual[1]])
    keep = list[int]()
    for n, (form, words, keeps) in masked.items():
        if form != usual or [len(w) for w in words] != total.counts:
            aside[here[n]] = OTHER_FORM
            continue
        exchange.add(n, words)
        keep += [here[n]] if keeps else []
    came = np.array([n in exchange.server.came for n in sealed], np.bool_)
    sent = Updates(places[left[came]], {}, weights[came], {n: c[came] for n, c in stats.items()})
    of = asked.kept, asked.stages, {*usual[1]}, aside, bool(came.all())
    return Sent(sent, left[came], *of, summed=total), keep


def _read(answers: Mapping[int, Tree | str], read: Read, aside: dict[int, str]) -> dict[int, Any]:
    """Return what was read of answers; why the others could not be is put into `aside`."""
    found = dict[int, Any]()
    for at, answer in answers.items():
        try:
            if isinstance(answer, str):
                raise ValueError(answer)
            found[at] = read(at, answer)
        except Exception as why:  # an answer may say anything
            aside[at] = str(why)[:500]
    return found


def _begun(asked: Asked, answer: Tree) -> Tree:
    refuse_aside(asked, answer)
    if not (answer["rows"] >= 1 and answer["epochs"] >= 1):
        raise ValueError(f"it trained on {answer['rows']} rows, {answer['epochs']} times")
    if not _are_bytes(answer["publics"], KEY) or len(answer["publics"]) != 2:
        raise ValueError("its public keys are none")
    return answer


def _shares(answer: Tree, places: Collection[int], size: int) -> dict[int, bytes]:
    shares: dict[int, bytes] = answer["shares"]
    if shares.keys() != {*places} or not _are_bytes(shares.values(), size):
        raise ValueError("it sent other shares than those that it was asked for")
    return shares


def _are_bytes(parts: Iterable[object], size: int) -> bool:
    return all(isinstance(part, bytes) and len(part) == size for part in parts)


def _masked(asked: Asked, bits: Sequence[int], answer: Tree) -> tuple[Any, list[Words], bool]:
    blocks = {str(name): of for name, of in answer["blocks"].items()}
    form_in(asked, asked.places[:0], blocks)
    kinds = np.uint32, np.uint64
    pairs = zip(answer["masked"], bits, kinds, strict=True)
    words = [from_bits(coded.tobytes(), width, kind) for coded, width, kind in pairs]
    form = tuple((name, *of) for name, of in blocks.items()), tuple(answer["averaged"])
    return form, words, answer["keeps"] is True
