"""A link that restores the settings of a tab: readable query parameters, checked on the server like any other value.

    http://127.0.0.1:7860/?tab=race&a=tales-diffuapriel&b=tales-diffutran&length=128&steps=32

A setting of several values is a parameter that comes several times. Nothing is stored: all that a link says stands
in it. A parameter that cannot be is left out, and the page says which
and why; parameters of no tab are left alone. Nothing runs before the reader presses Run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode

import gradio as gr
from gradio.context import Context

from app.server.guard import guarded
from app.server.limits import Refused
from app.strings import en as texts
from app.ui import render

TAB = "tab"  # the parameter that says which tab a link is of
MOST_CHARACTERS = 4000  # of a link: longer ones are cut by mail programs and servers
AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# The browser knows its own address better than the server behind a proxy does.
SHOW = """(query) => {
  const link = location.origin + location.pathname + query;
  history.replaceState(null, "", link);
  navigator.clipboard?.writeText(link).catch(() => {});
  return link;
}"""


@dataclass(frozen=True)
class Field:
    """A setting in a link: its parameter, its component on the page, and the check that every value passes."""

    name: str
    component: Any
    check: Callable[[Any], Any]


def wire_link(tab: str, fields: Sequence[Field], status: Any) -> None:
    """Draw the link button inside the present tab, and restore the settings of a link when the page opens.

    `status`: the gr.HTML that says what a link held that cannot be.
    """
    components = [field.component for field in fields]
    with gr.Row(elem_classes="da-actions"):
        button = gr.Button(texts.LINK, size="sm", scale=0, min_width=160, elem_id=f"{tab}-link")
        box = gr.Textbox(
            label=texts.LINK_LABEL,
            info=texts.LINK_INFO,
            visible=False,
            interactive=False,
            min_width=300,
            buttons=["copy"],
            elem_id=f"{tab}-link-text",
        )

    def make(*values: Any) -> Any:
        return gr.update(value=query_of(tab, fields, values), visible=True)

    def restore(request: gr.Request) -> list[Any]:
        return restored(tab, fields, parse_qs(str(request.query_params), keep_blank_values=True))

    made = button.click(guarded(make), components, box, preprocess=False, **AT_ONCE)
    made.success(None, box, box, js=SHOW, **AT_ONCE)
    page, tabs = Context.root_block, enclosing_tabs()
    if page is not None and tabs is not None:
        page.load(restore, None, [*components, status, tabs], **AT_ONCE)


def enclosing_tabs() -> gr.Tabs | None:
    """The gr.Tabs around the present block, to open the tab of a link."""
    block: Any = Context.block
    while block is not None and not isinstance(block, gr.Tabs):
        block = block.parent
    return block


def query_of(tab: str, fields: Sequence[Field], values: Sequence[Any]) -> str:
    """'?tab=...&...' of values as the page sent them. Raises Refused where one is not permitted or all are too long."""
    checked = {field.name: field.check(value) for field, value in zip(fields, values, strict=True)}
    query = "?" + urlencode({TAB: tab} | {name: plain(value) for name, value in checked.items()}, doseq=True)
    if len(query) > MOST_CHARACTERS:
        raise Refused(
            f"the link would have {len(query):,} characters; it may have up to {MOST_CHARACTERS:,}. "
            "Shorten the text, or save the trace instead"
        )
    return query


def restored(tab: str, fields: Sequence[Field], query: Mapping[str, list[str]]) -> list[Any]:
    """An update for each field's component, then for the status line and for the tabs; of another tab's link, none."""
    nothing: list[Any] = [gr.skip()] * (len(fields) + 2)
    if query.get(TAB) != [tab]:
        return nothing
    updates, problems = nothing, []
    for number, field in enumerate(fields):
        if field.name not in query:
            continue
        try:
            updates[number] = gr.update(value=field.check(value_of(query[field.name], field.component)))
        except ValueError as error:
            problems.append(texts.LINK_BAD.format(why=error))
    if problems:
        updates[-2] = render.notes(problems, bad=True)
    updates[-1] = gr.update(selected=tab)
    return updates


def value_of(given: list[str], component: Any) -> Any:
    """A parameter as the value that its component would send: a list, or the last one. The check decides on it."""
    several = isinstance(component, gr.CheckboxGroup) or getattr(component, "multiselect", False)
    values = [number_or_text(text, component) for text in given]
    return values if several else values[-1]


def number_or_text(text: str, component: Any) -> Any:
    """A number from what sends numbers, where it is one."""
    if not isinstance(component, gr.Slider | gr.Number | gr.Radio | gr.CheckboxGroup) or len(text) > 20:
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def plain(value: Any) -> Any:
    """A checked value as it stands in a link: 0.9, not 0.90000."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    return f"{value:g}" if isinstance(value, float) else str(value)
