"""A recorded run: save it as JSON or as a page that plays offline, and load it again.

    trace = Trace.record(sampler, denoiser, canvas, tokenizer, model="tales-diffuapriel")
    Path("story.json").write_text(trace.to_json(), encoding="utf-8")        # opens in the app and in a notebook
    Path("story.html").write_text(trace.to_html(), encoding="utf-8")        # opens in any browser
    write_gif(trace, "story.gif")                                           # see gif.py

The page contains the player's script and style sheet and the trace as data; token text can neither end its element nor
become markup. format.py describes the JSON.
"""

from __future__ import annotations

import dataclasses
import html
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.frames import StepFrame, frame_to_dict
from diffuapriel.tokenizer import VOCABULARIES, get_tokenizer
from diffuapriel.trace import format as trace_format
from diffuapriel.trace.characters import spread
from diffuapriel.trace.player import read_source

if TYPE_CHECKING:
    from diffuapriel.sampling.sampler import DenoiserFunction, Sampler
    from diffuapriel.tokenizer import Tokenizer


PAGE_WORDS = {
    "pageTitle": "How a diffusion language model writes",
    "pageLead": "Every token starts as a mask. Step by step the model reveals some of them, anywhere in the text.",
    "pageNoScript": "This page replays how the text appeared, step by step. It needs JavaScript; it loads nothing.",
}
_EMBEDDED = re.compile(r'<script id="trace" type="application/json">(.*?)</script>', re.DOTALL)


@dataclass(frozen=True)
class Trace:
    """Everything that the player needs to show a run.

    Attributes:
        frames: frame 0 is the start canvas, the last frame the result.
        fixed: per position, whether it was given.
        mask_id, eos_id: the special ids.
        vocab: display string of every id that appears in a frame.
        meta: model, architecture, tokenizer, created, and the options of the sampler (strategy, steps, ...).
    """

    frames: tuple[StepFrame, ...]
    fixed: tuple[bool, ...]
    mask_id: int
    eos_id: int
    vocab: dict[int, str]
    meta: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError("trace: there are no frames; a trace holds at least the start canvas")

    @classmethod
    def of(
        cls,
        frames: Iterable[StepFrame],
        canvas: Canvas,
        tokenizer: Tokenizer,
        config: SamplerConfig,
        *,
        model: str = "",
        architecture: str = "",
        schedule: str = "",
        created: str = "",
    ) -> Trace:
        """A trace of frames from `Sampler.stream`. `created` is an ISO time, or empty."""
        frames = tuple(frames)
        about = {"model": model, "architecture": architecture, "tokenizer": tokenizer.name}
        about |= dataclasses.asdict(config) | {"schedule": schedule, "created": created}
        vocab = display_strings(frames, tokenizer)
        return cls(frames, tuple(canvas.fixed.tolist()), canvas.mask_id, tokenizer.eos_id, vocab, about)

    @classmethod
    def record(
        cls, sampler: Sampler, denoiser: DenoiserFunction, canvas: Canvas, tokenizer: Tokenizer, **about: str
    ) -> Trace:
        """Run the sampler to its end. `about`: model, architecture, created, as in `of`."""
        frames = sampler.stream(denoiser, canvas)
        about.setdefault("schedule", sampler.schedule.name)
        return cls.of(frames, canvas, tokenizer, sampler.config, **about)

    @property
    def final(self) -> tuple[int, ...]:
        return self.frames[-1].ids

    @property
    def text(self) -> str:
        """The last frame as text; for an unknown tokenizer, its display strings joined."""
        name = self.meta.get("tokenizer")
        tokenizer = get_tokenizer(name) if name in VOCABULARIES else None
        if tokenizer and tokenizer.mask_id == self.mask_id:  # a foreign file may name the wrong tokenizer
            return tokenizer.decode(self.final)
        return "".join(spread([self.vocab[i] for i in self.final]))

    def to_dict(self) -> dict[str, Any]:
        """The trace as JSON values (format.py)."""
        return {
            "schema": trace_format.SCHEMA,
            "version": trace_format.VERSION,
            "meta": dict(self.meta),
            "length": len(self.fixed),
            "mask_id": self.mask_id,
            "eos_id": self.eos_id,
            "fixed": list(self.fixed),
            "vocab": {str(i): text for i, text in self.vocab.items()},
            "frames": [frame_to_dict(frame) for frame in self.frames],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes, *, max_bytes: int = trace_format.MAX_BYTES) -> Trace:
        """The inverse of `to_json`; reads older versions too.

        Raises ValueError for a file that is damaged, foreign or longer than `max_bytes`: a larger one may take minutes,
        so raise the limit only for a trace of your own.
        """
        data = trace_format.parse(text, max_bytes)
        return cls(
            frames=trace_format.frames_of(data),
            fixed=tuple(data["fixed"]),
            mask_id=data["mask_id"],
            eos_id=data["eos_id"],
            vocab={int(i): text for i, text in data["vocab"].items()},
            meta=data["meta"],
        )

    @classmethod
    def from_file(cls, data: str | bytes, *, max_bytes: int = trace_format.MAX_BYTES) -> Trace:
        """A trace saved as JSON or as a web page; errors as in `from_json`."""
        text = data.decode("utf-8", errors="replace") if isinstance(data, bytes) else data
        saved = _EMBEDDED.search(text)
        return cls.from_json(saved[1] if saved else data, max_bytes=max_bytes)

    def to_html(self, title: str = "", *, words: Mapping[str, Any] | None = None, language: str = "en") -> str:
        """A page that plays this trace when it is opened. It makes no requests and plays offline.

        `words`: translations, by their names in WORDS of player.js and in PAGE_WORDS; `language`: theirs.
        """
        script, style = read_source("player.js"), read_source("player.css")
        if "</script" in script.lower() or "<!--" in script or "</style" in style.lower():
            raise RuntimeError(
                "the player's own script or style sheet would end its element; fix diffuapriel/trace/player"
            )
        said = PAGE_WORDS | dict(words or {})
        about = [self.meta.get("model"), self.meta.get("architecture"), str(self.meta.get("created", ""))[:10]]
        source = " · ".join(dict.fromkeys(str(part) for part in [*about, "DiffuApriel"] if part))
        parts = {
            "LANGUAGE": html.escape(language),
            "TITLE": html.escape(title or said["pageTitle"]),
            "LEAD": html.escape(said["pageLead"]),
            "SOURCE": html.escape(source),
            "NO_SCRIPT": html.escape(said["pageNoScript"]),
            "WORDS": embeddable(json.dumps(words or {}, ensure_ascii=False)),
            "STYLE": style,
            "SCRIPT": script,
            "DATA": embeddable(self.to_json()),
        }
        # In one pass, so that the name of a placeholder inside the data remains text.
        return re.sub("<!--([A-Z_]+)-->", lambda hole: parts[hole[1]], read_source("page.html"))


def display_strings(frames: Iterable[StepFrame], tokenizer: Tokenizer) -> dict[int, str]:
    """{id: display string} of every id that appears in the frames, ascending."""
    ids: set[int] = set()
    for frame in frames:
        ids.update(frame.ids)
        ids.update(i for pairs in frame.top_k.values() for i, _ in pairs)
        ids.update(i for _, i in frame.draft)
    ordered = sorted(ids)
    return dict(zip(ordered, tokenizer.token_strings(ordered)))


def embeddable(text: str) -> str:
    """JSON text, safe inside a <script> element: without `<` nothing can end the element or open a comment."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
