"""How the page's events are wired: those that run no model, and Run and Stop for those that do."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import gradio as gr
from gradio.context import Context

from app.server.queue import MODEL, VisitorQueue
from app.server.stops import Stops

SKIP = gr.skip()  # leaves a component as it is
HIDDEN = gr.update(visible=False)
# For an event that runs no model: it does not queue, shows no progress and is no endpoint.
AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def returned(stream: Generator[Any, None, Any]) -> Any:
    """What a generator returns, without what it yields: callers of the API see no progress bar."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


def wire_run(
    run: gr.Button,
    stop: gr.Button,
    stops: Stops,
    handler: Callable[..., Any],
    inputs: list[Any],
    outputs: list[Any],
    *,
    status: Any,
    also: Sequence[Any] = (),
    group: str = MODEL,
    at_once: int = 1,
) -> list[Any]:
    """Wire a Run and a Stop button: Run arms the flag and queues the handler, Stop sets the flag.

    also: events that start a run as well; a run in progress then ends at once. Returns the runs as events, for what
    follows them. They are no endpoints: programs call those of app/server/api.py.

    The buttons are reset after the run, also after an error. Values reach the handler as the page sent them
    (`preprocess=False`), since it checks them itself. Handlers of one `group` share a queue, from which `at_once` of
    them run; Stop takes a run out of it.
    """

    page: Any = Context.root_block  # its queue is made last

    def press_run(request: gr.Request) -> tuple[Any, Any]:
        stops.stop(request.session_hash)
        stops.arm(request.session_hash)
        return gr.update(interactive=False), gr.update(interactive=True)

    async def press_stop(request: gr.Request) -> Any:
        stops.stop(request.session_hash)
        if isinstance(page._queue, VisitorQueue):
            await page._queue.end_waiting(request.session_hash)
        return gr.update(interactive=False)

    def reset(request: gr.Request) -> tuple[Any, Any]:
        going = stops.armed(request.session_hash)
        return gr.update(interactive=not going), gr.update(interactive=going)

    def reset_after_error() -> tuple[Any, Any]:
        return gr.update(interactive=True), gr.update(interactive=False)

    starts = [run.click(press_run, None, [run, stop], **AT_ONCE)]
    starts += [event.then(press_run, None, [run, stop], **AT_ONCE) for event in also]
    runs = []
    for pressed in starts:
        done = pressed.then(
            handler,
            inputs,
            outputs,
            preprocess=False,
            concurrency_id=group,
            concurrency_limit=at_once,
            trigger_mode="multiple",
            show_progress="full",
            show_progress_on=[status],
            api_visibility="private",
        )
        runs.append(done)
        done.then(reset, None, [run, stop], **AT_ONCE)
        # In Gradio 6.31 `then` does not follow an error.
        done.failure(reset_after_error, None, [run, stop], **AT_ONCE)
    stop.click(press_stop, None, stop, **AT_ONCE)
    return runs
