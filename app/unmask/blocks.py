"""What a model of blocks keeps of the text, drawn as a strip: finished blocks, the one being written, those to come."""

from __future__ import annotations

from html import escape

from app.server.models import ModelEntry
from app.strings.language import texts
from diffuapriel.sampling.config import SPECULATIVE, SamplerConfig
from diffuapriel.trace.steering import SteeredGeneration

MOST_DRAWN = 64  # blocks of a strip; of more, every so many are one


def settled_blocks(config: SamplerConfig) -> int | None:
    """The length of the blocks that are finished one after the other; None: there is but one, the canvas."""
    return 1 if config.strategy == SPECULATIVE else config.block_length


def cache_strip(run: SteeredGeneration, model: ModelEntry | None, cache_bytes: int | None = None) -> str:
    """The strip of a run and the size of its cache, where known, as HTML; nothing for a run without a cache."""
    size = settled_blocks(run.config)
    if model is None or not model.block_lengths or size is None:
        return ""
    masked, total = run.state.masked[0], -(-len(run.canvas) // size)
    done = int(masked.argmax()) // size if masked.any() else total
    said = texts.CACHE_BLOCKS.format(done=done, blocks=total)
    if cache_bytes is not None:
        said = texts.CACHE.format(done=done, blocks=total, kilobytes=cache_bytes / 1000)
    step = -(-total // MOST_DRAWN)
    ends = [min(b + step, total) for b in range(0, total, step)]
    kinds = ["done" if end <= done else "now" if end - step <= done else "later" for end in ends]
    drawn = "".join(f'<i class="da-block-{kind}"></i>' for kind in kinds)
    strip = f'<span aria-hidden="true">{drawn}</span>{escape(said)}'
    return f'<div class="da-cache" title="{escape(texts.CACHE_INFO)}">{strip}</div>'
