"""The queue: nobody can fill it for all, nothing ends it, and what nobody listens to is dropped."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException

from app.server import queue as module
from app.server.gateway.rates import PERSON, ROOM, Caller
from app.server.queue import CALLERS, MODEL, STOPPED, VisitorQueue
from tests.app.server.stranger import finished

RUN, OTHER = 0, 1  # handlers of the page


class Handler:
    """What the queue reads of a handler."""

    concurrency_limit, validator, batch, api_name, connection = 1, None, False, "x", "sse"

    def __init__(self, number: int, group: str) -> None:
        self._id, self.concurrency_id, self.fn = number, group, print


@pytest.fixture
def unheard() -> list[str]:
    return []


@pytest.fixture
def queue(unheard) -> VisitorQueue:
    page: Any = SimpleNamespace(max_threads=4, fns={RUN: Handler(RUN, MODEL), OTHER: Handler(OTHER, "other")})
    return VisitorQueue(page, max_waiting=6, on_unheard=unheard.append)


@pytest.fixture(autouse=True)
def no_states(monkeypatch):
    monkeypatch.setattr("gradio.route_utils.get_fn", lambda blocks, name, body: blocks.fns[body.fn_index])


def join(queue: VisitorQueue, session: str | None, callers: tuple[Caller, ...] = (), number: int = RUN) -> str:
    body = SimpleNamespace(session_hash=session, fn_index=number, event_id=None, data=[])
    request: Any = SimpleNamespace(scope={CALLERS: list(callers)})
    joined, event, _ = finished(queue.push(body, request, None))
    assert joined
    return event


def refused(*arguments, **options) -> int:
    with pytest.raises(HTTPException) as error:
        join(*arguments, **options)
    return error.value.status_code


def test_a_session_has_one_run_waiting(queue):
    join(queue, "one")
    assert refused(queue, "one") == 429
    join(queue, "two")
    join(queue, "one", number=OTHER)  # opening a trace is no run


def test_a_login_has_a_few_runs_waiting_and_its_room_more(queue):
    room, mine, neighbor = Caller(ROOM, time.monotonic), Caller(PERSON, time.monotonic), Caller(PERSON, time.monotonic)
    for n in range(PERSON.waiting):
        join(queue, f"mine{n}", (room, mine))
    assert refused(queue, "more", (room, mine)) == 429
    join(queue, "neighbor", (room, neighbor))


def test_runs_in_progress_count_since_several_seats_may_be_free(queue):
    mine = Caller(PERSON, time.monotonic)
    group = queue.event_queue_per_concurrency_id
    queue.active_jobs = []
    for _ in range(2):
        join(queue, "eager", (mine,))
        queue.active_jobs.append([group[MODEL].queue.pop()])
    assert refused(queue, "eager", (mine,)) == 429
    for n in range(PERSON.waiting - 2):
        join(queue, f"other{n}", (mine,))
    assert refused(queue, "more", (mine,)) == 429


def test_calls_without_a_session_are_bounded_by_their_caller(queue):
    mine = Caller(PERSON, time.monotonic)
    for _ in range(PERSON.waiting):
        join(queue, None, (mine,))
    assert refused(queue, None, (mine,)) == 429


def test_a_queue_full_of_runs_is_not_full_for_what_runs_no_model(queue):
    for n in range(queue.max_waiting):
        join(queue, f"s{n}")
    assert refused(queue, "late") == 503
    for _ in range(module.MOST_OTHERS_OF_SESSION):
        join(queue, "late", number=OTHER)
    assert refused(queue, "late", number=OTHER) == 503
    join(queue, "later", number=OTHER)


def test_a_session_without_a_name_and_an_unknown_event_are_refused(queue):
    assert refused(queue, "") == 404
    assert refused(queue, "one", number=99) == 404
    assert not queue.waiting()


def test_an_event_whose_messages_are_gone_ends_nothing(queue):
    event = queue.event_ids_to_events[join(queue, "one")]
    del queue.pending_messages_per_session["one"]
    queue.broadcast_estimations(MODEL)
    assert not event.alive


def test_the_loop_is_started_again_after_an_error(queue, monkeypatch, caplog):
    calls = []

    def get_events():
        calls.append(None)
        if len(calls) == 1:
            raise KeyError("one bad event")
        queue.close()

    monkeypatch.setattr(queue, "get_events", get_events)
    join(queue, "one")
    queue.active_jobs = [None]
    finished(queue.start_processing())
    assert len(calls) == 2
    assert "started again" in caplog.text


def test_events_that_nobody_listens_to_are_dropped_and_their_runs_end(queue, unheard, monkeypatch):
    for session in ("heard", "left", "never", "running"):
        join(queue, session)
    queue.listen("heard")
    queue.listen("left")
    queue.stop_listening("left")
    group = queue.event_queue_per_concurrency_id[MODEL]
    running = group.queue.pop()
    queue.active_jobs = [[running], None]
    finished(queue.drop_unheard())
    assert len(queue.waiting()) == 3 and running.alive, "a minute is left to them"
    now = time.monotonic() + module.UNHEARD_SECONDS + 1
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    finished(queue.drop_unheard())
    assert [event.session_hash for event in queue.waiting()] == ["heard"]
    assert not running.alive
    assert sorted(unheard) == ["left", "never", "running"]
    queue.event_ids_to_events.pop(running._id)  # as Gradio does at the end of a run
    finished(queue.drop_unheard())
    assert list(queue.pending_messages_per_session) == ["heard"]
    assert set(queue.pending_event_ids_session) == {"heard"}
    assert set(queue.heard) <= {"heard"}


def test_stop_lets_a_waiting_run_begin_at_once_to_end_without_a_step(queue):
    for session in ("one", "two"):
        join(queue, session)
    finished(queue.end_waiting("two"))
    assert [event.session_hash for event in queue.event_queue_per_concurrency_id[MODEL].queue] == ["one"]
    queue.event_queue_per_concurrency_id[MODEL].current_concurrency = 1  # a run is in progress
    [event], _, group = queue.get_events()
    assert event.session_hash == "two" and group == event.concurrency_id == STOPPED


def test_those_who_wait_are_told_the_seconds_until_their_turn(queue):
    queue.blocks.fns[RUN].concurrency_id, queue.blocks.fns[RUN].concurrency_limit = module.ROOM, 2
    for session in ("third", "fourth", "fifth"):
        join(queue, session)
    group = queue.event_queue_per_concurrency_id[module.ROOM]
    group.start_times_per_fn[queue.blocks.fns[RUN]] = {time.time(), time.time() - 1}
    assert queue.waits(group) == [None] * 3, "nothing is measured yet"
    queue.seconds_left = lambda: [30.0, 10.0]
    assert queue.waits(group) == [10.0, 30.0, 40.0], "a run of unknown length is as long as the longest"
    queue.process_time_per_fn[queue.blocks.fns[RUN]].add(5.0)
    assert queue.waits(group) == [10.0, 15.0, 20.0]
    queue.broadcast_estimations(module.ROOM)
    messages = queue.pending_messages_per_session["fourth"]
    *_, told = [messages.get_nowait() for _ in range(messages.qsize())]
    assert (told.rank, told.rank_eta, told.queue_size) == (1, 15.0, 3)


def test_two_streams_of_one_session_may_both_end_it(queue):
    messages = queue.pending_messages_per_session
    messages["visitor"] = object()
    del messages["visitor"], messages["visitor"]
    assert "visitor" not in messages and messages.pop("visitor", None) is None
    for number in range(messages.max_size + 5):  # it is still bounded
        messages[str(number)] = number
    assert len(messages) == messages.max_size and messages.pop("8") == 8
