"""A federation that runs behind the cells of a notebook, and is watched and steered from one."""

from __future__ import annotations

import atexit
import base64
import html
import itertools
import os
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Lock, Thread

from IPython.display import display
from ipywidgets import HTML, HBox, VBox
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # and never pyplot, which knows no threads
from matplotlib.ticker import MaxNLocator

from fedlab.core import progress
from fedlab.core.validation import whole_number
from fedlab.federation import Federation
from fedlab.federation.history import History, Report
from fedlab.files.atomic import locked, write_bytes
from fedlab.workbench.notebook import cells, widgets

#: A run goes on for so many times the time that its last saving, or its last drawing, took.
_SAVING, _DRAWING = 20, 4
#: How much of a run the grid of devices shows, and of how many it has the names.
_ROUNDS, _DEVICES, _NAMED = 40, 60, 20
_BUTTONS = (("pause", "pause"), ("continue", "play"), ("stop", "stop"))

_MONITORS: dict[Path, Monitor] = {}
# A kernel that ends takes the names of its cells from under the thread: that is no failure. What is
# registered last is called first, so before IPython's own.
_ENDS = Event()
atexit.register(_ENDS.set)


def monitor(federation: Federation, rounds: int, folder: str | os.PathLike[str]) -> Monitor:
    """Run a federation behind the cells of a notebook, and show how it stands.

    The kernel stays free. Running the cell again shows the same run, and a larger `rounds` makes it
    longer. The run is saved in `folder` as it goes, as `Federation.run_to` does: after a restart of
    the kernel the cell shows how far it was, and "continue" goes on to the bits that it would have
    had. In a batch run it runs to the end, and leaves a figure.

    Parameters
    ----------
    federation : Federation
        Leave it to the monitor while it runs.
    rounds : int
        Where to end, counted from the federation's first round.
    folder : path-like
        Of this run's own; it is made where it is missing. With nothing in it, the run begins.

    Returns
    -------
    Monitor
        `Monitor.finish` waits for the end; `Monitor.federation` is what learned.

    Raises
    ------
    CheckpointError
        If the folder holds another run.
    TypeError
        If a part of the run can't be told from another one of its class.

    Examples
    --------
    ::

        watched = monitor(federation, rounds=200, folder="runs/first")
        watched.finish().series("train_loss")  # in a later cell
    """
    whole_number(rounds, "rounds", 1)
    place = Path(folder).resolve()
    place.mkdir(parents=True, exist_ok=True)
    known, fresh = _MONITORS.get(place), not (place / "run.checkpoint").exists()
    if known is not None and known.running and known.federation is not federation:
        federation.load(known.path)  # refuses another run
    elif known is None or known.federation is not federation:
        if known is not None:
            known.release()
        known = _MONITORS[place] = Monitor(federation, place)
    known.rounds = rounds
    if cells.is_batch():
        known.play_here()
        cells.show(*run_figure(federation, rounds))
        return known
    (known.proceed if fresh else known.show)()
    display(known.box)  # type: ignore[no-untyped-call]
    return known


