"""Run and Stop: one flag a visitor, looked at between two steps of that visitor's run.

Pressing Run arms the flag at once, before the visitor's turn in the queue; so Stop also holds for a run that
is still waiting. A run that is stopped ends by itself and keeps what it has, where Gradio's `cancels` would
throw it away. Closing the page closes the run's generator instead; no flag is needed for that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr


class Stops:
    """The flags of one kind of run, by session."""

    def __init__(self) -> None:
        self._flags: dict[str | None, threading.Event] = {}

    def arm(self, session: str | None) -> None:
        """Run was pressed: a fresh flag."""
        self._flags[session] = threading.Event()

    def flag(self, session: str | None) -> threading.Event:
        """The visitor's flag; a caller of the API, who pressed nothing, gets a fresh one."""
        return self._flags.setdefault(session, threading.Event())

    def stop(self, session: str | None) -> None:
        """Stop was pressed."""
        if flag := self._flags.get(session):
            flag.set()

    def forget(self, session: str | None) -> None:
        """The run is over, or the visitor has left."""
        self._flags.pop(session, None)

    def end(self, session: str | None, flag: threading.Event) -> None:
        """That run is over; where the visitor has pressed Run again, the new run keeps its own flag."""
        if self._flags.get(session) is flag:
            self.forget(session)

    def armed(self, session: str | None) -> bool:
        """Whether a run of the visitor is waiting or under way."""
        return session in self._flags

    def __len__(self) -> int:
        return len(self._flags)


def wire_run(
    run: gr.Button,
    stop: gr.Button,
    stops: Stops,
    handler: Callable[..., Any],
    inputs: list[Any],
    outputs: list[Any],
    *,
    status: Any,
    name: str | None,
    also: Sequence[Any] = (),
) -> list[Any]:
    """Run arms the flag, works in the queue and gives the buttons back, also after an error; Stop sets the flag.

    `also` holds events after which it runs as well: a run that is under way then ends at once and makes room.
    `name` is that of the endpoint; without one the run is for the page alone. Returns the runs as events, for what
    is to follow them.

    Values reach the handler as the page sent them (`preprocess=False`): it checks them itself. Everything that
    runs a model shares one place in the queue, whichever tab it is in.
    """

    def press_run(request: gr.Request) -> tuple[Any, Any]:
        stops.stop(request.session_hash)
        stops.arm(request.session_hash)
        return gr.update(interactive=False), gr.update(interactive=True)

    def press_stop(request: gr.Request) -> Any:
        stops.stop(request.session_hash)
        return gr.update(interactive=False)

    def release(request: gr.Request) -> tuple[Any, Any]:
        going = stops.armed(request.session_hash)
        return gr.update(interactive=not going), gr.update(interactive=going)

    def release_after_error() -> tuple[Any, Any]:
        return gr.update(interactive=True), gr.update(interactive=False)

    at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    if name is not None:
        handler.__name__ = name  # what a tool of the MCP server is called
    starts = [run.click(press_run, None, [run, stop], **at_once)]
    starts += [event.then(press_run, None, [run, stop], **at_once) for event in also]
    runs = []
    for number, pressed in enumerate(starts):
        done = pressed.then(
            handler,
            inputs,
            outputs,
            preprocess=False,
            concurrency_id="model",
            concurrency_limit=1,
            trigger_mode="multiple",
            show_progress="full",
            show_progress_on=[status],
            api_name=name if number == 0 else None,
            api_visibility="public" if name and number == 0 else "private",
        )
        runs.append(done)
        done.then(release, None, [run, stop], **at_once)
        # In Gradio 6.31 `then` does not follow an error.
        done.failure(release_after_error, None, [run, stop], **at_once)
    stop.click(press_stop, None, stop, **at_once)
    return runs
