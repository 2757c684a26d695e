"""The federated round, readable from top to bottom.

Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
AISTATS 2017, algorithm 1.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab import progress
from fedlab.algorithms import Algorithm, by_name
from fedlab.averaging import Weights, drift, normalised, weigher
from fedlab.checks import whole_number
from fedlab.convergence import Convergence
from fedlab.device import Device
from fedlab.fleet import Stragglers, choose_cohort, round_seconds
from fedlab.history import SERVER, History
from fedlab.models.base import Array, Layout, Model
from fedlab.training import (
    LocalSGD,
    Returned,
    Update,
    Work,
    one_blas_thread,
    train_device,
    validate,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Federation"]


class Federation:
    """Devices that learn one model together, round by round.

    Parameters
    ----------
    devices : sequence of Device
        Ids must differ. Devices with no rows to train on are left out, and `history` says so.
    model : Model
        What is learned.
    algorithm : Algorithm or str
        What the devices do and how the server steps (see `fedlab.algorithms`), or its name.
    local : LocalSGD
        How a device trains.
    cohort : int or float, optional
        Devices of a round: a number, or a share of those that can take part (at least one). All of
        them by default. They are drawn uniformly, without replacement, among those reachable in
        that round (`Profile.availability`).
    weights : {"rows", "uniform"}, mapping of device id to number, or function of a device
        How much a device's update counts; need not sum to one.
    stragglers : Stragglers, optional
        Devices that don't do all their epochs.
    test : tuple of arrays, optional
        (x, y) on which the server measures the model after each round.
    seed : int
        All chance in the run comes from it.
    threads : int
        Devices that train at once. Results do not depend on it.
    parameters : array, optional
        Where to begin, instead of the model's own start; float64 parameters compute in float64.

    Examples
    --------
    >>> from fedlab.index import VectorIndex
    >>> from fedlab.models import LinearRegression
    >>> devices = []
    >>> for number in (1.0, 2.0):
    ...     index = VectorIndex(1)
    ...     _ = index.add([[number], [-number]], labels=[2 * number, -2 * number])
    ...     devices.append(Device(int(number), index))
    >>> federation = Federation(devices, LinearRegression(inputs=1))
    >>> _ = federation.run(rounds=50)
    >>> federation.parameters.round(3)
    array([2., 0.], dtype=float32)
    """

    def __init__(
        self,
        devices: Sequence[Device],
        model: Model,
        *,
        algorithm: Algorithm | str = "fedavg",
        local: LocalSGD | None = None,
        cohort: int | float | None = None,
        weights: Weights = "rows",
        stragglers: Stragglers | None = None,
        test: tuple[ArrayLike, ArrayLike] | None = None,
        seed: int = 0,
        threads: int = 1,
        parameters: ArrayLike | None = None,
    ) -> None:
        self.model = model
        self.algorithm = by_name(algorithm) if isinstance(algorithm, str) else algorithm
        self.local = local or LocalSGD()
        self.seed = whole_number(seed, "seed", 0, 2**64 - 1)
        self.threads = whole_number(threads, "threads", 1)
        self.history = History()
        self.round_number = 0
        #: Why `run` ended: "rounds", "converged" or "interrupted"; None before.
        self.stopped: str | None = None
        self.devices = self._able(devices)
        self._holding = [device for device in self.devices if device.validation_rows]
        self._place = {device.id: place for place, device in enumerate(self.devices)}
        self._cohort = self._cohort_size(cohort)
        self._stragglers = stragglers
        self._weight_of = weigher(weights, self.devices)
        self._test = None if test is None else (np.asarray(test[0]), np.asarray(test[1]))
        self._parameters = np.empty(0, np.float32)
        self.parameters = model.initial(self.seed) if parameters is None else parameters
        self._state = self.algorithm.init(self._parameters, len(self.devices))

    # -- setting out -------------------------------------------------------------------------

    def _able(self, devices: Sequence[Device]) -> list[Device]:
        ids = [device.id for device in devices]
        if len(set(map(str, ids))) < len(ids):
            raise ValueError("two devices have the same id; each needs one of its own")
        able = []
        for device in devices:
            if device.rows == 0:
                self.history.remark(0, device.id, "left out: no rows to train on")
                continue
            if device.index.dimensions != self.model.inputs:
                raise ValueError(
                    f"device {device.id!r} holds vectors of {device.index.dimensions} numbers; the "
                    f"model takes {self.model.inputs}"
                )
            try:
                self.model.check_labels(device.labels)
            except (TypeError, ValueError) as error:
                raise type(error)(f"device {device.id!r}: {error}") from None
            able.append(device)
        if not able:
            raise ValueError(f"none of the {len(ids)} devices has rows to train on; give some data")
        return able

    def _cohort_size(self, cohort: int | float | None) -> int:
        able = len(self.devices)
        if cohort is None:
            return able
        if isinstance(cohort, float):
            if not 0 < cohort <= 1:
                raise ValueError(f"cohort is {cohort}; a share must lie above 0 and at most at 1")
            return max(1, round(cohort * able))
        return whole_number(cohort, "cohort", 1, able)

    # -- the model ---------------------------------------------------------------------------

    @property
    def layout(self) -> Layout:
        """Names and shapes within `parameters`."""
        return self.model.layout

    @property
    def parameters(self) -> Array:
        """(p,) copy of the model's parameters; assign to continue from others."""
        return self._parameters.copy()

    @parameters.setter
    def parameters(self, values: ArrayLike) -> None:
        vector = np.asarray(values)
        if vector.dtype != np.float64:
            vector = vector.astype(np.float32)
        if vector.shape != (self.layout.size,) or not np.isfinite(vector).all():
            raise ValueError(
                f"parameters of shape {vector.shape} were given; {self.layout.size} finite numbers "
                f"are needed: {dict(self.layout.shapes)}"
            )
        self._parameters = vector.copy()

    # -- the round ---------------------------------------------------------------------------

    def round(self) -> None:
        """Select, train, send, aggregate, step: one round, noted in `history`.

        Nothing changes before all of it is done, so an interrupt leaves the last whole round.
        """
        number = self.round_number + 1
        began = time.perf_counter()
        with one_blas_thread():
            cohort, epochs = self._select(number)
            work = self.algorithm.work(self._state, self._parameters, self._places(cohort))
            updates = self._train(cohort, epochs, work, number)
            usable, remarks = _usable(cohort, updates)
            moved, state, moves = self._step(usable, number)
            measures = {
                **self._ledger(cohort, updates, work),
                **_summary(usable),
                **moves,
                **self._evaluated(moved),
            }
        self._parameters, self._state, self.round_number = moved, state, number
        self.history.record(number, SERVER, **measures)
        for who, text in remarks:
            self.history.remark(number, who, text)
        self.history.wall_seconds[number] = time.perf_counter() - began

    def _select(self, number: int) -> tuple[list[Device], NDArray[np.int64]]:
        """Choose the cohort, and how many epochs each of it does."""
        cohort = choose_cohort(self.devices, self._cohort, self.seed, number)
        if self._stragglers is None:
            return cohort, np.full(len(cohort), self.local.epochs)
        epochs = self._stragglers.epochs(cohort, self.local.epochs, self.seed, number)
        kept = np.flatnonzero(epochs)
        return [cohort[place] for place in kept], epochs[kept]

    def _places(self, cohort: Sequence[Device]) -> NDArray[np.intp]:
        return np.array([self._place[device.id] for device in cohort], np.intp)

    def _train(
        self, cohort: list[Device], epochs: NDArray[np.int64], work: Work, number: int
    ) -> list[Update]:
        def train(place: int) -> Update:
            return train_device(
                cohort[place],
                self.model,
                work.of(place),
                self.local,
                seed=self.seed,
                round=number,
                epochs=int(epochs[place]),
            )

        if self.threads == 1:
            return [train(place) for place in range(len(cohort))]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(train, range(len(cohort))))

    def _step(
        self, usable: Sequence[tuple[Device, Update]], number: int
    ) -> tuple[Array, Any, dict[str, float]]:
        """Let the algorithm make the next model of what came back."""
        if not usable:
            return self._parameters, self._state, {"update_norm": 0.0, "drift": 0.0}
        devices, updates = zip(*usable, strict=True)
        returned = Returned(
            places=self._places(devices),
            changes=np.array([update.change for update in updates]),
            weights=normalised([self._weight_of(device) for device in devices], len(devices)),
            steps=np.array([update.steps for update in updates]),
            rows=np.array([update.rows for update in updates]),
            rate=self.local.rate(number),
            blocks={
                name: np.array([update.blocks[name] for update in updates])
                for name in updates[0].blocks
            },
        )
        moved, state = self.algorithm.step(self._state, self._parameters, returned)
        moves = {
            "update_norm": float(np.linalg.norm(moved - self._parameters)),
            "drift": drift(returned.changes, returned.weights, returned.average),
        }
        return np.asarray(moved, self._parameters.dtype), state, moves

    # -- what is measured --------------------------------------------------------------------

    def _ledger(
        self, cohort: Sequence[Device], updates: Sequence[Update], work: Work
    ) -> dict[str, float]:
        """Return what the round cost: bytes, and the simulated seconds of its slowest device."""

        def seconds(device: Device, update: Update) -> float:
            passed = update.rows * update.epochs
            return round_seconds(
                device.profile, work.nbytes, update.nbytes, self.layout.size, passed
            )

        return {
            "bytes_down": float(work.nbytes * len(cohort)),
            "bytes_up": float(sum(update.nbytes for update in updates)),
            "seconds": max(map(seconds, cohort, updates), default=0.0),
        }

    def _evaluated(self, parameters: Array) -> dict[str, float]:
        measured: dict[str, float] = {}
        if self._holding:
            by_device = validate(self._holding, self.model, parameters)
            rows = by_device.pop("rows")
            for name, values in by_device.items():
                measured[f"validation_{name}"] = float(np.average(values, weights=rows))
        if self._test is not None:
            for name, value in self.model.evaluate(parameters, *self._test).items():
                measured[f"test_{name}"] = value
        return measured

    def validate(self) -> pd.DataFrame:
        """Return the model's measures on each device's held-out rows, one row a device.

        Raises
        ------
        ValueError
            If no device has rows held out.
        """
        import pandas as pd

        if not self._holding:
            raise ValueError("no device has rows held out; use Device.hold_out first")
        measures = validate(self._holding, self.model, self._parameters)
        return pd.DataFrame(measures, pd.Index([d.id for d in self._holding], name="device"))

    # -- the run -----------------------------------------------------------------------------

    def run(self, rounds: int, convergence: Convergence | None = None) -> History:
        """Go on for so many rounds, or until convergence.

        Ctrl-C ends the run between two states: what was done is kept, and another call goes on.

        Parameters
        ----------
        rounds : int
            Rounds to go from here.
        convergence : Convergence, optional
            When to stop earlier.

        Returns
        -------
        History
            Of all rounds, those of earlier calls included; also in `history`.
        """
        whole_number(rounds, "rounds", 0)
        remarks = len(self.history.remarks())
        self._refuse_unmeasured(convergence)
        self.stopped = "rounds"
        try:
            for _ in progress.bar(range(rounds), total=rounds, label="rounds"):
                self.round()
                if convergence and convergence.reached(
                    self.history.series(convergence.metric).tolist()
                ):
                    self.stopped = "converged"
                    break
        except KeyboardInterrupt:
            self.stopped = "interrupted"
            warnings.warn(
                f"interrupted after round {self.round_number}; what was done is kept, and run() "
                "goes on from there",
                stacklevel=2,
            )
        if (new := len(self.history.remarks()) - remarks) > 0:
            warnings.warn(
                f"{new} remarks were made in this run; history.remarks() tells who was left out, "
                "and why",
                stacklevel=2,
            )
        return self.history

    def _refuse_unmeasured(self, convergence: Convergence | None) -> None:
        wants = convergence is not None and convergence.metric == "validation_loss"
        if wants and not self._holding:
            raise ValueError(
                "convergence on the validation loss needs rows held out: use Device.hold_out "
                "first, or Convergence('update_norm')"
            )


def _usable(
    cohort: Sequence[Device], updates: Sequence[Update]
) -> tuple[list[tuple[Device, Update]], list[tuple[object, str]]]:
    """Return what can be averaged, and a remark on what can't."""
    usable, remarks = [], list[tuple[object, str]]()
    for device, update in zip(cohort, updates, strict=True):
        if np.isfinite(update.change).all():
            usable.append((device, update))
        else:
            reason = "left out: its update holds NaN or inf; try a lower learning rate"
            remarks.append((device.id, reason))
    if not usable:
        reason = "no usable update" if cohort else "no device was reachable"
        remarks.append((SERVER, f"skipped: {reason}"))
    return usable, remarks


def _summary(usable: Sequence[tuple[Device, Update]]) -> dict[str, float]:
    rows = [update.rows for _, update in usable]
    summary = {"devices": float(len(usable)), "rows": float(sum(rows))}
    if usable:
        losses = [update.loss for _, update in usable]
        summary["train_loss"] = float(np.average(losses, weights=rows))
    return summary
