"""A run on disk: all that its next round depends on, so that it can go on as if nothing had been.

Randomness needs no place here: draws are addressed by seed and round
(see `fedlab.core.randomness`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.device.states import DeviceStates
from fedlab.federation.history import History
from fedlab.federation.participation import Participation
from fedlab.federation.state import RunState
from fedlab.files.arrays import FileKind

Arrays = dict[str, NDArray[Any]]


class CheckpointError(ValueError):
    """A file is not a whole, unaltered checkpoint, or belongs to another run."""


#: What a header can raise that says other than what is there.
_ODD = (AttributeError, FileNotFoundError, LookupError, RecursionError, TypeError, ValueError)

#: Fields of a state that are no trees; all others are, and which those of one kind are.
_OTHERS = ("round", "parameters", "kept", "has_trained", "history")
_TREES = [part.name for part in fields(RunState) if part.name not in _OTHERS]
_KINDS = {"stages": tuple, "chosen": dict, "traffic": tuple, "flight": dict, "private": dict}

CHECKPOINT = FileKind(b"FEDLABCP", "checkpoint", CheckpointError)


@dataclass(frozen=True)
class Checkpoint:
    """A federation between two rounds.

    Attributes
    ----------
    settings : dict of str
        What the run is made of, in words (see `Plan.settings`); refuses another run.
    state : RunState
        Trees in it are arrays, numbers, text, None, and lists and dicts of them.
    participation : Participation
    """

    settings: dict[str, str]
    state: RunState
    participation: Participation = field(default_factory=Participation)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, whole or not at all.

        Raises
        ------
        TypeError
            If a state holds something that a file can't.
        """
        state, arrays = self.state, dict[str, NDArray[Any]]()
        parts: dict[str, Any] = {"history": state.history, "kept": state.kept}
        for prefix, part in {**parts, "participation": self.participation}.items():
            arrays |= {f"{prefix} {name}": array for name, array in part.arrays().items()}
        arrays["parameters"] = state.parameters
        known = {"settings": self.settings, "round": state.round, "trained": state.has_trained}
        for name in _TREES:
            known[name] = flattened(getattr(state, name), f"{name} state", arrays)
        CHECKPOINT.write(path, known, arrays)

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], keep_in: str | os.PathLike[str] | None = None
    ) -> Checkpoint:
        """Read a file that `write` made.

        Parameters
        ----------
        path : path-like
        keep_in : path-like, optional
            The folder in which devices kept what they keep.

        Raises
        ------
        CheckpointError
            If it is torn, altered, or no checkpoint.
        OSError
            If it can't be read.
        """
        known, arrays = CHECKPOINT.read(path)
        try:
            trees = {name: unflattened(known[name], arrays) for name in _TREES}
            state = RunState(
                round=int(known["round"]),
                parameters=np.array(arrays["parameters"]),
                kept=DeviceStates.of(_named("kept ", arrays), keep_in),
                has_trained=bool(known["trained"]),
                history=History.of(_named("history ", arrays)),
                **trees | {name: kind(trees[name]) for name, kind in _KINDS.items()},
            )
            taken = Participation.of(_named("participation ", arrays))
            return cls(dict(known["settings"]), state, taken)
        except _ODD as error:
            raise CheckpointError(
                f"{os.fspath(path)} does not hold what its header says ({error}); begin anew"
            ) from error

    def refuse_other(self, settings: Mapping[str, str], path: str | os.PathLike[str]) -> None:
        """Raise CheckpointError, naming what differs, unless it is of a run with these settings."""
        names = sorted(self.settings.keys() | settings.keys())
        differ = [name for name in names if self.settings.get(name) != settings.get(name)]
        if differ:
            name = differ[0]
            raise CheckpointError(
                f"{os.fspath(path)} is of another run: its {name} is {self.settings.get(name)}, "
                f"this one's {settings.get(name)}"
                + (f" ({', '.join(differ[1:])} differ too)" if differ[1:] else "")
                + "; give another file, or remove this one to begin anew"
            )


# -- trees of arrays as JSON and arrays ------------------------------------------------------------

# A node is {kind: content}; arrays are named.


def _named(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    return {n[len(prefix) :]: array for n, array in arrays.items() if n.startswith(prefix)}


def flattened(node: Any, name: str, arrays: Arrays) -> Any:
    """Return a tree as JSON takes it; its arrays are put into `arrays`."""
    if node is None or isinstance(node, str | bool | int | float):
        return {"plain": node}
    if isinstance(node, bytes):
        return {"bytes": node.hex()}
    if isinstance(node, np.ndarray | np.generic):
        array = np.asarray(node)
        if array.dtype.kind not in "biufUM":
            raise TypeError(f"{name} holds an array of type {array.dtype}; a file can't")
        arrays[name] = np.array(array, dtype=array.dtype.newbyteorder("<"))
        return {"array": name}
    if isinstance(node, list | tuple):
        parts = [flattened(part, f"{name}.{i}", arrays) for i, part in enumerate(node)]
        return {type(node).__name__: parts}
    if isinstance(node, dict) and all(type(key) in (str, int) for key in node):
        values = [flattened(part, f"{name}.{i}", arrays) for i, part in enumerate(node.values())]
        return {"dict": [list(pair) for pair in zip(node, values, strict=True)]}
    raise TypeError(
        f"{name} is a {type(node).__name__}; a checkpoint holds arrays, numbers, text, bytes, "
        "None, and lists and dicts of them, with keys of text or whole numbers"
    )


def unflattened(node: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return the tree that was flattened."""
    [(kind, content)] = node.items()
    if kind == "plain":
        return content
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "array":
        return np.array(arrays[content])
    if kind in ("list", "tuple"):
        parts = [unflattened(part, arrays) for part in content]
        return parts if kind == "list" else tuple(parts)
    if kind == "dict":
        return {key: unflattened(part, arrays) for key, part in content}
    raise ValueError(f"a state of kind {json.dumps(kind)}")
