"""Gradio's queue, made fair between visitors: nobody can fill it for all, and no event can end it.

Model runs wait in two groups: those of the Unmask page, of which several share a model (room.py), and all others, one
at a time. Whoever waits is told for how many seconds, and Stop takes a run out. A session has one run waiting beside
the one in progress; an address and a login have a few (gateway/rates.py); the bound of the whole queue counts model
runs only. Events whose answer nobody has listened to for a minute are dropped, also while they run.
"""

from __future__ import annotations

import heapq
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException
from gradio.queueing import Event, EventQueue, Queue
from gradio.server_messages import EstimationMessage
from gradio.utils import LRUCache

from app.strings.language import texts

if TYPE_CHECKING:
    from gradio.blocks import Blocks

    from app.server.gateway.rates import Caller

log = logging.getLogger("diffuapriel.app")

MODEL = "model"  # the group of events that run a model, one at a time
ROOM = "room"  # those that share one
STOPPED = "stopped"  # those whose visitor pressed Stop while they waited: they end at once
OF_MODELS = (MODEL, ROOM)
CONCURRENCY = 8  # of each other event, e.g. opening a trace
MOST_OTHERS = 200  # events waiting that run no model
MOST_OTHERS_OF_SESSION = 16
UNHEARD_SECONDS = 60.0
CALLERS = "diffuapriel.callers"  # key of a request's scope: the callers that answer for it


class Messages(LRUCache[str, Any]):
    """Messages by session. Two streams of one session that close together both delete it; the second is no error."""

    def __delitem__(self, session: str) -> None:
        if session in self:
            super().__delitem__(session)


