"""Whether the data keeps up with the model: tokens per second of each kind of corpus, and what an H200 could read.

Measured on this machine, for both tokenizers, in windows of 1,024 tokens:

    per core    windows made in this process, per CPU second: other programs do not affect it
    workers     windows delivered by a data loader with several processes, per second: other programs slow it down

Computed, not measured: the tokens per second that training reads on an H200 at a model FLOP utilization of 40 %
(training/flops.py), and the cores that a preset needs to make its windows. A loader hands over one batch at a time,
which the workers' figure includes: if it is far below the figure per core, as for a token cache, larger batches help
and more workers do not.

    python -m tools.bench_data                     half a minute on two quiet cores
    python -m tools.bench_data --seconds 10 --workers 8
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from diffuapriel.benchmark.format import table
from diffuapriel.config import ARCHITECTURES, PRESETS, ModelConfig, preset
from diffuapriel.data.base import Corpus
from diffuapriel.data.build import build_tokens
from diffuapriel.data.documents import DocumentCorpus
from diffuapriel.data.registry import open_corpus
from diffuapriel.tokenizer import VOCABULARIES, get_tokenizer
from diffuapriel.training.flops import PEAKS, training_flops

LENGTH, ROWS = 1024, 16  # tokens per window, windows per batch
SHARE = 0.4  # of an H200's peak
WORKERS = 12  # what a training run takes on a machine with as many cores
SOURCES = ("tales", "stdlib", "JSON lines", "tokens")


@dataclass(frozen=True)
class SourceSpeed:
    """Tokens per second of one source: per CPU second of one core, and with all workers."""

    source: str
    tokenizer: str
    per_core: float
    by_workers: float


def measure_sources(seconds: float, workers: int, sources: Sequence[str] = SOURCES) -> list[SourceSpeed]:
    """Every source with every tokenizer, about `seconds` for each of its two figures.

    Raises ValueError for a number of seconds or workers that measures nothing.
    """
    if seconds <= 0 or workers < 1:
        raise ValueError(f"seconds is {seconds} and workers {workers}; they must be above 0 and 1 or more")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in VOCABULARIES:
            for source in sources:
                corpus = open_corpus(_spec(source, name, Path(folder)), get_tokenizer(name))
                speeds = per_core(corpus, seconds), by_workers(corpus, seconds, workers)
                results.append(SourceSpeed(source, name, *speeds))
    return results


def _spec(source: str, tokenizer: str, folder: Path) -> str:
    """The name of a corpus of that kind; those that are files are made from the standard library, in `folder`."""
    lines, tokens = folder / "stdlib.jsonl", folder / tokenizer
    if source in ("tales", "stdlib"):
        return source
    if not lines.exists():
        library = open_corpus("stdlib", get_tokenizer(tokenizer))
        assert isinstance(library, DocumentCorpus)
        texts = [text for part in library.splits.values() for text in part]
        lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    if source == "JSON lines":
        return str(lines)
    if not tokens.exists():
        build_tokens(str(lines), tokens, get_tokenizer(tokenizer))
    return f"tokens:{tokens}"


def per_core(corpus: Corpus, seconds: float) -> float:
    """Tokens per CPU second of windows made in this process, after one untimed batch."""
    _batch(corpus, 0)
    start, tokens = time.process_time(), 0
    for step in itertools.count(1):
        tokens += _batch(corpus, step).numel()
        if (passed := time.process_time() - start) >= seconds:
            return tokens / passed
    raise AssertionError("unreachable")


def by_workers(corpus: Corpus, seconds: float, workers: int) -> float:
    """Tokens per second of a data loader with that many processes, once all of them deliver."""
    batches = iter(DataLoader(_Endless(corpus), batch_size=None, num_workers=workers, prefetch_factor=4))
    for _ in range(4 * workers):  # batches made while workers still start are not counted
        next(batches)
    start, tokens = time.perf_counter(), 0
    for ids in batches:
        tokens += ids.numel()
        if (passed := time.perf_counter() - start) >= seconds:
            return tokens / passed
    raise AssertionError("unreachable")


class _Endless(IterableDataset[Tensor]):
    """The batches of every worker in turn."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        start, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return (_batch(self.corpus, number) for number in itertools.count(start, step))


def _batch(corpus: Corpus, step: int) -> Tensor:
    return corpus.batch(step, split="train", batch_size=ROWS, length=LENGTH, seed=0)


def needed(config: ModelConfig) -> float:
    """Tokens per second that training reads on an H200 at 40 % of its peak: computed."""
    return SHARE * PEAKS["H200"] / training_flops(config, LENGTH)


def format_speeds(speeds: Sequence[SourceSpeed], workers: int) -> str:
    """Both tables, and where data would be the bottleneck."""
    measured = [[s.source, s.tokenizer, _k(s.per_core), _k(s.by_workers)] for s in speeds]
    sources = list(dict.fromkeys(s.source for s in speeds))
    rows, short = [], []
    for name in PRESETS:
        configs = [preset(name, architecture) for architecture in ARCHITECTURES]
        most = max(map(needed, configs))
        speed = {s.source: s.per_core for s in speeds if s.tokenizer == configs[0].tokenizer}
        cores = {source: most / speed[source] for source in sources}
        rows.append([name, *(_k(needed(c)) for c in configs), *(f"{cores[source]:.1f}" for source in sources)])
        short += [f"{name} from {source} ({n:.0f} cores)" for source, n in cores.items() if n > WORKERS]
    return "\n".join(
        [
            f"Measured here, {os.cpu_count()} cores: thousands of tokens per second, windows of {LENGTH:,}",
            table(["corpus", "tokenizer", "per core", f"{workers} workers"], measured),
            "",
            f"Computed: thousands of tokens per second on an H200 at {SHARE:.0%} of its peak, and the "
            "cores of this machine's speed that the fastest of a preset needs",
            table(["preset", *ARCHITECTURES, *sources], rows),
            f"With {WORKERS} workers data would be the bottleneck of: {', '.join(short) or 'nothing'}",
        ]
    )


def _k(tokens: float) -> str:
    return f"{tokens / 1000:,.0f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Tokens per second of each kind of corpus.")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each figure (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="default: one per core")
    args = parser.parse_args(argv)
    print(format_speeds(measure_sources(args.seconds, args.workers), args.workers))


if __name__ == "__main__":
    main()
