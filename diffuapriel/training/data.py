"""Batches by step number: a pure function of (seed, step), so that a run can continue anywhere.

Each rank makes only its own rows of a step. For CUDA, worker processes make them ahead, in pinned memory, and they are
copied while the model computes; on a CPU the model needs every core, so they are made between steps.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffuapriel.data.base import Corpus
from diffuapriel.data.mixed import MixedCorpus
from diffuapriel.data.registry import open_corpus
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.distributed import SingleProcess

MAX_WORKERS = 12
PREFETCHED = 8  # batches per worker


def training_corpus(config: TrainConfig) -> Corpus:
    """The corpus of a run. Raises what `open_corpus` raises, and ValueError if a mix needs the number of steps."""
    corpus = open_corpus(config.corpus, get_tokenizer(config.model_config.tokenizer))
    return corpus.for_steps(config.planned_steps) if isinstance(corpus, MixedCorpus) else corpus


class _Batches(Dataset[Tensor]):
    """This rank's rows of every step, by step number."""

    def __init__(self, corpus: Corpus, config: TrainConfig, rows: range) -> None:
        self.corpus, self.config, self.rows = corpus, config, rows

    def __getitem__(self, step: int) -> Tensor:
        c = self.config
        return self.corpus.batch(
            step, split="train", batch_size=c.global_batch_size, length=c.length, seed=c.seed, rows=self.rows
        )


def batches(
    corpus: Corpus, config: TrainConfig, processes: SingleProcess, *, start: int, workers: int | None = None
) -> Iterator[Tensor]:
    """Ids (global_batch_size / world_size, length) int64 on the rank's device for step `start`, `start + 1`, ...

    workers: processes that make them; by default most of this rank's share of the cores for CUDA, none for a CPU.
    """
    cuda = processes.device.type == "cuda"
    if workers is None:
        cores = ((os.cpu_count() or 1) - 2) // processes.local_world_size
        workers = min(MAX_WORKERS, max(1, cores)) if cuda else 0
    loader = DataLoader(
        _Batches(corpus, config, processes.local_slice(config.global_batch_size)),
        batch_size=None,
        sampler=itertools.count(start),
        num_workers=workers,
        prefetch_factor=PREFETCHED if workers else None,
        pin_memory=cuda,
        generator=torch.Generator(),  # the loader draws an unused number: not from the caller's generator
        worker_init_fn=_quiet_worker if workers else None,
    )
    for ids in loader:
        yield ids.to(processes.device, non_blocking=True)


def _quiet_worker(worker: int) -> None:
    """The loop ends its workers, so they ignore Ctrl-C and the SIGTERM that schedulers send to all processes of a job.
    One thread each is enough."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit on a SIGTERM from the parent process only."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
