"""The federated round, readable from top to bottom.

Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
AISTATS 2017, algorithm 1.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fedlab.algorithms import Algorithm, by_name
from fedlab.core import progress
from fedlab.core.settings import described
from fedlab.core.typing import F64, I64, Array, Places
from fedlab.core.validation import read_only, require, whole_number
from fedlab.device.device import Device
from fedlab.federation.checkpoint import Checkpoint
from fedlab.federation.convergence import Convergence
from fedlab.federation.history import SERVER, History
from fedlab.federation.participation import Participation
from fedlab.fleet import (
    Changing,
    Columnar,
    Roster,
    Stragglers,
    admit,
    choose_places,
    cohort_size,
    round_seconds,
)
from fedlab.index.ingest import as_keys
from fedlab.models.base import Layout, Model
from fedlab.training import (
    Engine,
    LocalSGD,
    Returned,
    Trained,
    Work,
    engine_of,
    measure,
    one_blas_thread,
    train_cohort,
    validate,
)
from fedlab.updates.mean import drift
from fedlab.updates.weights import Weights, normalised, weigher

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Federation"]

_MODEL_METHODS = ("check_labels", "initial", "loss_and_gradient", "evaluate")

Remarks = list[tuple[object, str]]


class Federation:
    """Devices that learn one model together, round by round.

    Parameters
    ----------
    devices : sequence of Device, or Changing
        Ids must differ. Devices with no rows to train on are left out, and `history` says so. A
        `Population` may hold millions: a round's cost follows its cohort. With `Changing` ones,
        such as `Drifting`, rows move from round to round.
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
    quorum : int
        Least updates of a round; with fewer it is skipped, and `history` says so.
    seed : int
        All chance in the run comes from it.
    threads : int, optional
        Devices that train at once; see `train_cohort`. Results do not depend on it.
    engine : {"auto", "compiled", "plain"}
        How devices train: see `train_cohort`. Results agree to float tolerance.
    parameters : array, optional
        Where to begin, instead of the model's own start; float64 parameters compute in float64.

    Examples
    --------
    >>> from fedlab.index.vectorindex import VectorIndex
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
        devices: Sequence[Device] | Changing,
        model: Model,
        *,
        algorithm: Algorithm | str = "fedavg",
        local: LocalSGD | None = None,
        cohort: int | float | None = None,
        weights: Weights = "rows",
        stragglers: Stragglers | None = None,
        test: tuple[ArrayLike, ArrayLike] | None = None,
        quorum: int = 1,
        seed: int = 0,
        threads: int | None = None,
        engine: Engine = "auto",
        parameters: ArrayLike | None = None,
    ) -> None:
        self.model = model
        self.algorithm = by_name(algorithm) if isinstance(algorithm, str) else algorithm
        require(model, "model", "layout", "inputs", *_MODEL_METHODS)
        require(self.algorithm, "algorithm", "init", "work", "step")
        self.local = local or LocalSGD()
        self.seed = whole_number(seed, "seed", 0, 2**64 - 1)
        self.threads = None if threads is None else whole_number(threads, "threads", 1)
        self.engine: Engine = engine
        self.history = History()
        self.round_number = 0
        self._has_trained = False
        #: Why `run` ended: "rounds", "converged" or "interrupted"; None before.
        self.stopped: str | None = None
        engine_of(model, engine)  # refuses an engine that can't
        self._changing = devices if isinstance(devices, Changing) else None
        self._roster, remarks = admit(devices, model)
        self._began_with = self._roster
        self._stored = isinstance(self._roster.devices, Columnar)
        self._participation = Participation()
        for who, text in remarks:
            self.history.remark(0, who, text)
        self._cohort = cohort_size(cohort, self._roster.count)
        self._quorum = whole_number(quorum, "quorum", 1, self._cohort)
        self._stragglers = stragglers
        self._weights, self._weights_of = weights, weigher(weights, self.devices)
        self._test = None if test is None else self._checked_test(*test)
        self._parameters = np.empty(0, np.float32)
        self.parameters = model.initial(self.seed) if parameters is None else parameters
        self._state = self.algorithm.init(self._parameters, len(self.devices))

    # -- setting out -------------------------------------------------------------------------

    def _checked_test(self, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        rows, labels = np.asarray(x), np.asarray(y)
        if rows.ndim != 2 or rows.shape[1] != self.model.inputs or len(rows) != len(labels):
            raise ValueError(
                f"test rows of shape {rows.shape} with {len(labels)} labels were given; "
                f"(n, {self.model.inputs}) with n labels are needed"
            )
        self.model.check_labels(labels)
        return rows, labels

    @property
    def devices(self) -> Sequence[Device]:
        """The devices that can take part, in the order in which sums are taken."""
        return self._roster.devices

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
        if self._changing is not None:
            self._roster = Roster.of(self._changing.at(number))
        with one_blas_thread():
            places, epochs, remarks = self._select(number)
            cohort = [self.devices[place] for place in places]
            work = self.algorithm.work(self._state, self._parameters, places)
            trained = self._train(cohort, epochs, work, number)
            self._refuse_hopeless(trained)
            remarks += [(cohort[p].id, f"left out: {why}") for p, why in trained.set_aside.items()]
            moved, state, moves, skipped = self._step(places, cohort, trained, number)
            measures = {
                **self._ledger(places, trained, work),
                **_summary(trained),
                **moves,
                **self._evaluated(moved),
            }
        if not skipped:
            took_part = trained.places
            senders = [] if self._stored else [cohort[place] for place in took_part]
            self._participation.note(number, places[took_part], senders)
        self._parameters, self._state, self.round_number = moved, state, number
        self._has_trained |= len(trained.places) > 0
        self.history.record(number, SERVER, **measures)
        for who, text in remarks + skipped:
            self.history.remark(number, who, text)
        self.history.wall_seconds[number] = time.perf_counter() - began

    def _select(self, number: int) -> tuple[Places, I64, Remarks]:
        """Choose the cohort, and how many epochs each of it does."""
        places = choose_places(self._roster, self._cohort, self.seed, number)
        if not len(places):
            return places, np.empty(0, np.int64), [(SERVER, "no device was reachable")]
        if self._stragglers is None:
            return places, np.full(len(places), self.local.epochs), []
        epochs = self._stragglers.epochs(len(places), self.local.epochs, self.seed, number)
        if not epochs.any():
            return (
                places[:0],
                epochs[:0],
                [(SERVER, "all of the cohort straggled, and was dropped")],
            )
        return places[epochs > 0], epochs[epochs > 0], []

    def _train(self, cohort: Sequence[Device], epochs: I64, work: Work, number: int) -> Trained:
        return train_cohort(
            cohort,
            self.model,
            work,
            self.local,
            seed=self.seed,
            round=number,
            epochs=epochs,
            threads=self.threads,
            engine=self.engine,
        )

    def _refuse_hopeless(self, trained: Trained) -> None:
        """Raise where nobody has ever trained and nobody could now: a model or data at fault."""
        if trained.none_could and not self._has_trained:
            why = next(iter(trained.set_aside.values()))
            raise RuntimeError(
                f"none of the {len(trained.set_aside)} devices of the first cohort could train. "
                f"The first one: {why}"
            ) from trained.error

    def _step(
        self, places: Places, cohort: Sequence[Device], trained: Trained, number: int
    ) -> tuple[Array, Any, dict[str, float], Remarks]:
        """Let the algorithm make the next model of what came back, if enough did."""
        still = {"update_norm": 0.0, "drift": 0.0}
        if (usable := len(trained.places)) < self._quorum:
            few = {0: "no usable update", 1: "1 usable update"}
            came = few.get(usable, f"{usable} usable updates")
            why = f"skipped: {came}; the quorum is {self._quorum}"
            return self._parameters, self._state, still, [(SERVER, why)]
        senders = [cohort[place] for place in trained.places]
        returned = Returned(
            places=places[trained.places],
            changes=trained.changes,
            weights=normalised(self._weights_of(senders, trained.rows), usable),
            steps=trained.steps,
            rows=trained.rows,
            rate=self.local.rate(number),
            blocks=trained.blocks,
        )
        # Read-only, since what is written to it in place would count as no step at all.
        stepped, state = self.algorithm.step(self._state, read_only(self._parameters), returned)
        if np.shape(stepped) != self._parameters.shape:
            raise ValueError(
                f"{type(self.algorithm).__name__}.step gave parameters of shape "
                f"{np.shape(stepped)}; {self._parameters.shape} is needed"
            )
        with np.errstate(over="ignore"):
            moved = np.asarray(stepped, self._parameters.dtype)
        if not np.isfinite(moved).all():
            why = "skipped: the server's step gives NaN or inf; try lower rates"
            return self._parameters, self._state, still, [(SERVER, why)]
        moves = {
            "update_norm": float(np.linalg.norm(stepped - self._parameters)),
            "drift": drift(returned.changes, returned.weights, returned.average),
        }
        return moved, state, moves, []

    # -- what is measured --------------------------------------------------------------------

    def _ledger(self, places: Places, trained: Trained, work: Work) -> dict[str, float]:
        """Return what the round cost: bytes, and the simulated seconds of its slowest device."""
        came_back, nbytes = len(trained.places), trained.nbytes_each
        seconds = round_seconds(
            self._roster.hardware(places[trained.places]),
            work.nbytes + nbytes,
            self.layout.size,
            trained.rows * trained.epochs,
        )
        return {
            "bytes_down": float(work.nbytes * len(places)),
            "bytes_up": float(nbytes * came_back),
            "seconds": float(seconds.max(initial=0.0)),
        }

    def _evaluated(self, parameters: Array) -> dict[str, float]:
        measured: dict[str, float] = {}
        if self._roster.holding:
            by_device = self._validated(parameters)
            rows = by_device.pop("rows")
            for name, values in by_device.items():
                measured[f"validation_{name}"] = float(np.average(values, weights=rows))
        if self._test is not None:
            on_test = measure(
                *self._test, self.model, parameters, threads=self.threads, engine=self.engine
            )
            measured |= {f"test_{name}": value for name, value in on_test.items()}
        return measured

    def _validated(self, parameters: Array) -> dict[str, F64]:
        return validate(
            self._roster.holding, self.model, parameters, threads=self.threads, engine=self.engine
        )

    def validate(self) -> pd.DataFrame:
        """Return the model's measures on each device's held-out rows, one row a device.

        Raises
        ------
        ValueError
            If no device has rows held out.
        """
        import pandas as pd

        holding = self._roster.holding
        if not holding:
            raise ValueError(
                "no device has rows held out; use Device.hold_out first, or measure on rows of "
                "your own with Federation(test=...)"
            )
        measures = self._validated(self._parameters)
        return pd.DataFrame(measures, pd.Index([d.id for d in holding], name="device"))

    def rounds_that_used(self, device: int | str, key: int) -> I64:
        """Return the rounds whose model learned from a row: its device's update entered them.

        A row counts while it was among its device's training rows: held out, it was not used, nor
        in rounds that the device slept through or in which its update was set aside. Rows that
        were erased since, or that moved on to another device, are answered for as well. A key that
        was taken from a row and given to another one stands for both.

        The model's memory is another matter. Every model since the first of these rounds derives
        from the row, what `FedAvg` averaged can't be taken out again, and nothing here unlearns:
        erasing the row changes no parameter. The honest way is to train again without it, from a
        checkpoint of the last round before the first of these, or from the start.

        It answers for rounds that this object has run or loaded: after a restart, `load` the
        checkpoint first. Ask, or load, before the row is erased: a checkpoint is refused by a
        federation whose devices hold other rows than those it began with.

        Parameters
        ----------
        device : int or str
            A device's id.
        key : int
            The row's key in that device's index.

        Returns
        -------
        (r,) int64 array
            Rounds, rising; empty if none used it.

        Raises
        ------
        KeyError
            If no such device is in the federation.
        """
        wanted = as_keys([key])[0]
        place = self._place_of(device)
        if self._stored and wanted not in self.devices[place].index:
            return np.empty(0, np.int64)
        return self._participation.rounds_of(place, None if self._stored else int(wanted))

    def _place_of(self, device: int | str) -> int:
        # Those that took part first: of a million devices, they are few.
        for place in chain(self._participation.places, range(len(self.devices))):
            if self.devices[place].id == device:
                return place
        raise KeyError(f"no device {device!r} takes part in this federation")

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
        return self._run(rounds, convergence, lambda: None)

    def run_to(
        self,
        round: int,
        path: str | os.PathLike[str],
        *,
        every: int = 10,
        convergence: Convergence | None = None,
    ) -> History:
        """Go on until so many rounds are done in all, saving the run to a file as it goes.

        If the file is there, the run goes on from it: a program that was killed is started again as
        it is, and ends with the bits that it would have had. What is given to the federation must
        be what it was; its parts are compared, not the rows of its devices.

        Parameters
        ----------
        round : int
            Where to end, counted from the federation's first round.
        path : path-like
            A checkpoint; its folder must exist.
        every : int
            Rounds between two savings. The last round, convergence and Ctrl-C save, too.
        convergence : Convergence, optional
            When to stop earlier.

        Raises
        ------
        CheckpointError
            If the file is torn, altered, or of another run; nothing has changed then.
        """
        whole_number(round, "round", 0)
        whole_number(every, "every", 1)
        if os.path.exists(path):
            self.load(path)

        saved = set[int]()

        def keep() -> None:
            if self.round_number % every == 0:
                self.save(path)
                saved.add(self.round_number)

        if self._converged(convergence):
            self.stopped = "converged"
        elif self.round_number >= round:
            self.stopped = "rounds"
        else:
            self._run(round - self.round_number, convergence, keep)
            if self.round_number not in saved:  # Ctrl-C may have come in the middle of saving
                self.save(path)
        return self.history

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a file what the next round depends on; a kill leaves the old file or the new."""
        Checkpoint(
            *(self._settings(), self.round_number, self._parameters, self._state, self.history),
            self._participation,
        ).write(path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go back, or forward, to where `save` wrote a file.

        Raises
        ------
        CheckpointError
            If the file is torn, altered, or of another run; nothing has changed then.
        """
        saved = Checkpoint.read(path)
        saved.refuse_other(self._settings(), path)
        self.parameters = saved.parameters
        self._state, self.history, self.round_number = saved.state, saved.history, saved.round
        self._participation, self._has_trained = saved.participation, saved.round > 0

    def _settings(self) -> dict[str, str]:
        stack = engine_of(self.model, self.engine)
        return {
            "seed": str(self.seed),
            "model": described(self.model),
            "layout": described(self.layout),
            "algorithm": described(self.algorithm),
            "local training": described(self.local),
            "engine": "plain" if stack is None else "compiled",
            "type of parameters": str(self._parameters.dtype),
            "cohort": str(self._cohort),
            "quorum": str(self._quorum),
            "stragglers": described(self._stragglers),
            "weights": self._weights_described,
            "devices": self._began_with.description,
        }

    @cached_property
    def _weights_described(self) -> str:
        """Return the weights in words; of a function, what it gave for the first round's devices.

        Once: rows that move or come later make no other run of this one.
        """
        words, devices = described(self._weights), self._began_with.devices
        if not callable(self._weights) or isinstance(devices, Columnar):
            return words
        rows = np.array([device.rows for device in devices])
        return f"{words}, giving {described(self._weights_of(devices, rows))}"

    def _run(
        self, rounds: int, convergence: Convergence | None, after_round: Callable[[], None]
    ) -> History:
        remarks = len(self.history.remarks())
        self._refuse_unmeasured(convergence)
        self.stopped = "rounds"
        try:
            for _ in progress.bar(range(rounds), total=rounds, label="rounds"):
                self.round()
                if self._converged(convergence):
                    self.stopped = "converged"
                after_round()
                if self.stopped == "converged":
                    break
        except KeyboardInterrupt:
            self.stopped = "interrupted"
            warnings.warn(
                f"interrupted after round {self.round_number}; what was done is kept, and run() "
                "goes on from there",
                stacklevel=3,
            )
        if (new := len(self.history.remarks()) - remarks) > 0:
            first = self.history.remarks().iloc[remarks]
            warnings.warn(
                f"{new} remarks were made in this run; history.remarks() tells who was left out, "
                f"and why. The first, in round {first['round']}: {first.who}: {first.text}",
                stacklevel=3,
            )
        return self.history

    def _converged(self, convergence: Convergence | None) -> bool:
        if convergence is None or not self.round_number:
            return False
        return convergence.reached(self.history.series(convergence.metric).tolist())

    def _refuse_unmeasured(self, convergence: Convergence | None) -> None:
        wants = convergence is not None and convergence.metric == "validation_loss"
        if wants and not self._roster.holding:
            raise ValueError(
                "convergence on the validation loss needs rows held out: use Device.hold_out "
                "first, or Convergence('update_norm')"
            )


def _summary(trained: Trained) -> dict[str, float]:
    rows = trained.rows
    summary = {"devices": float(len(rows)), "rows": float(rows.sum())}
    if len(rows):
        summary["train_loss"] = float(np.average(trained.losses, weights=rows))
    return summary
