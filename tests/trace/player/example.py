"""Made-up traces for the tests of the player: no model, no tokenizer, every value known in advance."""

from __future__ import annotations

import html
import json
import random
from typing import Any

from diffuapriel.trace.player import read_source
from diffuapriel.trace.trace import PAGE_WORDS

MASK, EOS = 999, 998
STORY = " Mia_ found_ a_ small_ green_ box_ under_ the_ table_._ She_ opened_ it_ and_ laugh_ed_._\n_ Tom_ came_ too"
WORDS = STORY.split("_")


def vocab() -> dict[str, str]:
    texts = {str(i): word for i, word in enumerate(WORDS)}
    return texts | {str(MASK): "[MASK]", str(EOS): "<|endoftext|>"}


def trace(
    length: int = 24,
    steps: int = 8,
    *,
    given: int = 2,
    words: dict[int, str] | None = None,
    ms: float = 20.0,
    remask_at: int | None = None,
    seed: int = 0,
    **meta: Any,
) -> dict:
    """A trace in which `length - given` masks are revealed over `steps` steps; `words` puts texts at positions."""
    rng = random.Random(seed)
    texts = vocab()
    final = [p % len(WORDS) for p in range(length)]
    final[-2:] = [EOS, EOS]
    for n, (position, word) in enumerate((words or {}).items()):
        texts[str(500 + n)] = word
        final[position] = 500 + n
    order = list(range(given, length))
    rng.shuffle(order)
    ids = [final[p] if p < given else MASK for p in range(length)]
    confidence: list[float | None] = [None] * length
    entropy: list[float | None] = [None] * length
    frames = [_frame(0, steps, ids, [], [], confidence, entropy, {}, 0.0)]
    for step in range(1, steps + 1):
        remasked = []
        if step == remask_at:
            remasked = [p for p in range(given, length) if ids[p] != MASK][:2]
            order = remasked + order
        for p in remasked:
            ids[p], confidence[p], entropy[p] = MASK, None, None
        share = len(order) // (steps - step + 1)
        order, revealed = order[: len(order) - share], sorted(order[len(order) - share :])
        top_k = {}
        for p in revealed:
            chosen = round(0.15 + 0.84 * ((p * 7919) % 100) / 100, 4)
            ids[p], confidence[p], entropy[p] = final[p], chosen, round(2.5 * (1 - chosen), 4)
            others = [[i, (1 - chosen) / 2 ** (i + 1)] for i in range(4)]
            top_k[str(p)] = [[final[p], chosen], *others]
        frames.append(_frame(step, steps, ids, revealed, remasked, confidence, entropy, top_k, ms))
    about = {
        "model": "tales-diffuapriel",
        "architecture": "diffuapriel",
        "tokenizer": "gpt2-4k",
        "strategy": "low_confidence",
        "steps": steps,
        "temperature": 1.0,
        "seed": seed,
        "created": "",
    }
    return {
        "schema": "diffuapriel-trace",
        "version": 3,
        "meta": about | meta,
        "length": length,
        "mask_id": MASK,
        "eos_id": EOS,
        "fixed": [p < given for p in range(length)],
        "vocab": texts,
        "frames": frames,
    }


def _frame(step, steps, ids, revealed, remasked, confidence, entropy, top_k, ms) -> dict:
    return {
        "step": step,
        "t": round(1 - step / steps, 6),
        "ids": list(ids),
        "revealed": list(revealed),
        "remasked": list(remasked),
        "confidence": list(confidence),
        "entropy": list(entropy),
        "top_k": top_k,
        "nfe": step,
        "ms": ms if step else 0.0,
        "denoiser_ms": 0.9 * ms if step else 0.0,
    }


def page_of(data: dict, title: str = "a trace") -> str:
    """The exported page of a trace, put together as `Trace.to_html` does, but of any data."""
    about = [str(data["meta"].get(name, "")) for name in ("model", "architecture", "created")]
    source = " · ".join(part for part in dict.fromkeys([*about[:2], about[2][:10], "DiffuApriel"]) if part)
    parts = {
        "TITLE": html.escape(title),
        "STYLE": read_source("player.css"),
        "SCRIPT": read_source("player.js"),
        "LANGUAGE": "en",
        "LEAD": html.escape(PAGE_WORDS["pageLead"]),
        "SOURCE": html.escape(source),
        "NO_SCRIPT": html.escape(PAGE_WORDS["pageNoScript"]),
        "WORDS": "{}",
        "DATA": json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    page = read_source("page.html")
    for name, text in parts.items():
        page = page.replace(f"<!--{name}-->", text)
    return page
