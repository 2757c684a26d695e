"""Any torch module as a model: its parameters and buffers are the flat vector."""

from __future__ import annotations

import copy
import fnmatch
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedlab.core.extras import imported
from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import Array
from fedlab.core.validation import known, of_kind, one_of, require, whole_number
from fedlab.models.base import Layout, Pull, refuse_other_than_classes, refuse_other_than_numbers
from fedlab.models.torch_replica import Replica, aliased, drawn_from, one_torch_thread

if TYPE_CHECKING:
    from torch import Tensor, nn

Measure = Callable[[Any, Any], Any]


class TorchModel:
    """A torch module and a loss, as a model; takes the extra ``torch``.

    The vector holds the parameters that train, in the module's order (tied ones once), and then the
    buffers of floating point that belong to its state, such as a batch normalisation's running
    statistics. Frozen parameters and whole numbers (how many batches a normalisation saw) stay at
    home. The vector is float32 whatever the module's type; float64 vectors compute in float64.

    Parameters
    ----------
    module : torch.nn.Module
        A copy is taken. In training it gets rows of a step, each of shape `inputs`; in
        evaluation up to 512.
    loss : nn.CrossEntropyLoss, nn.MSELoss, or callable
        Of the module's output and the targets, a mean over rows. With the cross-entropy labels are
        classes, and the accuracy is measured.
    inputs : int or tuple of int
        Shape of a row: the numbers of a device's vectors are laid out so.
    tokens : bool
        Whether rows are whole numbers, as an embedding layer takes them.
    targets : {"labels", "inputs"}
        What the loss compares with; "inputs" for language models, which predict their own rows.
    measures : mapping of str to callable, optional
        Further measures of output and targets, each a mean over rows.
    head : str, optional
        Name of the last layer, as in ``module.named_modules()``: what enters it is the embedding.
    start : {"drawn", "given"}
        Where the server begins: layers draw their parameters anew from the run's seed (by their
        ``reset_parameters``), or the module's own ones, as for a pre-trained module.
    carries : tuple of str
        Names, or patterns, of frozen parameters that are in the vector all the same, so that an
        algorithm can move them (`fedlab.algorithms.FedExLoRA`): its phases mask them.
    device : str
        Where it computes: "cpu", or "cuda".

    Notes
    -----
    What the module draws in training (dropout, also inside attention) comes from the run's seed,
    the round, the device and the step. torch's own generator is neither read nor moved. A module
    computes on one thread, so that its bits don't depend on the number of processors.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    >>> TorchModel(net, nn.CrossEntropyLoss(), inputs=(1, 28, 28)).layout.size
    7850
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Any,
        inputs: int | tuple[int, ...],
        *,
        tokens: bool = False,
        targets: Literal["labels", "inputs"] = "labels",
        measures: Mapping[str, Measure] | None = None,
        head: str | None = None,
        start: Literal["drawn", "given"] = "drawn",
        carries: tuple[str, ...] = (),
        device: str = "cpu",
    ) -> None:
        torch = imported("torch", "torch", "a TorchModel")
        of_kind(module, torch.nn.Module, "module")
        require(loss, "loss", "__call__")
        one_of(getattr(loss, "reduction", "mean"), ("mean",), "the loss's reduction")
        self.shape = (inputs,) if isinstance(inputs, int) else tuple(inputs)
        for size in self.shape:
            whole_number(size, "a size of inputs", 1)
        self.targets = known(targets, ("labels", "inputs"), "kind of targets")
        self.start = known(start, ("drawn", "given"), "start")
        #: Whether labels are classes under their cross-entropy, or numbers under a squared error.
        self.of_classes = type(loss) is torch.nn.CrossEntropyLoss and targets == "labels"
        self.squared = type(loss) is torch.nn.MSELoss
        self.loss, self.tokens, self.measures = loss, tokens, dict(measures or {})
        self.module, self.head, self.device = copy.deepcopy(module), head, device
        self.carries = tuple(carries)
        names = [name for name, _ in self.module.named_modules() if name]
        one_of(head, (None, *names), "head")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device is {device!r}, and torch finds no such one; choose 'cpu'")
        self._local = threading.local()
        self.classes: int | None = None
        self.stochastic = self._tried()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _local=threading.local())

    @cached_property
    def _travels(self) -> dict[str, Tensor]:
        """Parameters that train or are carried, and buffers of floating point, by name."""
        held = self.module.state_dict(keep_vars=True)
        named = dict(self.module.named_parameters())
        carried = {name for one in self.carries for name in fnmatch.filter(named, one)}
        moving = {n: p for n, p in named.items() if p.requires_grad or n in carried}
        floats = [(name, b) for name, b in self.module.named_buffers() if b.is_floating_point()]
        return moving | {name: b for name, b in floats if name in held}

    @cached_property
    def layout(self) -> Layout:
        shapes = tuple((name, tuple(part.shape)) for name, part in self._travels.items())
        buffers = dict(self.module.named_buffers())
        return Layout(shapes, tuple(name for name in self._travels if name in buffers))

    @property
    def inputs(self) -> int:
        return math.prod(self.shape)

    def _tried(self) -> bool:
        """Pass two rows through the module; return whether it draws; refuse what can't train."""
        import torch

        names = [name for name, _ in self.module.named_parameters()]
        if lost := [one for one in self.carries if not fnmatch.filter(names, one)]:
            raise ValueError(f"no parameter is called {lost[0]!r}; there are {', '.join(names)}")
        if not any(p.requires_grad for p in self.module.parameters()):
            raise ValueError("no parameter of the module trains; set requires_grad of some")
        norm = torch.nn.modules.batchnorm._NormBase
        counted = set()
        for name, layer in self.module.named_modules():
            if isinstance(layer, norm) and layer.track_running_stats:
                if layer.momentum is None:
                    raise ValueError(
                        f"{name or 'the module'} has momentum=None: its running statistics need "
                        "the number of batches so far, which does not travel; give it a momentum"
                    )
                counted.add(f"{name}.num_batches_tracked".lstrip("."))
        replica = self.replica(np.float32)
        replica.bind(self._vector(self._travels))
        home = {n: b for n, b in replica.module.named_buffers() if n not in self._travels}
        before = {name: b.clone() for name, b in home.items() if name not in counted}
        rows = replica.rows(np.zeros((2, self.inputs), np.float32), self.shape, self.tokens)
        replica.ready(training=True)
        try:
            with one_torch_thread(), torch.no_grad(), drawn_from(generator(0, Purpose.MODEL)) as c:
                output = replica.module(rows)
        except (RuntimeError, IndexError, TypeError) as error:
            raise ValueError(
                f"the module takes no rows of shape {self.shape}: {str(error).splitlines()[0]}"
            ) from error
        if moved := [name for name, b in before.items() if not torch.equal(home[name], b)]:
            raise ValueError(
                f"training changes {', '.join(moved)}, which does not travel: only persistent "
                "buffers of floating point do"
            )
        if self.of_classes:
            if output.ndim != 2:
                raise ValueError(
                    f"the module gives {tuple(output.shape)} for two rows; the cross-entropy of "
                    "labels takes (rows, classes)"
                )
            self.classes = output.shape[1]
        return bool(c.drew)

    def replica(self, numbers: Any) -> Replica:
        """Return this thread's copy of the module for vectors of a type."""
        double = np.dtype(numbers) == np.float64
        replicas = vars(self._local).setdefault("replicas", {})
        if double not in replicas:
            buffers = self.layout.buffers
            trained = [name for name in self._travels if name not in buffers]
            replicas[double] = Replica(
                self.module, trained, buffers, self.head, self.device, double
            )
        return replicas[double]  # type: ignore[no-any-return]

    def _vector(self, parts: Mapping[str, Tensor]) -> Array:
        flat = [parts[name].detach().float().reshape(-1).numpy() for name in self._travels]
        return np.concatenate(flat)

    def check_labels(self, y: Array) -> None:
        if self.classes is not None:
            refuse_other_than_classes(y, self.classes)
        elif self.targets == "labels":
            refuse_other_than_numbers(y)

    def initial(self, seed: int) -> Array:
        """Return the parameters that a server begins with, float32.

        Raises
        ------
        ValueError
            If a layer with parameters has no ``reset_parameters``, unless the start is "given".
        """
        module = self.module
        if self.start == "drawn":
            module = copy.deepcopy(module)
            with one_torch_thread(), drawn_from(generator(seed, Purpose.INITIAL)):
                # Inner layers first: an outer one may know better what its parts begin with.
                for name, layer in reversed(list(module.named_modules())):
                    if self._redrawn(layer):
                        reset = getattr(layer, "reset_parameters", None)
                        if (reset := reset or getattr(layer, "_reset_parameters", None)) is None:
                            raise ValueError(
                                f"{name or 'the module'} ({type(layer).__name__}) has parameters "
                                "and no reset_parameters(), so they can't be drawn from a seed; "
                                "write one, or choose start='given'"
                            )
                        reset()
        return self._vector(module.state_dict())

    @staticmethod
    def _redrawn(layer: nn.Module) -> bool:
        return any(p.requires_grad for p in layer.parameters(recurse=False))

    def loss_against(self, target: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the loss as a function of the module's output alone."""
        return lambda output: self.loss(self.fitted(output, target), target)

    def target(self, replica: Replica, x: Tensor, y: Array) -> Tensor:
        """Return what the loss compares with: labels, whole numbers as int64, or the rows."""
        import torch

        if self.targets == "inputs":
            return x
        whole = y.dtype.kind in "iu" and not self.squared
        kind = torch.int64 if whole else replica.numbers
        return aliased(y).to(self.device, kind)

    def fitted(self, output: Tensor, target: Tensor) -> Tensor:
        """Return an output in the shape of numbers to predict: (n, 1) against (n,) would spread."""
        return output.reshape(target.shape) if self.squared else output

    def loss_and_gradient(
        self,
        parameters: Array,
        x: Array,
        y: Array,
        draw: np.random.Generator | None = None,
        pull: Pull | None = None,
    ) -> tuple[float, Array]:
        import torch

        if pull is not None:
            self._need_head()
        replica = self.replica(parameters.dtype)
        with one_torch_thread():
            replica.bind(parameters)
            rows = replica.rows(x, self.shape, self.tokens)
            loss_of = self.loss_against(self.target(replica, rows, y))
            loss, found = replica.gradients(rows, loss_of, draw, pull)
            gradient = np.empty_like(parameters)
            parts = replica.split(torch.from_numpy(gradient))
            torch._foreach_copy_(parts, [*found, *replica.buffers])
        return float(loss), gradient

    def row_gradients(
        self, parameters: Array, x: Array, y: Array, draw: np.random.Generator | None = None
    ) -> tuple[Array, Array]:
        """Return each row's loss, (n,), and its gradient, (n, p): it passes the module alone."""
        import torch
        from torch.func import functional_call, grad_and_value, vmap

        replica = self.replica(parameters.dtype)
        replica.bind(parameters)
        named = dict(replica.module.named_parameters())
        points = {n: named[n].detach() for n in self.layout.names() if named[n].requires_grad}

        def loss(points: Any, row: Tensor, target: Tensor) -> Tensor:
            output = functional_call(replica.module, points, (row[None],))
            return self.loss_against(target[None])(output)

        by_row = vmap(grad_and_value(loss), (None, 0, 0), randomness="different")
        with one_torch_thread():
            replica.ready(training=True)
            rows = replica.rows(x, self.shape, self.tokens)
            with drawn_from(draw, self.device) if self.stochastic and draw else nullcontext():
                found, losses = by_row(points, rows, self.target(replica, rows, y))
            still = {n: torch.zeros(len(x), *shape) for n, shape in self.layout.shapes}
            parts = [part.reshape(len(x), -1).cpu() for part in (still | found).values()]
            kind = aliased(parameters).dtype
            return losses.to("cpu", kind).numpy(), torch.cat(parts, 1).to(kind).numpy()

    def _outputs(self, parameters: Array, x: Array) -> Any:
        replica = self.replica(parameters.dtype)
        replica.bind(parameters)
        rows = replica.rows(x, self.shape, self.tokens)
        return replica, rows, *replica.outputs(rows)

    def evaluate(self, parameters: Array, x: Array, y: Array) -> dict[str, float]:
        """Return ``loss``, ``accuracy`` of classes or ``mse`` of numbers, and further measures."""
        with one_torch_thread():
            replica, rows, output, _ = self._outputs(parameters, x)
            target = self.target(replica, rows, y)
            output = self.fitted(output, target)
            found = {"loss": float(self.loss(output, target))}
            if self.of_classes:
                found["accuracy"] = float((output.argmax(1) == target).double().mean())
            elif self.squared:
                found["mse"] = found["loss"]
            return found | {name: float(fn(output, target)) for name, fn in self.measures.items()}

    def predict(self, parameters: Array, x: Array) -> Array:
        """Return each row's class probabilities, (n, classes), or what the module gives."""
        return self._seen(parameters, x)[0]

    def embed(self, parameters: Array, x: Array) -> Array:
        """Return what enters the head, (n, its inputs)."""
        return self.predict_and_embed(parameters, x)[1]

    def predict_and_embed(self, parameters: Array, x: Array) -> tuple[Array, Array]:
        """Return both from one pass of the rows."""
        self._need_head()
        return self._seen(parameters, x)

    def _seen(self, parameters: Array, x: Array) -> tuple[Array, Array]:
        with one_torch_thread():
            _, _, output, entered = self._outputs(parameters, x)
            output = output.softmax(1) if self.of_classes else output
            kind = aliased(parameters).dtype
            given, seen = (np.asarray(one.to("cpu", kind)) for one in (output, entered))
            return given, seen

    def _need_head(self) -> None:
        if self.head is None:
            raise ValueError("the model names no head; TorchModel(..., head=...) says which layer")

    def __described__(self) -> dict[str, Any]:
        """Return what tells the model from another one: code, settings, and parameters it keeps."""
        names = ("shape", "tokens", "targets", "measures", "head", "start", "carries", "device")
        layers = self.module.named_modules()
        drawn = [name for name, layer in layers if self._redrawn(layer) and self.start == "drawn"]
        loss = _told(self.loss) if hasattr(self.loss, "named_modules") else self.loss
        told = {"module": _told(self.module, drawn), "loss": loss}
        return {name: getattr(self, name) for name in names} | told


def _told(module: nn.Module, drawn: Sequence[str] = ()) -> list[Any]:
    """Return the code of a module's own classes, its layers' settings, and what is not drawn."""
    plain = (int, float, str, bool, tuple, type(None))
    layers, classes = dict(module.named_modules()), dict[str, Any]()
    for layer in layers.values():
        for kind in type(layer).__mro__:
            if kind.__module__.split(".")[0] not in ("torch", "builtins"):
                codes = [f.__code__ for f in vars(kind).values() if isinstance(f, FunctionType)]
                classes[kind.__qualname__] = codes
    settings = {
        name: [
            type(layer),
            {k: v for k, v in vars(layer).items() if k != "training" and isinstance(v, plain)},
        ]
        for name, layer in layers.items()
    }
    kept = {
        name: np.asarray((part.double() if part.is_floating_point() else part).cpu())
        for name, part in module.state_dict().items()
        if name.rpartition(".")[0] not in drawn
    }
    return [classes, settings, kept]