class VisitorQueue(Queue):
    """`listeners` and `heard` are the gateway's: who listens for a session's events, and when somebody last did."""

    def __init__(
        self,
        blocks: Blocks,
        max_waiting: int,
        on_unheard: Callable[[str], None],
        seconds_left: Callable[[], list[float]] = list,
    ) -> None:
        """seconds_left: of the runs in progress in the room, as far as they can be told."""
        super().__init__(
            live_updates=True,
            concurrency_count=blocks.max_threads,
            update_intervals=1,
            max_size=None,  # would count all events
            blocks=blocks,
            default_concurrency_limit=CONCURRENCY,
        )
        self.pending_messages_per_session = Messages(self.pending_messages_per_session.max_size)
        self.max_waiting, self.on_unheard, self.seconds_left = max_waiting, on_unheard, seconds_left
        self.event_queue_per_concurrency_id[STOPPED] = EventQueue(STOPPED, None)
        self.listeners: Counter[str] = Counter()
        self.heard: dict[str, float] = {}
        self.closed = False
        self.ANALYTICS_MAX_EVENTS = 1  # nobody reads them

    # -- who may join --

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """Gradio's, after the bounds. Raises HTTPException with a sentence for the visitor."""
        fn = self.blocks.fns.get(body.fn_index)
        if fn is None or body.session_hash == "":
            raise HTTPException(404, "no such event")
        callers: list[Caller] = request.scope.get(CALLERS, [])
        if fn.concurrency_id in OF_MODELS:
            self._check_model_event(body.session_hash, callers)
        else:
            others = [e for e in self.waiting() if e.concurrency_id not in OF_MODELS]
            of_session = sum(e.session_hash == body.session_hash for e in others)
            if len(others) >= MOST_OTHERS or of_session >= MOST_OTHERS_OF_SESSION:
                raise HTTPException(503, texts.QUEUE_FULL)
        return await super().push(body, request, username)

    def _check_model_event(self, session: str | None, callers: list[Caller]) -> None:
        """Several seats may be free (room.py): runs in progress count as well, so that nobody takes them all."""
        waiting = [e for e in self.waiting() if e.concurrency_id in OF_MODELS]
        if len(waiting) >= self.max_waiting:
            raise HTTPException(503, texts.QUEUE_FULL)
        runs = [*waiting, *(e for e in self.running() if e.concurrency_id in OF_MODELS and e.alive)]
        of_session = [e for e in runs if e.session_hash == session]
        if len(of_session) > 1 or any(e in waiting for e in of_session):
            raise HTTPException(429, texts.RUN_WAITS)
        for caller in callers:
            theirs = sum(caller in e.request.scope.get(CALLERS, []) for e in runs)
            if theirs >= caller.bounds.waiting:
                raise HTTPException(429, texts.RUNS_WAIT.format(runs=theirs))

    def waiting(self) -> list[Event]:
        """All events that wait, of every group."""
        return [event for group in self.event_queue_per_concurrency_id.values() for event in group.queue]

    def running(self) -> list[Event]:
        """All events in progress."""
        return [event for job in self.active_jobs if job for event in job]

    async def end_waiting(self, session: str | None) -> None:
        """Let the run that a session has waiting begin at once; its flag is set, so that it ends without a step."""
        async with self.delete_lock:
            groups = self.event_queue_per_concurrency_id
            for event in self.waiting():
                if event.session_hash == session and event.concurrency_id in OF_MODELS:
                    groups[event.concurrency_id].queue.remove(event)
                    event.concurrency_id = STOPPED
                    groups[STOPPED].queue.append(event)

    # -- for how long --

    def broadcast_estimations(self, concurrency_id: str, after: int | None = None) -> None:
        """Tell everybody who waits their place and the seconds until their turn. (Gradio tells those until the end.)"""
        group = self.event_queue_per_concurrency_id[concurrency_id]
        for rank, (event, seconds) in enumerate(zip(list(group.queue), self.waits(group))):
            if after is None or rank >= after:
                self.send_message(event, EstimationMessage(rank=rank, rank_eta=seconds, queue_size=len(group.queue)))

    def waits(self, group: EventQueue) -> list[float | None]:
        """The seconds until each event of a group begins, from steps and runs measured so far; None where unknown."""
        now, ends = time.time(), sorted(self.seconds_left()) if group.concurrency_id == ROOM else []
        longest = max(ends, default=math.inf)
        running = [(fn, start) for fn, starts in group.start_times_per_fn.items() for start in starts]
        ends += [max(0.0, start + self._typical(fn, longest) - now) for fn, start in running[len(ends) :]]
        ends += [0.0] * ((group.concurrency_limit or len(ends) + 1) - len(ends))
        heapq.heapify(ends)
        found: list[float | None] = []
        for event in group.queue:
            soon = heapq.heappop(ends)
            found.append(soon if math.isfinite(soon) else None)
            heapq.heappush(ends, soon + self._typical(event.fn, longest))
        return found

    def _typical(self, fn: Any, unknown: float) -> float:
        """Mean seconds of a handler's runs; `unknown` before the first one has ended."""
        return self.process_time_per_fn[fn].avg_time if fn in self.process_time_per_fn else unknown

    # -- the loop must not end --

    def start(self) -> None:
        self.closed = False
        super().start()

    def close(self) -> None:
        self.closed = True
        super().close()

    async def start_processing(self) -> None:
        """Gradio's loop, started again after an error, which ended it for everybody."""
        while True:
            try:
                return await super().start_processing()
            except Exception:
                log.exception("the queue's loop ended and is started again")
                self.stopped = self.closed

    def _cancel_asyncio_tasks(self) -> None:
        if self.closed:  # otherwise the loop starts again, and the runs in progress go on
            super()._cancel_asyncio_tasks()

    def send_message(self, event: Event, event_message: Any) -> None:
        """Gradio's; an event whose session has no messages (any more) is over, and no error."""
        try:
            super().send_message(event, event_message)
        except KeyError:
            event.alive = False

    def compute_analytics_summary(self, records: Any) -> Any:
        """Gradio makes a table of all events after each one; monitoring is off here."""
        return self.cached_event_analytics_summary

    # -- who listens --

    def session_of(self, event_id: str) -> str:
        """The session whose messages answer a call; the id itself for a caller without a session."""
        if event := self.event_ids_to_events.get(event_id):
            return event.session_hash
        sessions = (session for session, ids in self.pending_event_ids_session.items() if event_id in ids)
        return next(sessions, event_id)

    def listen(self, session: str) -> None:
        self.listeners[session] += 1

    def stop_listening(self, session: str) -> None:
        self.listeners[session] -= 1
        self.listeners += Counter()  # drops what is zero
        self.heard[session] = time.monotonic()

    def is_unheard(self, session: str, since: float, now: float) -> bool:
        """Whether nobody listens to a session's events, and nobody has for a minute; `since`: the event's own time."""
        return not self.listeners[session] and now - max(since, self.heard.get(session, 0.0)) > UNHEARD_SECONDS

    async def drop_unheard(self) -> None:
        """End the events that nobody listens to, and forget answers that nobody fetched."""
        now = time.monotonic()
        for event in [*self.waiting(), *self.running()]:
            if self.is_unheard(event.session_hash, event.enqueue_time, now):
                await self.clean_events(event_id=event._id)
                self.on_unheard(event.session_hash)
        busy = {event.session_hash for event in self.event_ids_to_events.values()}
        for session in [*self.pending_messages_per_session, *self.pending_event_ids_session]:
            since = self.heard.setdefault(session, now)
            if session not in busy and self.is_unheard(session, since, now):
                self.pending_messages_per_session.pop(session, None)
                self.pending_event_ids_session.pop(session, None)
        for session in [*self.heard]:
            if session not in self.pending_messages_per_session and session not in busy:
                del self.heard[session]
