"""The app's page as Gradio serves it: errors become messages, and a session costs little until it is used."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import gradio as gr
from gradio.context import Context
from gradio.state_holder import SessionState, StateHolder

from app.server.guard import told
from app.server.room import Room
from app.strings.language import TABLES, texts

log = logging.getLogger("diffuapriel.app")

MOST_SESSIONS = 300  # in memory; the one unused for longest goes first
MOST_MESSAGE = 400  # characters


class Page(gr.Blocks):
    """`on_leave` is called once with the session of a visitor who has closed the page; `room` holds their runs."""

    on_leave: Callable[[str | None], None]
    room: Room
    tabs: list[tuple[int, str]]  # the first handler of each tab and the tab's name, in order
    translations: Mapping[str, list[dict[str, Any]]] = {}  # components of the page in other languages

    @property
    def config(self) -> Any:
        """What the browser builds the page from, in the visitor's language."""
        components = self.translations.get(texts.LANGUAGE)
        return self._config if components is None else {**self._config, "components": components}

    @config.setter
    def config(self, value: Any) -> None:
        self._config = value

    def translate(self, build: Callable[[], gr.Blocks]) -> None:
        """Build the page again in each other language, with the same ids: only the texts differ.

        All languages share this page's handlers and queue.
        """
        next_id, present = Context.id, texts.LANGUAGE
        found = {}
        for language in TABLES:
            if language == present:
                continue
            Context.id = self._id
            with texts.speaking(language):
                found[language] = build().config["components"]
            kinds = [
                [(one["id"], one["type"]) for one in made] for made in (self._config["components"], found[language])
            ]
            if kinds[0] != kinds[1]:
                raise RuntimeError(f"the page in {language!r} has other components than in {present!r}")
        Context.id = next_id
        self.translations = found

    def tab_of(self, handler: int) -> str:
        """The name of the tab that a handler belongs to, "" for a page on which nothing was done."""
        return next((name for first, name in reversed(self.tabs) if handler >= first), "")

    async def process_api(self, *args: Any, **kwargs: Any) -> Any:
        """Gradio's. What it cannot read raises gr.Error, which the visitor sees, and leaves no traceback in the log."""
        texts.follow(getattr(getattr(kwargs.get("request"), "request", None), "cookies", None) or {})
        try:
            return await super().process_api(*args, **kwargs)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            message = told(error).partition("\n")[0][:MOST_MESSAGE]
            log.warning("an event was refused: %s: %s", type(error).__name__, message)
            log.debug("refused here", exc_info=True)
            raise gr.Error(html.escape(message), title=texts.REFUSED, print_exception=False) from error


class VisitorState(SessionState):
    """Gradio's, without what grows from run to run.

    That is the description of every component with its value, which only links to a state would need, and the copies
    of components that an update makes under new ids.
    """

    def __init__(self, blocks: gr.Blocks) -> None:
        self._known = frozenset(blocks.blocks)
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks={}))  # pyright: ignore[reportArgumentType]

    def __setitem__(self, key: int, value: Any) -> None:
        if key in self._known:
            super().__setitem__(key, value)
            self.config_values.clear()

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


class VisitorStates(StateHolder):
    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = VisitorState(self.blocks)
        return super().__getitem__(session_id)

    def forget(self, session_id: str) -> None:
        """Free the state of a visitor who has left for good."""
        self.delete_state(session_id)
        self.session_data.pop(session_id, None)
        self.time_last_used.pop(session_id, None)
