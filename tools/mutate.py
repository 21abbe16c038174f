"""Damage files at random and read them: each is read whole, or refused in one clean line, in bounded time and memory.

    python -m tools.mutate                            2,000 damaged files of every kind, a table at the end
    python -m tools.mutate config trace --count 500   two kinds
    python -m tools.mutate trace --seed 7 --only 41   one file again, with its traceback

A mutation changes values of the JSON, or bytes, or replaces the file by a small bomb (deep nesting, many empty lists).
Checksums are made to fit afterwards, as somebody who means harm would. The files are read in processes of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import hashlib
import json
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from diffuapriel.benchmark.memory import PeakMemory
from diffuapriel.checkpoint import load_checkpoint, save_checkpoint
from diffuapriel.cli import describe
from diffuapriel.config import ModelConfig
from diffuapriel.data.files import file_corpus
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.storage import sha256
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.trace.trace import Trace
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.loop import train

MAX_SECONDS = 5.0  # of the processor
MAX_BYTES = 1e9  # of memory that a reader adds
MAX_MESSAGE = 600  # characters, the path of the file included
HANG_SECONDS = 120.0

NESTED = "\0nested\0"  # stands for 3,000 lists in one another, which json.dumps would refuse
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 64, 1000, 2**20, 10**9, 2**31, 2**53, 2**63, 10**30, 10**400, -(10**9)),
    *(0.5, -0.0, 1e308, -1e308, 1e-320, float("nan"), float("inf"), float("-inf")),
    *("", "x", "\ud800", "\0", "\x1b[2J", "<script>", "../x.safetensors", "/dev/zero", "x" * 10**5, "é" * 300, NESTED),
    *([], {}, [[]], {"": {}}, [0] * 10**4, [None] * 3, {str(i): i for i in range(1000)}),
)


class Kind(NamedTuple):
    """A kind of file: how a folder with a whole one is made, which file is damaged, how to read the folder again."""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    mend: Callable[[Path], object] = lambda file: None  # make the checksums fit
    is_json: bool = True
    header: bool = False  # the JSON is the header of a safetensors file


@dataclass(frozen=True)
class Outcome:
    """What became of one damaged file."""

    read: bool  # whole, not refused
    seconds: float
    memory: int  # bytes that the reader added
    message: str = ""
    fault: str = ""  # what is wrong with how it was refused or read


# What is damaged


def _make_checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    shape = {"d_model": 16, "depth": 2, "d_state": 4, "headdim": 8, "attention_headdim": 8, "cond_dim": 8}
    config = ModelConfig("diffuapriel-h", vocab_size=4098, tokenizer="gpt2-4k", **shape)
    save_checkpoint(folder, Denoiser(config), card="# card\n", extra={"recipe": {"corpus": "tales:1", "length": 64}})
    return folder / "config.json"


def _make_weights(folder: Path) -> Path:
    return _make_checkpoint(folder).with_name("model.safetensors")


def _mend_weights(file: Path) -> None:
    config = file.with_name("config.json")
    text = config.read_text(encoding="utf-8")
    config.write_text(re.sub(r"[0-9a-f]{64}", sha256(file), text), encoding="utf-8")


def _make_trace(folder: Path) -> Path:
    tokenizer = get_tokenizer("gpt2-4k")
    canvas = Canvas.from_text("Mia found a[MASK:6].", tokenizer)
    sampler = Sampler(SamplerConfig("remdm", steps=5), get_schedule("log-linear"), canvas.mask_id)
    generator = torch.Generator().manual_seed(0)

    def denoiser(ids: torch.Tensor, sigma: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return torch.randn(int(positions.sum()), tokenizer.vocab_size, generator=generator)

    folder.mkdir()
    file = folder / "trace.json"
    file.write_text(Trace.record(sampler, denoiser, canvas, tokenizer, model="toy").to_json(), encoding="utf-8")
    return file


def _read_trace(folder: Path) -> None:
    trace = Trace.from_json((folder / "trace.json").read_bytes())
    trace.to_html()
    assert Trace.from_json(trace.to_json()) == trace


def _make_run(folder: Path) -> Path:
    train(_run(folder), progress=False)
    return folder / "state" / "state.json"


def _run(folder: Path) -> TrainConfig:
    shape = {"d_model": 16, "depth": 1, "d_state": 4, "headdim": 8, "attention_headdim": 8, "cond_dim": 8}
    model = ModelConfig("diffuapriel", vocab_size=4098, tokenizer="gpt2-4k", **shape)
    few = {"batch_size": 2, "num_validation_sequences": 2, "warmup_steps": 1}
    return TrainConfig(model=model, corpus="tales:1", folder=str(folder), length=16, steps=3, **few)


def _mend_state(file: Path) -> None:
    with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError):
        document = json.loads(file.read_bytes())
        document.pop("sha256", None)
        digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
        file.write_text(json.dumps(document | {"sha256": digest}), encoding="utf-8")


def _make_parquet(folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    folder.mkdir()
    texts = {"id": list(range(400)), "text": [f"Mia found {i} red balls. " * (1 + i % 9) for i in range(400)]}
    pyarrow.parquet.write_table(pyarrow.table(texts), folder / "texts.parquet", row_group_size=100)
    return folder / "texts.parquet"


KINDS = {
    "config": Kind(_make_checkpoint, load_checkpoint),
    "safetensors": Kind(_make_weights, load_checkpoint, _mend_weights, header=True),
    "trace": Kind(_make_trace, _read_trace),
    "state": Kind(_make_run, lambda folder: train(_run(folder), progress=False), _mend_state),
    "parquet": Kind(
        _make_parquet, lambda folder: file_corpus(folder / "texts.parquet", get_tokenizer("gpt2-4k")), is_json=False
    ),
}


# How it is damaged


def mutate(data: bytes, kind: Kind, chance: random.Random) -> bytes:
    """A damaged copy of a file's bytes."""
    if kind.header:
        length = int.from_bytes(data[:8], "little")
        header, tail = data[8 : 8 + length], data[8 + length :]
        changed = _mutate_json(header, chance) if chance.random() < 0.8 else header
        if chance.random() < 0.1:
            tail = _mutate_bytes(tail, chance)
        promised = len(changed) if chance.random() < 0.9 else chance.choice([0, 1, 2**31, 2**63, 2**64 - 1, length + 1])
        return promised.to_bytes(8, "little") + changed + tail
    if kind.is_json:
        return _mutate_json(data, chance)
    return _mutate_bytes(data, chance)


