"""Training runs in processes of their own, forked from one that has imported everything: a start costs no import.

A script, not a test: reads one JSON order a line, answers with one JSON line.

    {"start": OPTIONS, "ranks": N}    forks N processes that train; OPTIONS is the repr of a TrainConfig's fields;
                                      "replayed": true lets them average their gradients as recorded updates do
                                      -> {"pids": [...]}
    {"wait": PIDS}                    -> {"codes": [...]}, negative for a signal
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback

import lightning_fabric  # noqa: F401
import torch
import torch._dynamo  # what the first optimizer imports
import torch.distributed.checkpoint
import torch.distributed.fsdp

from diffuapriel.config import ModelConfig  # noqa: F401  (in the options)
from diffuapriel.data.registry import open_corpus
from diffuapriel.data.tales import shortest_window
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.training import cudagraph as recording
from diffuapriel.training import logging as log
from diffuapriel.training import loop, session
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.loop import train

LONGEST = 120.0  # seconds that a run may take


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


class Replayed(recording.Recorded):
    """What a recording does when it is replayed, without a CUDA graph: gradients stay on their rank, in one tensor."""

    def __init__(self, add, model, config, processes) -> None:
        self.add, self.gradients = add, recording.flatten_gradients(model)
        self.config, self.rows = config, recording.micro_batch_size(config, processes)

    def __call__(self, *part, block_length=None):
        most = recording.max_masked(self.config, self.rows, block_length)
        return self.add(*part, max_masked=most, block_length=block_length)


def start(options: str, ranks: int, replayed: bool) -> list[int]:
    port, pids = free_port(), []
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            launch = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
            launch |= {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "GROUP_WORLD_SIZE": 1}
            launch |= {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            if ranks > 1:
                os.environ.update({name: str(value) for name, value in launch.items()})
            if replayed:
                loop.can_record, recording.Recorded = (lambda *given: True), Replayed
            code = 1
            try:
                train(TrainConfig(**eval(options)), progress=False)
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        pids.append(pid)
    return pids


def wait(pids: list[int]) -> list[int]:
    deadline, codes = time.monotonic() + LONGEST, {}
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return [codes[pid] for pid in pids]


if __name__ == "__main__":
    torch.set_num_threads(1)
    session.REPORT_SECONDS = 0.0  # so that every update is followed by a save
    log.draw_curve = lambda *given: b"\x89PNG"
    tokenizer = get_tokenizer("gpt2-4k")
    open_corpus("tales:1", tokenizer).batch(0, split="train", batch_size=1, length=24, seed=0)
    shortest_window(1, tokenizer)  # found once, kept for all
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "start" in order:
            print(json.dumps({"pids": start(order["start"], order["ranks"], order["replayed"])}), flush=True)
        else:
            print(json.dumps({"codes": wait(order["wait"])}), flush=True)
