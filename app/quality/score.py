"""The score of a text: how a typed text becomes the tokens that are scored, and how the page shows a `TextScore`."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.server import limits as check
from app.server.limits import Limits, Refused, Settings, read, setting, text_setting
from app.server.models import ModelEntry, Models
from app.strings.language import texts
from app.ui import render
from app.ui.tale_check import judge
from app.ui.token_rows import LEVELS, TokenRow, rows_message
from diffuapriel.charts.palette import ARCHITECTURES, INK, OTHERS
from diffuapriel.charts.plotly import GRID, error_bars, layout, places, token_axis, token_labels
from diffuapriel.options import Option
from diffuapriel.tokenizer import Tokenizer
from diffuapriel.trace.characters import spread

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from diffuapriel.evaluation.surprisal import TextScore

MAX_LENGTH = 256  # tokens: a score is 64 forward passes
MAX_ROUNDS = 32
Z = 1.96


@dataclass(frozen=True)
class ScoreRequest:
    """A text that can be scored by a model. The last `filling` of its ids only fill the model's window."""

    ids: list[int]
    filling: int
    byte_count: int
    exact: float | None  # -log p of a story of the grammar in nats; None for another text
    model_entry: ModelEntry
    rounds: int = 1

    @property
    def tokens(self) -> list[int]:
        """The ids without the filling."""
        return self.ids[: len(self.ids) - self.filling]

    @property
    def level(self) -> int | None:
        """Of the grammar that the model writes."""
        return self.model_entry.tales_level


def score_settings(models: Models, limits: Limits) -> Settings:
    """What a visitor sets for a score, in the order of the endpoint."""
    return {
        "text": text_setting(limits.max_characters),
        "model": models.setting(models.trained),
        "rounds": setting(Option("rounds", int, 4, least=1, most=MAX_ROUNDS)),
    }


def read_score(models: Models, limits: Limits, *values: Any) -> ScoreRequest:
    """The checked values of `score_settings`. Raises Refused, which names the first invalid one."""
    asked = read(score_settings(models, limits), values)
    model_entry = asked["model"]
    return score_request(asked["text"], model_entry, models.tokenizer(model_entry), limits, asked["rounds"])


def score_request(
    text: Any, model_entry: ModelEntry, tokenizer: Tokenizer, limits: Limits, rounds: int = 1
) -> ScoreRequest:
    """Check the text and make it what its model was trained on: a model of tales reads stories in windows."""
    from diffuapriel.data.tales import fill_window
    from diffuapriel.tales import language as tales

    typed = check.text("the text", text, limits.max_characters).strip()
    ids = tokenizer.encode(typed)
    level, filling, exact = model_entry.tales_level, 0, None
    most = min(MAX_LENGTH, limits.max_tokens)
    if level is not None:
        story = fill_window(ids, 0, tokenizer.eos_id)
        ids = fill_window(story, min(model_entry.window, most), tokenizer.eos_id)
        filling = len(ids) - len(story)
        log_prob = tales.log_prob(typed, level) if typed else -math.inf
        exact = -log_prob if log_prob > -math.inf else None
    if not typed or len(ids) > most:
        raise Refused(texts.SURPRISAL_LENGTH.format(tokens=len(ids) if typed else 0, most=most))
    return ScoreRequest(ids, filling, len(typed.encode()), exact, model_entry, rounds)


def rows_of(score: TextScore, asked: ScoreRequest, tokenizer: Tokenizer) -> str:
    """The text colored by exp(-surprisal), the probability of each token as a geometric mean over the masks."""
    tokens = spread(tokenizer.token_strings(asked.tokens))
    levels, titles = [], []
    for token, surprisal, guesses in zip(tokens, score.surprisal, score.alternatives):
        if surprisal is None:
            levels.append(-1)
            titles.append(texts.SURPRISAL_UNKNOWN.format(token=token))
            continue
        levels.append(min(LEVELS - 1, int(LEVELS * math.exp(-surprisal))))
        words = [f"{tokenizer.token_strings([i])[0].strip()} {p:.0%}" for i, p in (guesses or ())[:3]]
        titles.append(texts.SURPRISAL_TITLE.format(token=token, nats=surprisal, guesses=", ".join(words)))
    row = TokenRow(asked.model_entry.label, texts.SURPRISAL_NOTE, levels, titles)
    words = {"hint": texts.SURPRISAL_HINT, "scale": texts.SURPRISAL_SCALE}
    return rows_message([row], tokens, [False] * len(tokens), **words)