class Monitor:
    """A run behind the cells, and the widget that shows it; made by `monitor`.

    Attributes
    ----------
    federation : Federation
        What runs.
    rounds : int
        Where it ends.
    path : Path
        Its checkpoint.
    failure : str
        What the run raised, with its trace; empty while all is well.
    running : bool
        Whether its thread is at work.
    box : VBox
        The widget.
    """

    def __init__(self, federation: Federation, folder: Path) -> None:
        self.federation, self.rounds, self.path = federation, 0, folder / "run.checkpoint"
        self._failed = folder / "error.txt"
        self.failure = self._failed.read_text("utf-8") if self._failed.exists() else ""
        self._wanted = "failed" if self.failure else "stopped"
        self.running = False
        self._switch, self._pencil, self._due = Lock(), Lock(), 0.0
        self._held: ExitStack | None = None
        self._take()
        self._line, self._picture = HTML(), HTML()
        presses = zip(_BUTTONS, (self.pause, self.proceed, self.stop), strict=True)
        self._buttons = [widgets.button(*look, press) for look, press in presses]
        self.box = VBox([self._line, HBox(self._buttons), self._picture])

    # -- what the buttons do -------------------------------------------------------------------

    @property
    def status(self) -> str:
        """What it does, in a few words."""
        if self.running:
            return self._wanted if self._wanted == "runs" else f"{self._wanted} after this round"
        done = self.federation.round_number >= self.rounds and not self.failure
        return "done" if done else self._wanted

    def pause(self) -> None:
        """End after this round, which is saved; no other kernel can go on with the run."""
        self._wanted = "paused"
        self.show()

    def stop(self) -> None:
        """End after this round, which is saved; this kernel can go on with the run, or another."""
        with self._switch:
            self._wanted = "stopped"
            if not self.running:
                self.release()
        self.show()

    def proceed(self) -> None:
        """Begin, or go on from where the run stands."""
        with self._switch:
            if self.status == "done":
                return
            self.failure, self._wanted = "", "runs"
            if not self.running:
                self.running = True
                Thread(target=self._work, daemon=True).start()
        self.show()

    def finish(self) -> History:
        """Go on until the last round, wait for it, and return the history.

        The kernel is busy until then, and the buttons don't answer; an interrupt ends the waiting.

        Raises
        ------
        RuntimeError
            If the run failed, with what it raised.
        """
        self.proceed()
        while self.running:
            time.sleep(0.05)
        if self.failure:
            raise RuntimeError(f"the run failed, and stands as it was:\n{self.failure}")
        return self.federation.history

    # -- the rounds ------------------------------------------------------------------------------

    def play_here(self) -> None:
        """Go on until the last round with nothing to press, as batch runs do."""
        left = max(self.rounds - self.federation.round_number, 0)
        self._due, self._wanted = float("inf"), "runs"
        self._play(progress.bar(self.federation.rounds(left), left, "rounds"))

    def _work(self) -> None:
        while self.running:
            try:
                self._play(self.federation.rounds())
            except BaseException:  # whatever it is, a thread has nobody else to tell
                self.failure, self._wanted = traceback.format_exc(), "failed"
            with self._switch:
                if self._wanted == "runs" and self.federation.round_number < self.rounds:
                    continue  # it was pressed a moment ago
                self._wanted = "stopped" if self._wanted == "runs" else self._wanted
                if self._wanted != "paused":
                    self.release()
                self.running = False
        self.show()

    def _play(self, reports: Iterator[Report]) -> None:
        if self._held is None:
            self._take()
        self._failed.unlink(missing_ok=True)
        due = 0.0
        try:
            while self._wanted == "runs" and self.federation.round_number < self.rounds:
                if next(reports, None) is None:
                    self._wanted = "ended: its privacy budget is spent"
                if (began := time.monotonic()) >= due:
                    self.federation.save(self.path)
                    due = time.monotonic() + _SAVING * (time.monotonic() - began)
                if time.monotonic() >= self._due:
                    self.show(drawn=True)
        except BaseException:
            if not _ENDS.is_set():
                write_bytes(self._failed, traceback.format_exc().encode())
            raise
        finally:
            self.federation.save(self.path)

    def _take(self) -> None:
        """Go on from what the folder holds, which is nobody else's from now on."""
        with ExitStack() as held:
            if not held.enter_context(locked(self.path.parent, wait=False)):
                raise BlockingIOError(
                    f"another kernel has {self.path.parent}; press stop there, or shut it down"
                )
            (self.federation.load if self.path.exists() else self.federation.save)(self.path)
            self._held = held.pop_all()

    def release(self) -> None:
        """Leave the folder to whoever goes on with the run."""
        if self._held is not None:
            self._held.close()
            self._held = None

    # -- what is seen ------------------------------------------------------------------------------

    def show(self, drawn: bool = False) -> None:
        """Say how the run stands; and draw it, unless its thread, which alone may, is at work."""
        if drawn or not self.running:
            began = time.monotonic()
            try:
                with self._pencil:
                    self._picture.value = _as_html(*run_figure(self.federation, self.rounds))
            except Exception:  # a picture that can't be drawn ends no run
                self._picture.value = _alert(traceback.format_exc())
            self._due = time.monotonic() + _DRAWING * (time.monotonic() - began)
        status = self.status
        idle = (status != "runs", status in ("runs", "done"), self._held is None)
        for button, disabled in zip(self._buttons, idle, strict=True):
            button.disabled = disabled
        self._line.value = (
            f"<progress value='{self.federation.round_number}' max='{self.rounds}'></progress> "
            f"<b>{status}</b>: {html.escape(said(self.federation, self.rounds))}"
            f"{_alert(self.failure)}"
        )


