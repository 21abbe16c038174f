"""A link that restores the settings of a tab: readable query parameters, checked on the server like any other value.

    http://127.0.0.1:7860/?tab=race&a=tales-diffuapriel&b=tales-diffutran&length=128&steps=32

A setting with several values is a parameter that occurs several times. Nothing is stored: the link itself holds
everything. A link with a value that is not permitted is refused as a whole, and the page says why; parameters of no
tab are ignored. Nothing runs before the reader presses Run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode

import gradio as gr
from gradio.context import Context

from app.server.guard import guarded, told
from app.server.limits import Refused, Settings, named, read, several, shown
from app.strings.language import texts
from app.ui import render
from app.ui.events import AT_ONCE

TAB = "tab"  # the parameter that says which tab a link is for
MOST_CHARACTERS = 4000  # per link: mail programs and servers cut longer ones
# The browser knows its own address better than a server behind a proxy does.
SHOW = """(query) => {
  const link = location.origin + location.pathname + query;
  history.replaceState(null, "", link);
  navigator.clipboard?.writeText(link).catch(() => {});
  return link;
}"""


def wire_link(tab: str, settings: Settings, components: Sequence[Any], status: Any) -> None:
    """Draw the link button inside the current tab, and restore the settings of a link when the page opens.

    components: those of the settings, in the same order. status: the gr.HTML that says what is wrong with a link.
    """
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
        return gr.update(value=query_of(tab, settings, values), visible=True)

    def restore(request: gr.Request) -> list[Any]:
        query = parse_qs(str(request.query_params), keep_blank_values=True)
        return restored(tab, settings, components, query)

    made = button.click(guarded(make), list(components), box, preprocess=False, **AT_ONCE)
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


def query_of(tab: str, settings: Settings, values: Sequence[Any]) -> str:
    """'?tab=...&...' for values as the page sent them. Raises Refused for a bad value and for too long a link."""
    checked = {name: component_value(value) for name, value in read(settings, values).items()}
    query = "?" + urlencode({TAB: tab} | {name: plain(value) for name, value in checked.items()}, doseq=True)
    if len(query) > MOST_CHARACTERS:
        raise Refused(texts.LINK_TOO_LONG.format(length=len(query), most=MOST_CHARACTERS))
    return query


def restored(tab: str, settings: Settings, components: Sequence[Any], query: Mapping[str, list[str]]) -> list[Any]:
    """An update for each component, then for the status line and the tabs; none for the link of another tab."""
    updates: list[Any] = [gr.skip()] * (len(settings) + 2)
    if query.get(TAB) != [tab]:
        return updates
    problems = []
    for number, (name, setting) in enumerate(settings.items()):
        if name not in query:
            continue
        try:
            value = component_value(setting.check(value_of(query[name], components[number])))
            updates[number] = gr.update(value=offered(name, value, components[number]))
        except ValueError as error:
            problems.append(texts.LINK_BAD.format(why=told(error)))
    if problems:  # half a link would look like the whole one
        updates = [gr.skip()] * len(settings) + [render.notes([*problems, texts.LINK_REFUSED], bad=True), updates[-1]]
    updates[-1] = gr.update(selected=tab)
    return updates


def value_of(given: list[str], component: Any) -> Any:
    """A parameter as the value that its component would send: a list, or the last value."""
    is_list = isinstance(component, gr.CheckboxGroup) or getattr(component, "multiselect", False)
    values = [number_or_text(text, component) for text in given]
    return values if is_list else values[-1]


def component_value(checked: Any) -> Any:
    """A checked value as a component holds it: a model by its label."""
    if isinstance(checked, list):
        return [component_value(one) for one in checked]
    return checked if isinstance(checked, int | float | str) else str(checked or "")


def offered(name: str, value: Any, component: Any) -> Any:
    """The value, without repetitions. Raises Refused for what a component with a list of choices does not offer."""
    choices = getattr(component, "choices", None)
    if choices is None:
        return value
    permitted = [choice for _, choice in choices]
    for one in value if isinstance(value, list) else [value]:
        if one not in permitted:
            values = ", ".join(map(str, permitted))
            raise Refused(texts.NOT_PERMITTED.format(name=named(name), value=shown(one), permitted=values))
    if not isinstance(value, list):
        return value
    return list(dict.fromkeys(several(name, value, len(permitted), lambda one: one)))


def number_or_text(text: str, component: Any) -> Any:
    """A number, where the text is one and the component sends numbers."""
    if not isinstance(component, gr.Slider | gr.Number | gr.Radio | gr.CheckboxGroup) or len(text) > 20:
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def plain(value: Any) -> Any:
    """A component's value as a link shows it: 0.9, not 0.90000."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    return f"{value:g}" if isinstance(value, float) else str(value)