def _mutate_json(data: bytes, chance: random.Random) -> bytes:
    way = chance.random()
    if way < 0.25:
        return _mutate_bytes(data, chance)
    if way < 0.28:
        return _bomb(chance)
    value = json.loads(data)
    for _ in range(chance.randint(1, 3)):
        _change(value, chance)
    text = json.dumps(value, ensure_ascii=chance.random() < 0.5)
    nested = chance.choice(["[" * 3000 + "]" * 3000, '{"a":' * 3000 + "0" + "}" * 3000, "[" * 3000])
    return text.replace(json.dumps(NESTED), nested).encode("utf-8", "surrogatepass")


def _change(value: Any, chance: random.Random) -> None:
    """Change one place of a JSON value, chosen with equal chances on every level."""
    while isinstance(value, dict | list) and value:
        key = chance.choice(list(value)) if isinstance(value, dict) else chance.randrange(len(value))
        if isinstance(value[key], dict | list) and value[key] and chance.random() < 0.8:
            value = value[key]
            continue
        way = chance.random()
        if way < 0.15:
            del value[key]
        elif way < 0.25 and isinstance(value, dict):
            value[chance.choice(["", "x", "x" * 10**5, "\0", "\ud800", "01", "__metadata__"])] = value.pop(key)
        elif way < 0.3 and isinstance(value, list):
            value.extend(value[key : key + 1] * chance.choice([1, 2, 10**5]))
        elif way < 0.5 and type(value[key]) is int:
            value[key] = chance.choice(
                [value[key] + 1, value[key] - 1, -value[key], 2 * value[key], 10**9 * value[key]]
            )
        else:
            value[key] = copy.deepcopy(chance.choice(HOSTILE))
        return


