"""Made-up traces for the tests of the player: no model, no tokenizer, every value known in advance."""

from __future__ import annotations

import random

MASK, EOS = 999, 998
WORDS = " Mia found| a| small| green| box| under| the| table|.| She| opened| it| and| laugh|ed|.|\n| Tom| came| too".split(
    "|"
)


def vocab() -> dict[str, str]:
    texts = {str(i): word for i, word in enumerate(WORDS)}
    return texts | {str(MASK): "[MASK]", str(EOS): "<|endoftext|>"}


def trace(length: int = 24, steps: int = 8, *, given: int = 2, words: dict[int, str] | None = None, ms: float = 20.0,
          remask_at: int | None = None, seed: int = 0, **meta) -> dict:  # fmt: skip
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
    frames = [frame(0, steps, ids, [], [], confidence, entropy, {}, 0.0)]
    for step in range(1, steps + 1):
        remasked = []
        if step == remask_at:
            remasked = [p for p in range(given, length) if ids[p] != MASK][:2]
            for p in remasked:
                ids[p], confidence[p], entropy[p] = MASK, None, None
            order = remasked + order
        share = len(order) // (steps - step + 1)
        revealed = sorted(order[len(order) - share :])
        order = order[: len(order) - share]
        top_k = {}
        for p in revealed:
            ids[p] = final[p]
            confidence[p] = round(0.15 + 0.84 * ((p * 7919) % 100) / 100, 4)
            entropy[p] = round(2.5 * (1 - confidence[p]), 4)
            rest = 1 - confidence[p]
            top_k[str(p)] = [
                [final[p], confidence[p]],
                [0, rest / 2],
                [1, rest / 4],
                [2, rest / 8],
                [3, rest / 16],
            ]
        frames.append(frame(step, steps, ids, revealed, remasked, confidence, entropy, top_k, ms))
    about = {"model": "tales-diffuapriel", "architecture": "diffuapriel", "tokenizer": "gpt2-4k", "strategy": "confidence",
             "steps": steps, "temperature": 1.0, "seed": seed, "created": ""} | meta  # fmt: skip
    return {
        "schema": "diffuapriel-trace", "version": 1, "meta": about, "length": length, "mask_id": MASK, "eos_id": EOS,
        "fixed": [p < given for p in range(length)], "vocab": texts, "frames": frames,
    }  # fmt: skip


def frame(step, steps, ids, revealed, remasked, confidence, entropy, top_k, ms) -> dict:
    return {
        "step": step, "t": round(1 - step / steps, 6), "ids": list(ids), "revealed": list(revealed),
        "remasked": list(remasked), "confidence": list(confidence), "entropy": list(entropy), "top_k": top_k,
        "nfe": step, "ms": ms if step else 0.0, "denoiser_ms": ms * 0.9 if step else 0.0,
    }  # fmt: skip


def page_of(data: dict) -> str:
    """The exported page of a trace or a message, put together as `Trace.to_html` does."""
    import html
    import json

    from diffuapriel.player.gradio_host import read_source

    title = html.escape(str(data.get("meta", {}).get("model", "player")))
    text = read_source("page.html")
    for name, value in {
        "TITLE": title, "STYLE": read_source("player.css"), "SCRIPT": read_source("player.js"),
        "DATA": json.dumps(data).replace("<", "\\u003c"),
    }.items():  # fmt: skip
        text = text.replace(f"<!--{name}-->", value)
    return text
