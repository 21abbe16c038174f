"""Writes a long text with a model of blocks and says whether the process grew: `python -m tools.write_endless FOLDER`.

The memory of the process is read after the first 5,000 tokens and at the end. The variety of what was written is
measured in windows of 5,000 tokens, so that a model that begins to repeat itself is seen: the entropy of single tokens
in nats, and the share of different 1-, 2- and 3-grams. True text of the same corpus is measured in the same way.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from array import array
from collections.abc import Sequence
from pathlib import Path

from diffuapriel.checkpoint import inspect_checkpoint, load_checkpoint
from diffuapriel.data.registry import open_corpus
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.evaluation.samples import distinct_n, unigram_entropy
from diffuapriel.sampling.config import SamplerConfig, resolve_blocks
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.writer import write_blocks

FIRST = 5_000  # tokens before memory is read for the first time, and those of a window


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a bundled name, or a folder")
    parser.add_argument("--tokens", type=int, default=100_000, help="default: 100,000")
    parser.add_argument("--block-length", type=int, help="one that the model was trained for")
    parser.add_argument("--strategy", default="threshold")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--window", type=int, help="tokens that attention reads; default: as in training")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    info = inspect_checkpoint(args.checkpoint)
    model, tokenizer = load_checkpoint(args.checkpoint)
    try:
        S = resolve_blocks(args.strategy, args.block_length, known=info.config.block_lengths)["block_length"]
    except ValueError as error:
        parser.error(str(error))
    if not info.config.block_lengths or S is None:
        parser.error(f"{args.checkpoint} knows block lengths {list(info.config.block_lengths)}; one above 0 is needed")
    config = SamplerConfig(args.strategy, steps=S, block_length=S, temperature=args.temperature, seed=args.seed)
    sampler = Sampler(config, get_schedule("log-linear"), tokenizer.mask_id)
    ids, calls, sizes, early, began = array("L"), 0, set[int](), 0, time.perf_counter()
    for block in write_blocks(model, sampler, S, window=args.window or info.length or None):
        ids.extend(block.ids)
        calls += block.calls
        if not early and len(ids) >= min(FIRST, args.tokens // 2):
            early, sizes = resident_bytes(), set()
        sizes.add(block.cache_bytes)
        if len(ids) >= args.tokens:
            break
    seconds, late = time.perf_counter() - began, resident_bytes()
    corpus = open_corpus(info.corpus or "tales", tokenizer)
    rows = corpus.batch(0, split="validation", batch_size=-(-len(ids) // info.length), length=info.length, seed=0)
    true = [i for row in rows.tolist() for i, after in zip(row, [*row[1:], 0]) if i != tokenizer.eos_id or after != i]
    print(
        json.dumps(
            {
                "tokens": len(ids),
                "block_length": S,
                "tokens_per_pass": len(ids) / calls,
                "tokens_per_second": len(ids) / seconds,
                "rss_bytes_early": early,
                "rss_bytes": late,
                "growth": late / early - 1,
                "cache_bytes": sorted(sizes),
                "written": variety(ids),
                "true": variety(true[: len(ids)]),
            },
            indent=2,
        )
    )
    return 0


def variety(ids: Sequence[int]) -> dict[str, list[float]]:
    """Entropy in nats and distinct-1, -2 and -3 of every window of FIRST tokens, the rest left out."""
    size = min(FIRST, len(ids))
    windows = [list(ids[start : start + size]) for start in range(0, len(ids) - size + 1, size)]
    found = {"entropy": [round(unigram_entropy(window), 3) for window in windows]}
    return found | {f"distinct-{n}": [round(distinct_n([window], n), 4) for window in windows] for n in (1, 2, 3)}


def resident_bytes() -> int:
    """Memory of this process now; where Linux's /proc is missing, the most so far."""
    if (file := Path("/proc/self/statm")).exists():
        return int(file.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
