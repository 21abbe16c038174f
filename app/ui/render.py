"""Escaped HTML around the player: notes, progress bars, tables of results."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.strings.language import texts
from app.strings.numbers import count, figure

if TYPE_CHECKING:
    from diffuapriel.benchmark.result import EntryResult, RaceResult


def note(text: str, *, bad: bool = False) -> str:
    """A status line; `bad` for an error."""
    kind = " da-bad" if bad else ""
    return f'<div class="da-note{kind}" role="status">{html.escape(text)}</div>'


def notes(lines: Sequence[str], *, bad: bool = False) -> str:
    """Several status lines; `bad` for errors."""
    kind = " da-bad" if bad else ""
    return f'<div class="da-note{kind}">{"".join(f"<div>{html.escape(line)}</div>" for line in lines)}</div>'


def progress(fraction: float, text: str) -> str:
    """A progress bar with a line below it; `fraction` is from 0 to 1."""
    label = html.escape(text)
    bar = f'<progress max="1" value="{fraction:.4f}" aria-label="{label}"></progress>'
    return f'<div class="da-note">{bar}{label}</div>'


def chart(figure: Any) -> Any:
    """The update that shows a figure, with its numbers as the page's language writes them."""
    import gradio as gr

    return gr.update(value=localized(figure), visible=True)


def localized(figure: Any) -> Any:
    """The figure, its numbers as the page's language writes them: those that Plotly writes, and labels of ticks."""
    if texts.DECIMAL == ",":
        figure.update_layout(separators=",.")
        for each in (figure.for_each_xaxis, figure.for_each_yaxis):
            each(lambda axis: axis.update(ticktext=axis.ticktext and [texts.figures(text) for text in axis.ticktext]))
    return figure


def lead(title: str, text: str) -> str:
    """The heading and the introduction of a section."""
    heading = f"<h2>{html.escape(title)}</h2>" if title else ""
    return f'<div class="da-lead">{heading}{html.escape(text)}</div>'


def results(result: RaceResult, sentence: str, hint: str = "") -> str:
    """The result of a race in a sentence, with a hint below it, its table, fastest first, and what makes it fair."""
    from diffuapriel.benchmark.memory import format_bytes
    from diffuapriel.benchmark.verdict import race_ranking

    rows = []
    for place, (entry, ratio) in enumerate(race_ranking(result)):
        times = texts.RACE_TOO_CLOSE if ratio is None else texts.RACE_TIME.format(ratio=ratio) if place else ""
        least, most = map(figure, entry.ms_ends)
        spread = texts.RACE_SPREAD.format(least=least, most=most) if result.repeats > 1 else texts.RACE_ONE_RUN
        cells = (
            f"{figure(entry.ms_per_step)}<small>{spread}</small>",
            texts.number(entry.tokens_per_second, ",.0f"),
            f"{entry.forward_passes}<small>{texts.PER_PASS.format(rate=entry.tokens_per_pass)}</small>",
            html.escape(texts.figures(format_bytes(entry.peak_memory_bytes))),
            count(entry.parameters),
        )
        best = ' class="da-best"' if place == 0 else ""
        below = "; ".join(filter(None, (times, cache_note(entry))))
        name = f'<th scope="row">{html.escape(entry.name)}<small>{html.escape(below)}</small></th>'
        rows.append(f"<tr>{name}<td{best}>{cells[0]}</td>{''.join(f'<td>{cell}</td>' for cell in cells[1:])}</tr>")
    more = f"<small>{html.escape(hint)}</small>" if hint else ""
    said = f'<p class="da-outcome" role="status">{html.escape(sentence)}{more}</p>'
    return said + table(texts.COLUMNS, rows) + fair(result.fairness(), "own rules" if result.own_rules else "race")


def cache_note(entry: EntryResult) -> str:
    """'context cache 271 kB' for an entry of a model of blocks; "" for one without a cache."""
    from diffuapriel.benchmark.memory import format_bytes

    return texts.ENTRY_CACHE.format(size=texts.figures(format_bytes(entry.cache_bytes))) if entry.block_length else ""


def table(columns: Sequence[str], rows: Sequence[str]) -> str:
    """A table of results. `rows` are complete <tr> elements, already escaped."""
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in columns)
    style = f"--columns: {len(columns) - 1}"
    return (
        f'<div class="da-scroll" tabindex="0"><table class="da-results" style="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def fair(lines: Sequence[str], kind: str) -> str:
    """The points that make a comparison fair, with their heading. `kind`: race, own rules or sweep.

    The package writes its sentences in English; a page in another language has its own for what always holds.
    """
    lines = texts.FAIRNESS.get(kind, lines)
    points = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<div class="da-fair"><h3>{html.escape(texts.WHAT_WAS_FAIR)}</h3><ul>{points}</ul></div>'