def _alert(text: str) -> str:
    return text and f"<pre role='alert'>{html.escape(text)}</pre>"


def said(federation: Federation, rounds: int) -> str:
    """Say in a sentence how a run stands: measures, bytes, simulated seconds, epsilons."""
    history, plan = federation.history, federation.plan
    told = [f"{part} {kind} {at[-1][1]:.3g}" for (kind, part), at in _curves(history).items()]
    moved = {way: sum(v for _, v in history.points(f"bytes_{way}")) for way in ("up", "down")}
    told += [f"{number / 1e6:,.4g} MB {way}" for way, number in moved.items()]
    told += [f"{federation.state.clock:,.4g} simulated seconds"]
    for account in filter(None, (plan.privacy, plan.row_privacy)):
        name, spent = next(iter(account.measures(federation.state.private).items()))
        budget = f" of {account.part.epsilon:g}" if account.part.epsilon else ""
        told += [f"{name.replace('_', ' ')} {spent:.3g}{budget}"]
    return f"round {federation.round_number} of {rounds}; {'; '.join(told)}."


def _curves(history: History) -> dict[tuple[str, str], list[tuple[int, float]]]:
    names = itertools.product(("accuracy", "loss"), ("test", "validation", "train"))
    found = {(kind, part): [*history.points(f"{part}_{kind}")] for kind, part in names}
    return {name: points for name, points in found.items() if points}


def run_figure(federation: Federation, rounds: int) -> tuple[Figure, str]:
    """Draw a run's curves and its devices, and say how it stands."""
    curves = _curves(federation.history)
    kinds = [*dict.fromkeys(kind for kind, _ in curves), "devices"]
    figure = Figure(figsize=(3.6 * len(kinds), 3.4), layout="constrained")
    panels = dict(zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0], strict=True))
    for (kind, part), points in curves.items():
        panels[kind].plot(*zip(*points, strict=True), marker="o", markevery=[-1], label=part)
        panels[kind].set_ylabel(kind)
        panels[kind].legend()
    _draw_devices(federation, panels["devices"])
    for ax in panels.values():
        ax.set_xlabel("round")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    return figure, said(federation, rounds)


def _draw_devices(federation: Federation, ax: Axes) -> None:
    """Draw who took part in the last rounds, and who was asked and left out."""
    devices, last = federation.devices, federation.round_number
    window = range(max(1, last - _ROUNDS + 1), last + 1)
    sent = federation.took_part()
    took = {(r, str(devices[place].id)) for r in window for place in sent.get(r, ())}
    told = federation.history.remarks()[["round", "who"]].itertuples(index=False, name=None)
    left = {(round, who) for round, who in told if round in window} - took
    # Of a large population, those to whom most happened.
    often = [who for who, _ in Counter(who for _, who in sorted(took | left)).most_common(_DEVICES)]
    names = [str(device.id) for device in devices] if len(devices) <= _DEVICES else often
    for label, marker, marks in (("took part", "s", took), ("left out", "x", left)):
        at = [(round, names.index(who)) for round, who in sorted(marks) if who in names]
        ax.plot([x for x, _ in at], [y for _, y in at], marker, ms=4, label=label)
    ax.set(ylabel=f"{len(names)} of {len(devices)} devices", ylim=(-0.5, len(names) - 0.5))
    named = names if len(names) <= _NAMED else []
    ax.set_yticks(range(len(named)), named)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def _as_html(figure: Figure, alt: str) -> str:
    # White behind it: it is drawn for paper, and JupyterLab may be dark.
    pixels = base64.b64encode(cells.pixels(figure, 160)).decode()
    return (
        f"<img alt='{html.escape(alt)}' src='data:image/png;base64,{pixels}' "
        f"style='background: white; width: {figure.get_figwidth() * 96:.0f}px; max-width: 100%'>"
    )
