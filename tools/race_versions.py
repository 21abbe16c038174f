"""Times a story by this version and by an older one, side by side: `python -m tools.race_versions 353f8a7`.

The older version is unpacked from git into a temporary folder. Each version runs in a process of its own, with its own
code and its own bundled model, and writes the same number of tokens with `diffuapriel sample`. The two take turns, and
the order is reversed every round. Loading the model is not timed: each process loads it before the first round. Beside
the time on the clock, the processor time is given, which other work on the machine hardly changes. --now
and --then add options to one of the two, e.g. the rule that `diffuapriel tune` found.

    python -m tools.race_versions 353f8a7 --now "--strategy threshold --threshold 0.97 --block-length 32"
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from diffuapriel.benchmark.timing import Spread
from diffuapriel.config import DEFAULT_CHECKPOINT

ROOT = Path(__file__).resolve().parent.parent
# Reads the arguments of a command per line and answers with the seconds that it took, on the clock and of processors.
WORKER = """
import contextlib, functools, io, json, sys, time
answers, sys.stdout = sys.stdout, sys.stderr
import torch
from diffuapriel import checkpoint
checkpoint.load_checkpoint = functools.cache(checkpoint.load_checkpoint)
from diffuapriel.cli import main
torch.set_num_threads(int(sys.argv[1]))
for line in sys.stdin:
    began = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()) as text:
        code = main(json.loads(line))
    took = time.perf_counter() - began[0], time.process_time() - began[1]
    print(json.dumps([took, code, text.getvalue()]), file=answers, flush=True)
"""


class Seconds(NamedTuple):
    """The time of a command on the clock, and that of all processors that worked for it."""

    clock: float
    processor: float


class Version:
    """A process that runs commands of the code in `folder`, one at a time."""

    def __init__(self, folder: Path, threads: int) -> None:
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(threads)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        argv = [sys.executable, "-c", WORKER, str(threads)]
        self.process = subprocess.Popen(argv, cwd=folder, env=environment, **pipes)

    def run(self, command: list[str]) -> tuple[Seconds, str]:
        """The seconds that a command took, and what it printed. Raises RuntimeError if it fails."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        (clock, processor), code, text = json.loads(answer) if answer else ((0.0, 0.0), 1, "")
        if code:
            raise RuntimeError(f"{shlex.join(command)} failed in {self.process.args}; see above")
        return Seconds(clock, processor), text

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def unpack(revision: str, folder: Path) -> None:
    """The files of a revision of this repository. Raises ValueError for an unknown one."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", revision], capture_output=True, check=False)
    if archive.returncode:
        raise ValueError(f"the version {revision!r} is not in this repository: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")


def race(
    folders: dict[str, Path], commands: dict[str, list[str]], rounds: int, threads: int
) -> dict[str, list[Seconds]]:
    """The seconds of each round by version; a first round, untimed, loads the models and prints what they write."""
    versions = {name: Version(folder, threads) for name, folder in folders.items()}
    seconds: dict[str, list[Seconds]] = {name: [] for name in folders}
    try:
        for number in range(rounds + 1):
            for name in list(folders)[:: 1 if number % 2 else -1]:
                seed = ["--seed", str(number)]
                took, text = versions[name].run([*commands[name], *seed])
                if number:
                    seconds[name].append(took)
                else:
                    print(f"{name}: {text.strip()}")
    finally:
        for version in versions.values():
            version.close()
    return seconds


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="a commit or a tag of this repository")
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="a bundled name that both versions have")
    parser.add_argument("--length", type=int, default=96, help="tokens of the story")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--now", default="", metavar="OPTIONS", help="options of `sample` for this version")
    parser.add_argument("--then", default="", metavar="OPTIONS", help="options of `sample` for the older one")
    args = parser.parse_args(argv)
    command = ["sample", "--checkpoint", args.checkpoint, "--length", str(args.length)]
    with tempfile.TemporaryDirectory() as temporary:
        unpack(args.version, Path(temporary))
        folders = {args.version: Path(temporary), "this version": ROOT}
        commands = {
            args.version: [*command, *shlex.split(args.then)],
            "this version": [*command, *shlex.split(args.now)],
        }
        seconds = race(folders, commands, args.rounds, args.threads)
    print(f"{args.length} tokens, {args.threads} threads, {args.rounds} rounds")
    for kind in Seconds._fields:
        times = {name: [getattr(each, kind) for each in rounds] for name, rounds in seconds.items()}
        ratios = [then / now for then, now in zip(times[args.version], times["this version"], strict=True)]
        shown = ", ".join(f"{name} {Spread.of(values).text(' s')}" for name, values in times.items())
        print(f"{kind:<10} {shown}: this version is {Spread.of(ratios).text('x')} as fast")
    return 0


if __name__ == "__main__":
    sys.exit(main())
