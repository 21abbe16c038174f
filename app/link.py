"""A link that restores the settings of a tab: readable query parameters, checked on the server like any other value.

    http://127.0.0.1:7860/?tab=race&a=tales-diffuapriel&b=tales-diffutran&length=128&steps=32

Nothing is stored: all that a link says stands in it. A parameter that cannot be is left out, and the page says which
and why; parameters of no tab are left alone. Nothing runs before the reader presses Run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import gradio as gr
from gradio.context import Context

from app import limits as check
from app import render, texts
from app.guard import guarded
from app.limits import Limits, Refused
from app.models import Models

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
        return restored(tab, fields, dict(request.query_params))

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
    query = "?" + urlencode({TAB: tab} | {name: plain(value) for name, value in checked.items()})
    if len(query) > MOST_CHARACTERS:
        raise Refused(
            f"the link would have {len(query):,} characters; it may have up to {MOST_CHARACTERS:,}. "
            "Shorten the text, or save the trace instead"
        )
    return query


def restored(tab: str, fields: Sequence[Field], query: Mapping[str, str]) -> list[Any]:
    """An update for each field's component, then for the status line and for the tabs; of another tab's link, none."""
    nothing: list[Any] = [gr.skip()] * (len(fields) + 2)
    if query.get(TAB) != tab:
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


def value_of(text: str, component: Any) -> Any:
    """A parameter as the value that its component would send: numbers from numeric ones. The check decides."""
    if not isinstance(component, gr.Slider | gr.Number | gr.Radio):
        return text
    try:
        return int(text) if len(text) < 20 else text
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def plain(value: Any) -> str:
    """A checked value as it stands in a link: 0.9, not 0.90000."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def unmask_fields(models: Models, limits: Limits, components: Sequence[Any]) -> list[Field]:
    """The settings of the Unmask tab, in the order of its endpoint: text, model, length, steps, ..."""
    from app.request import MAX_TEMPERATURE, MAX_TOP_K, MIN_TOP_P
    from diffuapriel.sampling.options import STRATEGIES

    checks: dict[str, Callable[[Any], Any]] = {
        "text": lambda v: check.text("the text", v, limits.max_characters),
        "model": lambda v: models.entry(v, models.trained).label,
        "length": lambda v: check.whole_number("length", v, 0, limits.max_tokens),
        "steps": lambda v: check.whole_number("steps", v, 1, limits.max_steps),
        "strategy": lambda v: check.choice("strategy", v, STRATEGIES),
        "temperature": lambda v: check.number("temperature", v, 0.0, MAX_TEMPERATURE),
        "top_k": lambda v: check.whole_number("top-k", v, 0, MAX_TOP_K),
        "top_p": lambda v: check.number("top-p", v, MIN_TOP_P, 1.0),
        "seed": lambda v: check.whole_number("seed", v, 0, check.MAX_SEED),
    }
    return [Field(name, part, one) for (name, one), part in zip(checks.items(), components, strict=True)]


def race_fields(models: Models, limits: Limits, components: Sequence[Any]) -> list[Field]:
    """The settings of the Race tab: the lanes, length, steps, strategy, timed runs, seed, and the longest length."""
    from app.race_request import NO_LANE
    from app.race_sweep import LENGTHS
    from diffuapriel.sampling.options import STRATEGIES

    def longest(value: Any) -> int:
        number = check.whole_number("longest length", value, 1, limits.max_sweep_length)
        if number not in LENGTHS:
            raise Refused(f"longest length is {number}; permitted: {', '.join(map(str, LENGTHS))}")
        return number

    checks: dict[str, Callable[[Any], Any]] = {
        "a": lambda v: models.entry(v).label,
        "b": lambda v: models.entry(v).label,
        "c": lambda v: v if v == NO_LANE else models.entry(v).label,
        "length": lambda v: check.whole_number("length", v, 1, limits.race_tokens(models.device)),
        "steps": lambda v: check.whole_number("steps", v, 1, limits.max_steps),
        "strategy": lambda v: check.choice("strategy", v, STRATEGIES),
        "repeats": lambda v: check.whole_number("timed runs", v, 1, limits.max_repeats),
        "seed": lambda v: check.whole_number("seed", v, 0, check.MAX_SEED),
        "longest": longest,
    }
    return [Field(name, part, one) for (name, one), part in zip(checks.items(), components, strict=True)]
