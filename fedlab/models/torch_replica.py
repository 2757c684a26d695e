"""A torch module at a point of the flat vector: its parameters are views into the vector's memory.

torch is imported inside of functions, for the base does without.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fedlab.core.typing import Array
from fedlab.models.base import Pull

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Rows that pass through a module together where no gradient is asked for.
_PART = 512


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Return a context in which this thread's operations use no other: bits depend on how many."""
    import torch

    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Alias:
    """The memory of an array, read-only or not: torch would warn of each read-only one."""

    def __init__(self, array: Array) -> None:
        self.array, interface = array, dict(array.__array_interface__)
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}


def aliased(array: Array) -> Tensor:
    """Return a tensor over an array's own memory, which it keeps alive."""
    import torch

    return torch.from_numpy(np.asarray(_Alias(np.ascontiguousarray(array))))


@cache
def _addressed() -> Any:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Addressed(TorchDispatchMode):  # type: ignore[misc]
        """All that is drawn within comes from one generator; torch's global one is left alone."""

        def __init__(self, generator: Any) -> None:
            super().__init__()
            self.generator, self.drew = generator, False

        def __torch_dispatch__(
            self, op: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if torch.Tag.nondeterministic_seeded not in op.tags or kwargs.get("generator"):
                return op(*args, **kwargs)
            names = [one.name for one in op._schema.arguments]
            given = dict(zip(names, args, strict=False)) | kwargs
            if ("dropout_p" in names and not given.get("dropout_p")) or given.get("train") is False:
                return op(*args, **kwargs)
            self.drew = True
            if op is torch.ops.aten.native_dropout.default:
                x, p = args[:2]
                mask = torch.empty_like(x, dtype=torch.bool)
                mask.bernoulli_(1 - p, generator=self.generator)
                return x * mask / (1 - p), mask
            if "generator" not in names:
                plain = op._overloadname == "default"
                name = "generator" if plain else f"{op._overloadname}_generator"
                if name not in op.overloadpacket.overloads():
                    raise ValueError(
                        f"the module draws through {op}, which takes no generator, so that its "
                        "chance could not come from the run's seed; use another operation, such as "
                        "nn.Dropout or torch.bernoulli"
                    )
                op = getattr(op.overloadpacket, name)
            return op(*args, **kwargs, generator=self.generator)

    return Addressed


def drawn_from(draw: np.random.Generator, device: str = "cpu") -> Any:
    """Return a context in which all that torch draws comes from `draw`."""
    import torch

    generator = torch.Generator(device)
    return _addressed()(generator.manual_seed(int(draw.integers(2**63))))


class Replica:
    """A copy of a module, at a vector; each thread has its own.

    Parameters
    ----------
    module : nn.Module
    parameters, buffers : sequence of str
        What stands in the vector, in this order.
    head : str, optional
        The layer of which is remembered what enters it.
    device : str
    double : bool
        Whether to compute in float64.
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: Sequence[str],
        buffers: Sequence[str],
        head: str | None,
        device: str,
        double: bool,
    ) -> None:
        import torch

        # What doesn't train is never written to: all replicas of a type share it.
        given = [] if double else module.named_parameters()
        frozen = [p for name, p in given if not (p.requires_grad or name in parameters)]
        self.module = copy.deepcopy(module, {id(one): one for one in frozen}).to(device)
        if double:
            self.module.double()
        named, kept = dict(self.module.named_parameters()), dict(self.module.named_buffers())
        self.parameters = [named[name] for name in parameters]
        self.buffers = [kept[name] for name in buffers]
        floats = [p.dtype for p in self.module.parameters() if p.is_floating_point()]
        self.numbers = next(iter(floats), torch.float64 if double else torch.float32)
        self.device, self.at, self.flat = device, -1, torch.empty(0)
        self.headed = head is not None
        if head is not None:
            self.module.get_submodule(head).register_forward_pre_hook(self._remember)

    def _remember(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        self.entered: Tensor = given[0]

    def split(self, flat: Tensor) -> list[Tensor]:
        """Return the parts of a flat tensor, shaped as parameters and buffers are."""
        parts = [*self.parameters, *self.buffers]
        cut = flat.split([part.numel() for part in parts])
        return [piece.view(part.shape) for piece, part in zip(cut, parts, strict=True)]

    def bind(self, vector: Array) -> None:
        """Stand at a vector: in its own memory where type and device allow it, else a copy."""
        vector = np.ascontiguousarray(vector)
        at = vector.__array_interface__["data"][0]
        if at == self.at:
            if self.device != "cpu":
                self.flat.copy_(aliased(vector))
            return
        self.flat, self.at = aliased(vector).to(self.device), at
        self.parts = self.split(self.flat)
        self.points = self.parts[: len(self.parameters)]
        self.own = [*self.buffers]  # written by the module, or of another type than the vector
        self.own_parts = self.parts[len(self.parameters) :]
        for parameter, part in zip(self.parameters, self.points, strict=True):
            if parameter.dtype == part.dtype:
                parameter.data = part
            else:
                self.own.append(parameter.detach())
                self.own_parts.append(part)

    def ready(self, training: bool) -> None:
        """Bring what has memory of its own to the vector's values."""
        import torch

        if self.module.training != training:
            self.module.train(training)
        if self.own:
            torch._foreach_copy_(self.own, self.own_parts)

    def rows(self, x: Array, shape: tuple[int, ...], tokens: bool) -> Tensor:
        """Return rows, (n, d), as the module takes them."""
        import torch

        kind = torch.int64 if tokens else self.numbers
        return aliased(x).to(self.device, kind).reshape(len(x), *shape)

    def gradients(
        self,
        x: Tensor,
        loss_of: Callable[[Tensor], Tensor],
        draw: np.random.Generator | None,
        pull: Pull | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, and its gradient by parameter; buffers then hold their new values."""
        import torch

        self.ready(training=True)
        chance: AbstractContextManager[Any] = nullcontext()
        if draw is not None:
            chance = drawn_from(draw, self.device)
        with chance:
            loss = loss_of(self.module(x))
        value, ends, along = loss.detach(), [loss], [torch.ones_like(loss)]
        if pull is not None:
            entered = self.entered.detach().flatten(1)
            further, pulled = pull(entered.cpu().to(self.flat.dtype).numpy())
            ends.append(self.entered)
            along.append(aliased(pulled).to(self.entered).reshape(self.entered.shape))
            value = value + further
        training = [p for p in self.parameters if p.requires_grad]
        given = iter(torch.autograd.grad(ends, training, along, allow_unused=True))
        found = [next(given) if p.requires_grad else None for p in self.parameters]
        return value, [
            torch.zeros_like(point) if one is None else one.to(point.dtype)
            for one, point in zip(found, self.points, strict=True)
        ]

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the module gives in evaluation, and what enters its head, (n, e).

        Of a module without a head nothing enters, (0,).
        """
        import torch

        found, seen = [], [torch.empty(0)]
        self.ready(training=False)
        with torch.no_grad():
            for part in x.split(_PART):
                found.append(self.module(part))
                if self.headed:
                    seen.append(self.entered.flatten(1))
        return torch.cat(found), torch.cat(seen[1:] or seen)
