"""The front door: devices that learn one model together."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlab.algorithms import Algorithm, WithServer
from fedlab.core import progress
from fedlab.core.typing import I64, Array
from fedlab.core.validation import of_kind, one_of, require, shown, whole_number, whole_or_none
from fedlab.device.device import Device
from fedlab.device.states import DeviceStates
from fedlab.federation.accounted import accounted, accounted_rows, spent
from fedlab.federation.checkpoint import Checkpoint
from fedlab.federation.combinations import own_weights, refuse_odd, with_server
from fedlab.federation.convergence import Convergence
from fedlab.federation.downlink import begun
from fedlab.federation.evaluation import checked_test, holding_of, personal, validated
from fedlab.federation.guarantee import Guarantee
from fedlab.federation.history import SERVER, History, Report
from fedlab.federation.on_devices import Here, Where
from fedlab.federation.participation import Participation
from fedlab.federation.plan import Evaluation, Plan, Record
from fedlab.federation.round import play
from fedlab.federation.state import RunState
from fedlab.fleet import (
    AtRandom,
    Changing,
    Columnar,
    FedAsync,
    FedBuff,
    Poisson,
    Roster,
    Schedule,
    Selection,
    Stragglers,
    admit,
    cohort_size,
)
from fedlab.fleet.asynchronous import no_flight
from fedlab.index.ingest import as_keys
from fedlab.metrics.scores import ScoreFunction
from fedlab.models.base import MEMBERS, Layout, Model
from fedlab.privacy.mechanisms import BudgetError
from fedlab.training import Backend, LocalSGD
from fedlab.training.choice import RowChoice, checked_rules
from fedlab.training.trainer import trainer_for
from fedlab.updates import (
    Aggregator,
    Chain,
    Codec,
    Mean,
    ServerOptimiser,
    Stage,
)
from fedlab.updates.aggregators import Joint
from fedlab.updates.sent import NUMBERS
from fedlab.updates.weights import Weigher, Weights

if TYPE_CHECKING:
    import pandas as pd

_REPEATED = (
    "noise comes from the operating system, so a run that goes on from an earlier state has other "
    "noise than one that was never stopped; rounds that were done after it, and are done again, "
    "cost epsilon that is not counted here"
)
#: A run goes on for so many times the time that its last saving took, before the next one.
_SHARE = 20


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
        What the devices do and what is learned of it (see `fedlab.algorithms`), or its name.
    local : LocalSGD
        How a device trains; by `PrivateSGD` with noise that hides single rows.
    server : ServerOptimiser or str, optional
        How the server moves along what was learned: "sgd", "momentum", "adam", "yogi", "adagrad",
        or one with settings of its own (see `fedlab.updates`). By default the model moves by it.
    cohort : int or float, optional
        Devices of a round: a number, or a share of those that can take part (at least one). All of
        them by default. They are drawn uniformly, without replacement, among those reachable in
        that round (`Profile.availability`), unless `selection` says otherwise.
    selection : Selection, optional
        Who takes part in a round: a rule such as ``PowerOfChoice(candidates=20)``, or one of your
        own (see `fedlab.fleet`); `why` tells whom it chose, and why.
    schedule : Deadline, FedBuff, FedAsync, Hierarchy or Gossip, optional
        When a round ends in simulated time, and what becomes of those that aren't done; or who
        averages with whom (see `fedlab.fleet`). By default a server waits for all of the cohort.
    weights : {"rows", "uniform"}, mapping of device id to number, or function of a device
        How much a device's update counts; need not sum to one. By default the algorithm's own, or
        "rows".
    rows : RowChoice, or sequence of them, optional
        By which of its rows a device trains in a round (see `fedlab.training.rules`): such as
        ``Uniform(0.5)``, or ``[Distinct(0.01), Highest(0.5, loss)]``, each among what the one
        before it left. By default all. Simulated seconds count training, and not the choosing.
    updates : sequence of Stage
        What happens to updates on their way, in order: ``[ClipNorm(1.0), Cast()]``.
    down : sequence of Codec
        What codes the server's model on its way to devices: ``[TopK(0.1)]`` (see
        `fedlab.federation.downlink`). The model that is measured is the server's own.
    aggregator : Aggregator or Joint, optional
        What makes one vector of them; by default their weighted mean. `PrivateMean` noises it;
        `fedlab.updates.robust` has those that hold where some devices lie.
    stragglers : Stragglers, optional
        Devices that don't do all their epochs.
    test : tuple of arrays, optional
        (x, y) on which the server measures the model.
    evaluate_every : int
        Rounds between two measurements of the model.
    record : {"cohort", "devices"}
        Whether `history` has rows for single devices, too.
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
    keep_in : path-like, optional
        A folder of this run's own in which devices keep what they keep (control variates, models
        of their own), where that is too large for memory. A checkpoint speaks of its files.

    Attributes
    ----------
    plan : Plan
        All that results depend on.
    state : RunState
        Where the run stands; a round replaces it by the next one, at once.
    where : Where
        Where its devices work: in this process, or at nodes (see `fedlab.deploy`).

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
        devices: Sequence[Device] | Changing,
        model: Model,
        *,
        algorithm: Algorithm | WithServer | str = "fedavg",
        local: LocalSGD | None = None,
        server: ServerOptimiser | str | None = None,
        cohort: int | float | None = None,
        selection: Selection | None = None,
        schedule: Schedule | None = None,
        weights: Weights | None = None,
        rows: RowChoice | Sequence[RowChoice] | None = None,
        updates: Sequence[Stage] = (),
        down: Sequence[Codec] = (),
        aggregator: Aggregator | Joint | None = None,
        stragglers: Stragglers | None = None,
        test: tuple[ArrayLike, ArrayLike] | None = None,
        evaluate_every: int = 1,
        record: Record = "cohort",
        quorum: int = 1,
        seed: int = 0,
        threads: int | None = None,
        engine: Backend = "auto",
        parameters: ArrayLike | None = None,
        keep_in: str | os.PathLike[str] | None = None,
    ) -> None:
        require(model, "model", *MEMBERS)
        method, steps = with_server(algorithm, server)
        local = LocalSGD() if local is None else local
        of_kind(local, LocalSGD, "local")
        method.check(local)
        if stragglers is not None:
            require(stragglers, "stragglers (such as Stragglers(0.5))", "epochs")
        seed = whole_number(seed, "seed", 0, 2**64 - 1)
        trainer = trainer_for(model, local, engine)  # refuses an engine that can't
        one_of(record, ("cohort", "devices"), "record")
        self.threads = whole_or_none(threads, "threads", 1)
        self._changing = devices if isinstance(devices, Changing) else None
        self._roster, remarks = admit(devices, model)
        self._began_with = self._roster
        self._stored = isinstance(self._roster.devices, Columnar)
        for name, stages in (("updates", updates), ("down", down)):
            if not isinstance(stages, Sequence) or isinstance(stages, str):
                raise TypeError(f"{name} is {shown(stages)}; give a list of stages, as in [Cast()]")
        passed = Chain(tuple(updates), aggregator or Mean())
        weigh = Weigher(own_weights(weights, method, passed.aggregator, schedule))
        if not self._stored:
            weigh.check(self._roster.devices, [name for name, _ in remarks])
        size = cohort_size(cohort, self._roster.count)
        rule = AtRandom() if selection is None else selection
        if isinstance(rule, Poisson) and cohort is not None:
            raise ValueError(
                f"cohort={cohort} and {rule} were given; Poisson's cohorts have no fixed size: "
                "leave cohort out"
            )
        self.plan = Plan(
            model=model,
            algorithm=method,
            local=local,
            cohort=size,
            quorum=whole_number(quorum, "quorum", 1, size),
            selection=rule,
            schedule=schedule,
            stragglers=stragglers,
            weights=weigh,
            rows=checked_rules(rows),
            chain=passed,
            down=tuple(down),
            server=steps,
            seed=seed,
            trainer=trainer,
            evaluation=Evaluation(
                None if test is None else checked_test(model, test),
                whole_number(evaluate_every, "evaluate_every", 1),
                record,
            ),
        )
        refuse_odd(self.plan, self._roster)
        start = _checked(model.initial(seed) if parameters is None else parameters, model.layout)
        who: Any = self.plan, self._roster, self._changing is not None, start
        privacy, of_rows = accounted(*who), accounted_rows(*who)
        self.plan = replace(self.plan, privacy=privacy, row_privacy=of_rows)
        #: Why `run` ended: "rounds", "converged", "budget" or "interrupted"; None before.
        self.stopped: str | None = None
        self.where: Where = Here()
        self._participation = Participation()
        try:
            self._words: dict[str, str] | TypeError = self.plan.words()
        except TypeError as error:  # it can run, and not be saved
            self._words = error
        self._keep_in, self._saved = keep_in, dict[str, DeviceStates]()
        if keep_in is not None:
            os.makedirs(keep_in, exist_ok=True)
        history = History()
        for who, text in remarks:
            history.remark(0, who, text)
        private = {} if privacy is None else {"releases": 0, "clip": privacy.part.clip}
        if of_rows is not None:
            private["steps"] = np.zeros(len(self._roster.devices), np.int64)
        learning = method.init(start, self._roster.count, model.layout)
        self._state = RunState(
            round=0,
            parameters=start,
            algorithm=learning,
            server=steps.init(start),
            stages=self.plan.chain.init(len(start)),
            kept=DeviceStates(keep_in),
            has_trained=False,
            history=history,
            selection=rule.init(len(self._roster.devices), size),
            traffic=(float(start.nbytes), float(start.nbytes + NUMBERS)),
            flight=no_flight() if isinstance(schedule, FedBuff | FedAsync) else {},
            sent=begun(self.plan.down, method, learning, start),
            private=private,
        )
        for guarantee in (self.privacy, self.row_privacy):
            if guarantee is not None:
                history.remark(0, SERVER, f"differential privacy: {guarantee}")

    # -- what stands where -------------------------------------------------------------------

    @property
    def state(self) -> RunState:
        """Where the run stands; assign an earlier one to go back to it."""
        return self._state

    @state.setter
    def state(self, state: RunState) -> None:
        done = [
            np.sum([np.sum(one.private.get(n, 0)) for n in ("releases", "steps")])
            for one in (state, self._state)
        ]
        if self._noised and done[0] < done[1]:
            warnings.warn(_REPEATED, stacklevel=2)
        self._state = state

    @property
    def _noised(self) -> bool:
        """Whether noise comes from the operating system, so that no round can be done again."""
        accounts = (self.plan.privacy, self.plan.row_privacy)
        return not all(one is None or one.part.simulated for one in accounts)

    @property
    def devices(self) -> Sequence[Device]:
        """The devices that can take part, in the order in which sums are taken."""
        return self._roster.devices

    @property
    def model(self) -> Model:
        """What is learned."""
        return self.plan.model

    @property
    def local(self) -> LocalSGD:
        """How a device trains."""
        return self.plan.local

    @property
    def algorithm(self) -> Algorithm:
        """What the devices do, and what is learned of it."""
        return self.plan.algorithm

    @property
    def layout(self) -> Layout:
        """Names and shapes within `parameters`."""
        return self.plan.model.layout

    @property
    def history(self) -> History:
        """What happened so far; a further round makes a longer one."""
        return self.state.history

    @property
    def round_number(self) -> int:
        """Rounds done; assign to draw as from there on."""
        return self.state.round

    @round_number.setter
    def round_number(self, number: int) -> None:
        self.state = replace(self.state, round=whole_number(number, "round_number", 0))

    @property
    def parameters(self) -> Array:
        """(p,) copy of the model's parameters; assign to continue from others."""
        return self.state.parameters.copy()

    @parameters.setter
    def parameters(self, values: ArrayLike) -> None:
        flight = self.state.flight if "places" in self.state.flight else {}  # nodes begin there
        self.state = replace(self.state, parameters=_checked(values, self.layout), flight=flight)

    @property
    def privacy(self) -> Guarantee | None:
        """The epsilon spent so far, with all that it depends on; None in a run without noise."""
        accounts = self.plan.privacy
        return None if accounts is None else accounts.guarantee(self.state.private)

    @property
    def row_privacy(self) -> Guarantee | None:
        """The epsilon of rows, of the device that has spent most; None without `PrivateSGD`."""
        accounts = self.plan.row_privacy
        return None if accounts is None else accounts.guarantee(self.state.private)

    # -- the run -----------------------------------------------------------------------------

    def rounds(self, count: int | None = None) -> Iterator[Report]:
        """Do rounds, one for each report that is taken: so many, or without end.

        ``run``, ``run_to``, a monitor or a search for hyper-parameters are loops over this one.
        Nothing changes before all of a round is done, and then everything at once: an interrupt
        leaves the last whole round. A run whose privacy budget is spent ends, and remarks it.

        Examples
        --------
        >>> from fedlab import SoftmaxRegression, VectorIndex
        >>> index = VectorIndex(2)
        >>> _ = index.add(np.eye(2), labels=[0, 1])
        >>> federation = Federation([Device("ward 3", index)], SoftmaxRegression(2, 2))
        >>> for report in federation.rounds():
        ...     if report.measures["train_loss"] < 0.6:
        ...         break
        >>> federation.round_number == report.round
        True
        """
        done = 0
        while count is None or done < count:
            if (why := self._spent()) is not None:
                self.history.remark(self.round_number, SERVER, f"ended: {why}")
                return
            yield self.round()
            done += 1

    def _spent(self) -> str | None:
        accounts = self.plan.privacy
        if accounts is not None and (why := accounts.ended(self.state.private)):
            return why
        of_rows = self.plan.row_privacy
        if of_rows is not None and len(spent(self.plan, self.state)) >= self._roster.count:
            return "the budget is spent of every device's rows"
        return None

    def round(self) -> Report:
        """Do one round (see `rounds`).

        Raises
        ------
        BudgetError
            If it would go beyond the privacy budget.
        """
        if (why := self._spent()) is not None:
            raise BudgetError(f"{why}; the model stands as it is")
        if self._changing is not None:
            self._roster = Roster.of(self._changing.at(self.state.round + 1))
        state, report = play(self.plan, self._roster, self.state, self.threads, self.where)
        if len(report.senders):
            # Noted first: noting a round again, after an interrupt, changes nothing.
            looked_at = self.where.at_hand and not self._stored and not self.plan.rows
            devices = self.devices
            senders = [devices[p] for p in report.senders.tolist()] if looked_at else []
            self._participation.note(report.round, report.senders, senders, report.keys)
        self._state = state
        return report

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
        if convergence is not None:
            of_kind(convergence, Convergence, "convergence")
        return self._run(rounds, convergence)

    def run_to(
        self,
        round: int,
        path: str | os.PathLike[str],
        *,
        every: int | None = None,
        convergence: Convergence | None = None,
    ) -> History:
        """Go on until so many rounds are done in all, saving the run to a file as it goes.

        If the file is there, the run goes on from it: a program that was killed is started again as
        it is, and ends with the bits that it would have had. What is given to the federation must
        be what it was: its parts are compared, and a digest of what its devices hold.

        Parameters
        ----------
        round : int
            Where to end, counted from the federation's first round.
        path : path-like
            A checkpoint; its folder must exist.
        every : int, optional
            Rounds between two savings; by default as many as keep them below a twentieth of the
            run's time. The last round, convergence and Ctrl-C save, too.
        convergence : Convergence, optional
            When to stop earlier.

        Raises
        ------
        CheckpointError
            If the file is torn, altered, or of another run; nothing has changed then.
        TypeError
            If a part of the run can't be told from another one of its class.

        Warns
        -----
        UserWarning
            If more rounds than that are done already.
        """
        whole_number(round, "round", 0)
        whole_or_none(every, "every", 1)
        if convergence is not None:
            of_kind(convergence, Convergence, "convergence")
        self._told()  # now, and not when hours have passed
        if os.path.exists(path):
            self.load(path)
        if convergence is not None and convergence.reached(self._values(convergence)):
            self.stopped = "converged"
        elif self.round_number >= round:
            self.stopped = "rounds"
            if self.round_number > round:
                warnings.warn(
                    f"run_to({round}): the run stands at round {self.round_number} already, and "
                    f"stays there; run_to counts from the first round, run({round}) goes on from "
                    "here",
                    stacklevel=2,
                )
        else:
            self._run(round - self.round_number, convergence, path, every)
        return self.history

    def _run(
        self,
        rounds: int,
        convergence: Convergence | None,
        path: str | os.PathLike[str] | None = None,
        every: int | None = None,
    ) -> History:
        said, saved, stands = len(self.history.remarks()), -1, self._watch(convergence)
        due = 0.0
        self.stopped, goal = "rounds", self.round_number + rounds
        try:
            for report in progress.bar(self.rounds(rounds), total=rounds, label="rounds"):
                if stands(report):
                    self.stopped = "converged"
                now = time.perf_counter()
                if path is not None and (report.round % every == 0 if every else now >= due):
                    self.save(path)
                    saved = report.round
                    due = now + _SHARE * (time.perf_counter() - now)
                if self.stopped == "converged":
                    break
            else:
                if self.round_number < goal:
                    self.stopped = "budget"
        except KeyboardInterrupt:
            self.stopped = "interrupted"
            warnings.warn(
                f"interrupted after round {self.round_number}; what was done is kept, and run() "
                "goes on from there",
                stacklevel=3,
            )
        remarks = self.history.remarks().iloc[said:]
        if len(remarks):
            first = remarks.iloc[0]
            warnings.warn(
                f"{len(remarks)} remarks were made in this run; history.remarks() tells who was "
                f"left out, and why. The first, in round {first['round']}: {first.who}: "
                f"{first.text}",
                stacklevel=3,
            )
        if path is not None and saved != self.round_number:  # Ctrl-C may have come while saving
            self.save(path)
        return self.history

    def _watch(self, convergence: Convergence | None) -> Callable[[Report], bool]:
        """Return what is told each report, and says whether the run has come to a standstill."""
        if convergence is None:
            return lambda report: False
        before = self._values(convergence)
        metric, watch = convergence.metric, convergence.watch()
        for value in before:
            watch(value)
        return lambda report: metric in report.measures and watch(report.measures[metric])

    def _values(self, convergence: Convergence) -> list[float]:
        """Return what convergence has watched so far, or refuse what is never measured."""
        if convergence.metric == "validation_loss" and not self._roster.holding:
            raise ValueError(
                "convergence on the validation loss needs rows held out: use Device.hold_out "
                "first, or Convergence('update_norm')"
            )
        return [value for _, value in self.history.points(convergence.metric)]

    # -- files -------------------------------------------------------------------------------

    def _told(self) -> dict[str, str]:
        """Return the run's settings in words, or say why it can't be told from another one."""
        if isinstance(self._words, TypeError):
            raise self._words
        now = self.plan.words()
        if changed := [name for name in now if now[name] != self._words[name]]:
            raise TypeError(
                f"the {changed[0]} changed while it ran, from {self._words[changed[0]]} to "
                f"{now[changed[0]]}: a file knows only the state that it returns, so this run "
                "can't be saved"
            )
        return self._settings

    @cached_property
    def _settings(self) -> dict[str, str]:
        # Once: rows that move or come later make no other run of this one.
        # What devices keep at nodes is no part of a file.
        where = {} if self.where.at_hand else {"where": "devices at nodes"}
        return self.plan.settings(self._began_with, self.state.parameters) | where

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a file what the next round depends on; a kill leaves the old file or the new."""
        settings, state = self._told(), self.state
        before = self._saved.get(os.fspath(path))
        state.kept.pin()  # first: a kill in between leaves files too many, and none too few
        Checkpoint(settings, state, self._participation).write(path)
        self._saved[os.fspath(path)] = state.kept
        state.kept.pin(before)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go back, or forward, to where `save` wrote a file.

        Raises
        ------
        CheckpointError
            If the file is torn, altered, or of another run; nothing has changed then.
        """
        saved = Checkpoint.read(path, self._keep_in)
        saved.refuse_other(self._told(), path)
        start = _checked(saved.state.parameters, self.layout)
        if self._noised:
            warnings.warn(_REPEATED, stacklevel=2)
        self._participation = saved.participation
        self._state = replace(saved.state, parameters=start)
        self._saved[os.fspath(path)] = saved.state.kept

    # -- what it is worth, and what it used ----------------------------------------------------

    def validate(
        self,
        metrics: str | ScoreFunction | Iterable[Any] | Mapping[str, str | ScoreFunction] = (),
        *,
        devices: Sequence[Device] | None = None,
        model: Literal["server", "personal"] = "server",
    ) -> pd.DataFrame:
        """Return a model's measures on each device's held-out rows, one row a device.

        Parameters
        ----------
        devices : sequence of Device, optional
            Whose rows, such as those of devices that take no part; by default those of the
            federation that hold rows out.
        model : {"server", "personal"}
            The server's, or that which each device predicts with: where algorithms personalise
            (`fedlab.algorithms.Ditto`), a device's own one (see `personal_parameters`).
        metrics : names, functions, or mapping of str to either
            Further columns, of what is no mean over rows: of classes "auc", "average precision",
            "balanced accuracy", "f1", "mcc", of numbers "r2", "mae" (see `fedlab.metrics.score`);
            or any function of labels and scores, as scikit-learn's are. Scores are what the model
            predicts, of two classes the share of the second.

        Raises
        ------
        ValueError, TypeError
            If no device has rows held out; a metric is not known, or doesn't suit the model; or the
            model has no `predict`.

        Warns
        -----
        UserWarning
            Where a metric says nothing, and NaN stands: of a device whose rows are of one class.

        Examples
        --------
        ::

            federation.validate(metrics=["auc", "f1"])
            federation.validate(metrics={"Brier": brier_score_loss})
        """
        one_of(model, ("server", "personal"), "model")
        holding = holding_of(self._roster) if devices is None else list(devices)
        if model == "personal" and holding:
            parameters = self.personal_parameters(holding)
        else:
            parameters = self.state.parameters
        return validated(self.plan, holding, parameters, self.threads, self.where, metrics)

    def why(self) -> pd.DataFrame:
        """Return whom the last round's rule of selection considered, and why it chose whom.

        Returns
        -------
        DataFrame
            By ``device``: ``chosen``, ``reason``, and the numbers that the rule chose by.

        Raises
        ------
        ValueError
            If no round was done.
        """
        import pandas as pd

        if not self.state.chosen:
            raise ValueError("no round was done, so nobody was chosen; see Federation.run")
        frame = pd.DataFrame(self.state.chosen)
        devices = [self.devices[place].id for place in frame.pop("place").tolist()]
        return frame.set_index(pd.Index(devices, name="device"))

    def took_part(self) -> dict[int, NDArray[np.int32]]:
        """Return, by round, the places in `devices` of those whose updates entered the model."""
        senders = self._participation.senders
        return {round: senders[round] for round in sorted(senders) if round <= self.round_number}

    def personal_parameters(self, devices: Sequence[Device] | None = None) -> Array:
        """Return the parameters of the model that each device predicts with, (m, p).

        Without personalisation that is the server's model. Else a device starts from what it has
        kept, or, where it has never taken part, from the server's model, and trains on its rows as
        its algorithm says. It changes nothing: a further call gives the same.

        Parameters
        ----------
        devices : sequence of Device, optional
            By default all of the federation; a stranger has kept nothing.

        Raises
        ------
        ValueError
            If a device has no rows to train on, or could not train.
        """
        asked = self.devices if devices is None else devices
        known = {device.id: place for place, device in enumerate(self.devices)}
        places = [known.get(d.id, len(self.devices) + i) for i, d in enumerate(asked)]
        return personal(self.plan, self.state, asked, np.array(places, np.intp), self.threads)

    def rounds_that_used(self, device: int | str, key: int) -> I64:
        """Return the rounds whose model learned from a row: its device's update entered them.

        A row counts while it was among its device's training rows: held out, or not chosen by a
        rule of ``rows=``, it was not used, nor in rounds that the device slept through or in which
        its update was set aside. Rows that were erased since, or that moved on to another device,
        are answered for as well. A key that was taken from a row and given to another one stands
        for both.

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
            Rounds, rising; empty if none used it, with a warning if the device has no such row.

        Raises
        ------
        KeyError
            If no such device is in the federation.
        """
        wanted = int(as_keys([key])[0])
        place = self._place_of(device)
        held = wanted in self.devices[place].index
        rounds = np.empty(0, np.int64)
        if held or not self._stored:
            whole = self._stored and not self.plan.rows
            rounds = self._participation.rounds_of(place, None if whole else wanted)
            rounds = rounds[rounds <= self.round_number]
        if not (held or len(rounds)):
            warnings.warn(
                f"device {device!r} has no row of key {wanted}, and no round used one: is that its "
                "number, and its device?",
                stacklevel=2,
            )
        return rounds

    def _place_of(self, device: int | str) -> int:
        # Those that took part first: of a million devices, they are few.
        for place in chain(self._participation.places, range(len(self.devices))):
            if self.devices[place].id == device:
                return place
        raise KeyError(f"no device {device!r} takes part in this federation")


def _checked(values: ArrayLike, layout: Layout) -> Array:
    """Return parameters as a vector of their own, or say what doesn't fit the model."""
    vector = np.asarray(values)
    if vector.dtype != np.float64:
        vector = vector.astype(np.float32)
    if vector.shape != (layout.size,) or not np.isfinite(vector).all():
        raise ValueError(
            f"parameters of shape {vector.shape} were given; {layout.size} finite numbers "
            f"are needed: {dict(layout.shapes)}"
        )
    return vector.copy()