def figures(score: TextScore, asked: ScoreRequest, tokenizer: Tokenizer) -> str:
    """The numbers of the whole text as a table, and under it the grammar's own verdict; everything escaped."""
    count = len(asked.tokens)
    low, high = score.ci95
    mean, bits = score.bits_per_byte(asked.byte_count), count / math.log(2) / asked.byte_count
    estimates = [
        (texts.FIGURE_NELBO, ".3f", (score.nats_per_token, low, high)),
        (texts.FIGURE_BITS, ".3f", (mean, low * bits, high * bits)),
        (texts.FIGURE_NATS, ".1f", (score.nats, low * count, high * count)),
    ]
    rows = []
    for name, spec, values in estimates:
        value, *ends = (texts.number(one, spec) for one in values)
        interval = texts.FIGURE_RANGE.format(low=ends[0], high=ends[1])
        rows.append((name, value, texts.FIGURE_AUTOREGRESSIVE if score.block_length == 1 else interval))
    if asked.exact is not None:
        rows.append((texts.FIGURE_EXACT, texts.number(asked.exact, ".1f"), texts.FIGURE_EXACT_NOTE))
        gap = score.nats - asked.exact
        rows.append((texts.FIGURE_GAP, texts.number(gap / count, "+.3f"), texts.FIGURE_GAP_NOTE.format(nats=gap)))
    body = [
        f'<tr><th scope="row">{html.escape(name)}</th><td>{value}</td><td>{html.escape(note)}</td></tr>'
        for name, value, note in rows
    ]
    verdict = "" if asked.level is None else judge(asked.tokens, tokenizer, asked.level, [True] * count).html
    return render.table(texts.FIGURE_COLUMNS, body) + verdict


def numbers_of(score: TextScore, asked: ScoreRequest, tokenizer: Tokenizer) -> dict[str, Any]:
    """The score as plain values, for callers of the API."""
    return {
        "nats_per_token": score.nats_per_token,
        "ci95": list(score.ci95),
        "bits_per_byte": score.bits_per_byte(asked.byte_count),
        "nats": score.nats,
        "exact_nats": asked.exact,
        "num_mc_samples": score.num_mc_samples,
        "block_length": score.block_length,
        "tokens": spread(tokenizer.token_strings(asked.tokens)),
        "surprisal": score.surprisal,
        "standard_error": score.standard_error,
    }


def surprisal_chart(score: TextScore, tokens: Sequence[str], architecture: str = "") -> Figure:
    """One bar per token: its surprisal in nats, with the interval of the draws so far."""
    import plotly.graph_objects as go

    figure = go.Figure(layout={**layout(320), "showlegend": False, "bargap": 0.15})
    half = [Z * (error or 0.0) for error in score.standard_error]
    below = [min(value or 0.0, bar) for value, bar in zip(score.surprisal, half)]  # never below 0 nats
    figure.add_bar(
        x=places(tokens),
        y=score.surprisal,
        marker={"color": ARCHITECTURES.get(architecture, OTHERS[0]).color},
        error_y=error_bars(below, half, color=INK, width=2),
        customdata=token_labels(tokens),
        hovertemplate=texts.SURPRISAL_HOVER,
    )
    figure.update_xaxes(title={"text": texts.INFLUENCE_X}, **GRID, **token_axis(tokens))
    return figure.update_yaxes(title={"text": texts.SURPRISAL_Y}, rangemode="tozero", **GRID)