def _mutate_bytes(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at = chance.randrange(len(changed) + 1)
        way = chance.randrange(5)
        if way == 0:
            changed[at : at + 1] = chance.randbytes(1)
        elif way == 1:
            del changed[at : at + chance.choice([1, 4, len(changed)])]
        elif way == 2:
            changed[at:at] = chance.randbytes(chance.choice([1, 4, 1000]))
        elif way == 3:
            changed[at:at] = changed[at : at + 100] * chance.choice([1, 100])
        elif at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _bomb(chance: random.Random) -> bytes:
    """A text of up to 11 MB that costs a reader much more than its size."""
    size = chance.choice([10**5, 3_900_000, 9_900_000, 11_000_000])
    return chance.choice(
        [
            b"[" * size,
            b'{"a":' * (size // 5),
            b"[" + b"[]," * (size // 3 - 1) + b"[]]",
            b"[" + b"{}," * (size // 3 - 1) + b"{}]",
            b'{"x":"' + b"x" * size + b'"}',
            b" " * size,
            b"1" * size,
            b'"' + b"\\u0000" * (size // 6) + b'"',
            b"{" + b",".join(b'"%d":0' % i for i in range(size // 12)) + b"}",
        ]
    )


# What became of it


def outcomes(name: str, indices: range, seed: int = 0) -> Iterator[Outcome]:
    """Damage a file once for each index and read it."""
    kind = KINDS[name]
    with tempfile.TemporaryDirectory() as root:
        whole = kind.make(Path(root, "whole"))
        for index in indices:
            folder = Path(root, str(index))
            shutil.copytree(Path(root, "whole"), folder)
            file = folder / whole.relative_to(Path(root, "whole"))
            file.write_bytes(mutate(whole.read_bytes(), kind, random.Random(f"{name} {seed} {index}")))
            kind.mend(file)
            yield _outcome(kind, folder, file)


def _outcome(kind: Kind, folder: Path, file: Path) -> Outcome:
    read, error = True, None
    memory = PeakMemory()
    with memory:
        began = time.process_time()  # other programs do not count
        try:
            kind.read(folder)
        except BaseException as raised:
            read, error = False, raised
        seconds = time.process_time() - began
    message, shown = ("", "") if error is None else (str(error), describe(error))
    named = file.name in message or str(folder) in message or message.startswith("trace: ")
    faults = {
        type(error).__name__: not read and not isinstance(error, ValueError | FileNotFoundError),
        "a message without the file": not read and not named,
        "a long message": len(message) > MAX_MESSAGE,
        "control characters": bool(re.search(r"[\x00-\x1f\x7f-\x9f]", shown)),
        "too much memory": memory.peak > MAX_BYTES,
    }
    return Outcome(read, seconds, memory.peak, message, ", ".join(fault for fault, found in faults.items() if found))


def _batch(name: str, first: int, last: int, seed: int) -> list[Outcome]:
    torch.set_num_threads(1)
    found = outcomes(name, range(first, last), seed)
    return [dataclasses.replace(one, fault=one.fault or "too slow" * (one.seconds > MAX_SECONDS)) for one in found]


def run(name: str, count: int, seed: int, processes: int, batch: int = 50) -> list[Outcome]:
    """The outcomes of `count` damaged files, read in several processes. A reader that ends its process is a fault."""
    found: list[Outcome] = []
    starts = range(0, count, batch)
    with ProcessPoolExecutor(processes) as pool:
        jobs = [pool.submit(_batch, name, first, min(first + batch, count), seed) for first in starts]
        for first, job in zip(starts, jobs):
            try:
                found += job.result(timeout=batch * HANG_SECONDS)
            except Exception as error:  # the process has crashed, or it hangs: one of these files is the cause
                fault = Outcome(False, 0, 0, fault=f"{type(error).__name__} from {first} on")
                found += [fault] * (min(first + batch, count) - first)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)}; all by default")
    parser.add_argument("--count", type=int, default=2000, help="damaged files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", type=int, metavar="N", help="damage and read file N alone")
    args = parser.parse_args()
    total = 0
    print(f"{'kind':12}{'files':>7}{'read':>7}{'refused':>9}{'faults':>8}{'slowest':>10}{'most memory':>13}")
    for name in args.kinds or KINDS:
        if args.only is not None:
            print(*(dataclasses.asdict(one) for one in outcomes(name, range(args.only, args.only + 1), args.seed)))
            continue
        found = run(name, args.count, args.seed, args.processes)
        read, faults = sum(one.read for one in found), [i for i, one in enumerate(found) if one.fault]
        slowest, most = max(one.seconds for one in found), max(one.memory for one in found)
        counts = f"{len(found):7,}{read:7,}{len(found) - read:9,}{len(faults):8,}"
        print(f"{name:12}{counts}{slowest:8.2f} s{most / 1e6:10.0f} MB", flush=True)
        for fault, number in Counter(found[i].fault for i in faults).most_common():
            first = next(i for i in faults if found[i].fault == fault)
            print(f"    {number:,} x {fault}, e.g. --only {first}: {found[first].message[:200]!r}")
        total += len(faults)
    return int(total > 0)


if __name__ == "__main__":
    raise SystemExit(main())
