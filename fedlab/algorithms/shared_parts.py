"""Models of which devices share a part, and keep the rest: FedPer, FedRep, FedBN.

What stays never leaves a device: not in a round, and not in what the server stores.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from fedlab.algorithms.base import State, Stateless
from fedlab.core.typing import Array, Bool, Places
from fedlab.core.validation import whole_number
from fedlab.device.states import DeviceStates
from fedlab.models.base import Layout
from fedlab.training.work import Phase, Work


def last_layer(layout: Layout) -> Bool:
    """Return where a model's last weights and their bias stand, (p,).

    Examples
    --------
    >>> layout = Layout((("weights1", (2, 2)), ("weights2", (2, 1)), ("bias2", (1,))))
    >>> last_layer(layout).tolist()
    [False, False, False, False, True, True, True]
    """
    names = [name for name in layout.names() if name not in layout.buffers]
    last = next(name for name, shape in reversed(layout.shapes) if len(shape) > 1 and name in names)
    return layout.mask(*names[names.index(last) :])


@dataclass(frozen=True)
class FedPer(Stateless):
    """Devices share a model's body, and keep its head; both train together.

    Parameters
    ----------
    keep : tuple of str
        Names, or patterns, of the arrays that stay (see `Layout.mask`); by default the last layer.
    epochs : int
        Passes for what stays of a device that has never taken part, when it makes its model.

    Source: Arivazhagan et al., "Federated learning with personalization layers", 2019.

    Examples
    --------
    >>> FedPer(keep=("weights3", "bias3"))
    FedPer(keep=('weights3', 'bias3'), epochs=5)
    """

    keep: tuple[str, ...] = ()
    epochs: int = 5

    def __post_init__(self) -> None:
        whole_number(self.epochs, "epochs", 1)

    def init(self, parameters: Array, devices: int, layout: Layout) -> State:
        stays = layout.mask(*self.keep) if self.keep else last_layer(layout)
        if stays.all():
            raise ValueError(
                f"{type(self).__name__} would keep all of the model on the devices, and share "
                f"nothing; the model has {', '.join(layout.names())}"
            )
        return {"stays": stays, "first": parameters[stays]}

    def _filled(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Array:
        """Return the server's model with each device's own part in it, (m, p)."""
        filled = np.repeat(parameters[None], len(places), axis=0)
        filled[:, state["stays"]] = kept.rows("own part", places, state["first"])
        return filled

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        start = self._filled(state, parameters, places, kept)
        return Phase(start, stays=state["stays"], keep="own part")

    def serve(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        """Return further passes for what stays, under the server's newest body."""
        start = self._filled(state, parameters, places, kept)
        return Phase(start, trained=state["stays"], epochs=self.epochs, send=None)


@dataclass(frozen=True)
class FedRep(FedPer):
    """Devices first train the head that they keep, then the body that they share.

    Parameters
    ----------
    keep, epochs
        See `FedPer`; `epochs` are those of the head in each round, too.

    Source: Collins et al., "Exploiting shared representations for personalized federated learning",
    ICML 2021, algorithm 1.

    Examples
    --------
    >>> FedRep(epochs=3)
    FedRep(keep=(), epochs=3)
    """

    def work(self, state: State, parameters: Array, places: Places, kept: DeviceStates) -> Work:
        start, stays = self._filled(state, parameters, places, kept), state["stays"]
        return (
            Phase(start, trained=stays, epochs=self.epochs, send=None),
            Phase(trained=~stays, stays=stays, keep="own part"),
        )


@dataclass(frozen=True)
class FedBN(FedPer):
    """Devices keep their batch normalisation, and share all other parameters.

    Parameters
    ----------
    keep : tuple of str
        Names, or patterns, of normalisation layers' arrays; buffers stay with them.
    epochs
        See `FedPer`.

    Source: Li et al., "FedBN: federated learning on non-IID features via local batch
    normalization", ICLR 2021, algorithm 1.

    Examples
    --------
    >>> FedBN().keep
    ('*bn*', '*norm*')
    """

    keep: tuple[str, ...] = field(default=("*bn*", "*norm*"))

    def init(self, parameters: Array, devices: int, layout: Layout) -> State:
        chosen = [p for p in self.keep if layout.names(p)] + list(layout.buffers)
        if not chosen:
            raise ValueError(
                f"no array is called like {', '.join(self.keep)}, and there are no buffers; name "
                f"the normalisation layers of {', '.join(layout.names())} with keep="
            )
        return FedPer.init(replace(self, keep=tuple(chosen)), parameters, devices, layout)
