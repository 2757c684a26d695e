"""Which models the compiled loops know, and which shapes they are good at."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from fedlab.core.validation import whole_number
from fedlab.models import MLP, LinearRegression, SoftmaxRegression

#: Where the compiled loops and NumPy's BLAS take the same time, each on one thread: parameters,
#: and rows of a step.
_MANY, _LARGE = 1_000_000, 64


@dataclass(frozen=True)
class Stack:
    """A network of affine layers with ReLU between them, as the compiled loops take it.

    Attributes
    ----------
    widths : tuple of int
        Inputs, width of each hidden layer, outputs.
    squared : bool
        Half the squared error of one output; else the cross-entropy of classes.
    l2 : float
        Weight of half the squared weights in the loss.
    """

    widths: tuple[int, ...]
    squared: bool = False
    l2: float = 0.0

    def __post_init__(self) -> None:
        for width in self.widths:
            whole_number(width, "a layer's width", 1)
        if len(self.widths) < 2 or (self.squared and self.widths[1:] != (1,)):
            raise ValueError(
                f"widths are {self.widths}; inputs and outputs are needed, and under a squared "
                "loss one layer with one output"
            )

    @property
    def size(self) -> int:
        """Parameters."""
        return sum((a + 1) * b for a, b in pairwise(self.widths))


def suits_blas(stack: Stack, batch_size: int | None) -> bool:
    """Return whether large matrix products dominate, at which a BLAS beats the compiled loops.

    Examples
    --------
    >>> suits_blas(Stack((784, 1024, 1024, 10)), 128), suits_blas(Stack((784, 200, 10)), 128)
    (True, False)
    """
    return stack.size >= _MANY and (batch_size is None or batch_size >= _LARGE)


def stack_of(model: LinearRegression | SoftmaxRegression | MLP) -> Stack:
    """Return a built-in model as a stack.

    Examples
    --------
    >>> stack_of(MLP(784, (64,), 10))
    Stack(widths=(784, 64, 10), squared=False, l2=0.0)
    """
    if isinstance(model, LinearRegression):
        return Stack((model.inputs, 1), squared=True, l2=model.l2)
    if isinstance(model, SoftmaxRegression):
        return Stack((model.inputs, model.classes), l2=model.l2)
    return Stack((model.inputs, *model.hidden, model.classes))
