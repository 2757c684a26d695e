"""One message to many devices at once, and what comes of it: answers, and reasons for having none.

Devices of this process share threads, and what they raise is raised. Any other device has a
thread of its own, which can't be killed: one that does not answer in time keeps that thread, is not
asked again while it does, and holds up nobody else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from threading import Thread
from typing import Any

from fedlab.core.threads import one_blas_thread, share
from fedlab.search.respondent import Respondent, Responding

Send = Callable[[int, Respondent], Any]
#: What is done with an answer: it returns what is wrong with it, or None.
Take = Callable[[int, Any], str | None]


class Exchange:
    """Who is asked, in how many threads, and for how long.

    Parameters
    ----------
    members : mapping of place to Respondent
    threads : int
        Shared by the devices of this process.
    patience : float
        Seconds that any other device has for one message.
    """

    def __init__(self, members: Mapping[int, Respondent], threads: int, patience: float) -> None:
        self._threads, self._patience = threads, patience
        # The largest first, so that no thread is left with a long one at the end.
        near = {place: m for place, m in members.items() if isinstance(m, Responding)}
        self._near = dict(sorted(near.items(), key=lambda item: -item[1].rows))
        self._far = {place: m for place, m in members.items() if place not in near}
        self._silent: dict[int, Thread] = {}

    def __call__(self, places: Iterable[int], send: Send, take: Take) -> dict[int, str]:
        """Send to the devices at some places, take what they answer, and return what was wrong.

        Parameters
        ----------
        places : iterable of int
        send : callable
            ``send(place, respondent)`` returns the answer.
        take : callable
            ``take(place, answer)``; for devices of this process, in their threads.
        """
        asked = set(places)
        calls = {p: _Call(send, p, m) for p, m in self._far.items() if p in asked}
        faults: dict[int, str] = {}
        for place, call in calls.items():
            if place in self._silent and self._silent[place].is_alive():
                faults[place] = "has still not answered an earlier message"
            else:
                call.start()
        near = [(p, m) for p, m in self._near.items() if p in asked]

        def ask(one: tuple[int, Responding]) -> None:
            place, member = one
            if fault := take(place, send(place, member)):
                faults[place] = fault

        with one_blas_thread():
            share(near, ask, self._threads)
        end = time.monotonic() + self._patience
        for place, call in calls.items():
            if place not in faults and (fault := self._heard(place, call, end, take)):
                faults[place] = fault
        return dict(sorted(faults.items()))

    def _heard(self, place: int, call: _Call, end: float, take: Take) -> str | None:
        call.join(max(0.0, end - time.monotonic()))
        if call.is_alive():
            self._silent[place] = call
            return f"did not answer within {self._patience:g} seconds"
        if call.error is not None:
            return f"failed with {type(call.error).__name__}: {call.error}"[:200]
        return take(place, call.answer)


class _Call(Thread):
    def __init__(self, send: Send, place: int, member: Respondent) -> None:
        super().__init__(daemon=True, name=f"fedlab device {place}")
        self._what = send, place, member
        self.answer: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        send, place, member = self._what
        try:
            self.answer = send(place, member)
        except Exception as error:  # whatever a device does, the search goes on and says so
            self.error = error
