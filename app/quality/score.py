"""Score a text: what the page shows of a `TextScore`, and how a typed text becomes the tokens that are scored."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.server import limits as check
from app.server.limits import Limits, Refused, Settings, setting, text_setting
from app.server.models import ModelEntry, Models
from app.strings.language import texts
from app.ui.tale_check import verdict_html
from diffuapriel.options import Option
from diffuapriel.tokenizer import Tokenizer

if TYPE_CHECKING:
    from diffuapriel.evaluation.surprisal import TextScore

MAX_LENGTH = 256  # tokens: a score is 64 forward passes
MAX_ROUNDS = 32


def score_settings(models: Models, limits: Limits) -> Settings:
    """What a visitor sets for a score, in the order of the endpoint."""
    return {
        "text": text_setting(limits.max_characters),
        "model": models.setting(models.trained),
        "rounds": setting(Option("rounds", int, 4, least=1, most=MAX_ROUNDS)),
    }


@dataclass(frozen=True)
class Typed:
    """A text that can be scored: its ids, and how many of the last ones only fill a window."""

    ids: list[int]
    filling: int
    byte_count: int
    exact: float | None  # nats, of a story of the grammar; minus log of 0 is None
    level: int | None  # of the grammar that the model writes

    @property
    def tokens(self) -> list[int]:
        """The ids without the filling."""
        return self.ids[: len(self.ids) - self.filling]


def read_typed(text: Any, model_entry: ModelEntry, tokenizer: Tokenizer, limits: Limits) -> Typed:
    """Check the text and make it what its model was trained on: a model of tales reads stories in windows."""
    from diffuapriel.tales import language as tales

    typed = check.text("the text", text, limits.max_characters).strip()
    ids = tokenizer.encode(typed)
    level, filling, exact = model_entry.tales_level, 0, None
    if level is not None:
        ids.append(tokenizer.eos_id)
        log_prob = tales.log_prob(typed, level) if typed else -math.inf
        exact = -log_prob if log_prob > -math.inf else None
    most = min(MAX_LENGTH, limits.max_tokens)
    if not typed or len(ids) > most:
        tokens = f"{len(ids) if typed else 0:,}"
        raise Refused(texts.SURPRISAL_LENGTH.format(tokens=tokens, most=f"{most:,}"))
    if level is not None:
        filling = max(0, min(model_entry.window, most) - len(ids))
    return Typed(ids + filling * [tokenizer.eos_id], filling, len(typed.encode()), exact, level)


def player_message(score: TextScore, typed: Typed, tokenizer: Tokenizer, model_entry: ModelEntry) -> str:
    """The text on the player: from all masked to all there, colored by exp(-surprisal)."""
    from diffuapriel.sampling.frames import StepFrame
    from diffuapriel.trace.messages import to_text
    from diffuapriel.trace.trace import Trace, display_strings

    ids, length = tuple(typed.tokens), len(typed.tokens)
    nothing: dict[str, Any] = {"remasked": (), "ms": 0.0, "nfe": 0}
    start = StepFrame(
        step=0,
        t=1.0,
        ids=(tokenizer.mask_id,) * length,
        revealed=(),
        confidence=(None,) * length,
        entropy=(None,) * length,
        top_k={},
        **nothing,
    )
    end = StepFrame(
        step=1,
        t=0.0,
        ids=ids,
        revealed=(),  # nothing is new at this step: no token is to stand out but by its color
        confidence=tuple(None if s is None else math.exp(-s) for s in score.surprisal),
        entropy=tuple(score.entropy),
        top_k={p: tuple(rows) for p, rows in enumerate(score.alternatives) if rows},
        **nothing,
    )
    meta = {
        "model": texts.SURPRISAL_PLAYER.format(model=model_entry.label),
        "architecture": model_entry.architecture,
    }
    frames = (start, end)
    vocab = display_strings(frames, tokenizer)
    trace = Trace(frames, (False,) * length, tokenizer.mask_id, tokenizer.eos_id, vocab, meta)
    return to_text(trace.to_dict())


def figures(score: TextScore, typed: Typed, tokenizer: Tokenizer) -> str:
    """The numbers of the whole text as a table, and under it the grammar's own verdict; everything escaped."""
    count = len(typed.tokens)
    low, high = score.ci95
    bits = count / math.log(2) / typed.byte_count
    rows = [
        (texts.FIGURE_NELBO, f"{score.nats_per_token:.3f}", f"{low:.3f} to {high:.3f}"),
        (
            texts.FIGURE_BITS,
            f"{score.bits_per_byte(typed.byte_count):.3f}",
            f"{low * bits:.3f} to {high * bits:.3f}",
        ),
        (texts.FIGURE_NATS, f"{score.nats:.1f}", f"{low * count:.1f} to {high * count:.1f}"),
    ]
    if typed.exact is not None:
        rows.append((texts.FIGURE_EXACT, f"{typed.exact:.1f}", texts.FIGURE_EXACT_NOTE))
        gap = score.nats - typed.exact
        rows.append((texts.FIGURE_GAP, f"{gap / count:+.3f}", texts.FIGURE_GAP_NOTE.format(nats=gap)))
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{value}</td><td>{html.escape(note)}</td></tr>'
        for name, value, note in rows
    )
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in texts.FIGURE_COLUMNS)
    verdict = ""
    if typed.level is not None:
        verdict = verdict_html(typed.tokens, tokenizer, typed.level)
    return (
        f'<div class="da-scroll" tabindex="0"><table class="da-results"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{verdict}"
    )


def numbers_of(score: TextScore, typed: Typed, tokenizer: Tokenizer) -> dict[str, Any]:
    """The score as plain values, for callers of the API."""
    return {
        "nats_per_token": score.nats_per_token,
        "ci95": list(score.ci95),
        "bits_per_byte": score.bits_per_byte(typed.byte_count),
        "nats": score.nats,
        "exact_nats": typed.exact,
        "num_mc_samples": score.num_mc_samples,
        "tokens": tokenizer.token_strings(typed.tokens),
        "surprisal": score.surprisal,
        "standard_error": score.standard_error,
    }
