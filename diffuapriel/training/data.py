"""Batches by update number: a pure function of (seed, step), so that a run can go on anywhere.

Each rank makes the rows of an update that are its own, and no others. Where the model runs on CUDA they are made
ahead by worker processes, in pinned memory, and copied while the model computes; on a CPU the model needs every core
and they are made in between.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from diffuapriel.data.base import Corpus
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.distributed import OneProcess

MOST_WORKERS = 12
PREFETCHED = 8  # batches a worker keeps ready


class _Batches(Dataset[Tensor]):
    """This rank's rows of every update, by its number."""

    def __init__(self, corpus: Corpus, config: TrainConfig, rows: range) -> None:
        self.corpus, self.config, self.rows = corpus, config, rows

    def __getitem__(self, step: int) -> Tensor:
        c = self.config
        return self.corpus.batch(
            step, split="train", batch_size=c.rows, length=c.length, seed=c.seed, rows=self.rows
        )


class _CountFrom(Sampler[int]):
    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)


def batches(
    corpus: Corpus, config: TrainConfig, ranks: OneProcess, *, start: int, workers: int | None = None
) -> Iterator[Tensor]:
    """Ids (batch_size x accumulate / ranks, length) int64 on the rank's device for update `start`, `start + 1`, ...

    workers: processes that make them; None takes most of this rank's share of the cores for CUDA, and none for a CPU.
    """
    cuda = ranks.device.type == "cuda"
    if workers is None:
        cores = ((os.cpu_count() or 1) - 2) // ranks.local_ranks
        workers = min(MOST_WORKERS, max(1, cores)) if cuda else 0
    loader = DataLoader(
        _Batches(corpus, config, ranks.share(config.rows)),
        batch_size=None,
        sampler=_CountFrom(start),
        num_workers=workers,
        prefetch_factor=PREFETCHED if workers else None,
        pin_memory=cuda,
        generator=torch.Generator(),  # the loader draws a number nobody uses: not from the caller's
        worker_init_fn=_quiet_worker if workers else None,
    )
    for ids in loader:
        yield ids.to(ranks.device, non_blocking=True)


def _quiet_worker(worker: int) -> None:
    """The loop stops its workers itself. Ctrl-C, and the SIGTERM that schedulers send to all of a job's processes, are
    not for them; one thread each is enough."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_the_loop, daemon=True).start()


def _obey_the_loop() -> None:
    """End this worker when its own parent sends SIGTERM, and on nobody else's."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
