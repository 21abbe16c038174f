"""What drafts gain on English: `stories-diffuapriel-small` adapted to blocks, and its tokens per pass.

    python -m tools.gpu.english --corpus mix:stories/mix.yaml --out runs/stories-blocks     on a GPU, ten minutes

Trains by the recipe `stories-blocks`, as many steps as fit into --train-seconds, compilation included, and writes to
--out: the checkpoint, with matrices in bfloat16, its log, and results.json with

    bounds    the NELBO of the mix and of each part in nats/token, at each block length, and of the source
    drafts    tokens per pass of `speculative` by the length, number and place of the drafts, beside one token per pass;
              whether each text is that of one token per pass; and a few texts

--checkpoint measures one that is there. Several processes share the GPU, which none fills.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch

from diffuapriel.checkpoint import inspect_checkpoint, load_checkpoint, save_checkpoint
from diffuapriel.data.registry import open_corpus
from diffuapriel.device import device_name
from diffuapriel.evaluation.nelbo import evaluate_nelbo, evaluate_parts
from diffuapriel.evaluation.samples import distinct_n, draw_sequences, split_at_eos, tokens_per_pass
from diffuapriel.sampling.blocks import denoiser_for
from diffuapriel.sampling.config import SamplerConfig, resolve_blocks
from diffuapriel.training.loop import train
from diffuapriel.training.recipes import RECIPES, recipe_config

RECIPE, LENGTH = "stories-blocks", 256
TEMPERATURES = 0.5, 0.7, 1.0
DRAFTS = (8, "text", 1), (4, "tokens", 1), (8, "tokens", 1), (4, "tokens", 4), (4, "tokens", 8), (4, "tokens", 16)
WORKERS = 9
BEGAN = time.monotonic()


def say(*what: Any) -> None:
    print(f"[{time.monotonic() - BEGAN:5.0f} s]", *what, flush=True)


def trained(args: argparse.Namespace) -> None:
    """Train for --train-seconds, and write the checkpoint to --out."""
    limit = args.train_seconds
    options: dict[str, Any] = {"corpus": args.corpus, "device": args.device, "num_validation_sequences": 128}
    options |= {"init_from": args.init_from, "save_seconds": 1e6, "validate_every": 1000, **json.loads(args.options)}
    trial = {"tokens": None, "steps": args.trial_steps, "warmup_steps": 5, "num_validation_sequences": 2}
    before = time.monotonic()
    first = train(
        recipe_config(RECIPE, "diffuapriel", **{**options, **trial}, folder=f"{args.run}-trial"), progress=False
    )
    once = (time.monotonic() - before) - first.seconds  # compiled and recorded
    torch.compiler.reset()
    if args.device == "cuda":
        torch.cuda.empty_cache()
    pace = first.seconds / first.step
    steps = max(args.trial_steps, int((limit - (time.monotonic() - BEGAN) - 0.1 * once) / pace * 0.97))
    say(f"{1000 * pace:.1f} ms per step, {once:.0f} s to compile and record: {steps} steps")
    left = max(0.2, (limit + 20 - (time.monotonic() - BEGAN) - 0.1 * once) / 60)
    config = recipe_config(
        RECIPE, "diffuapriel", **options, tokens=None, steps=steps, stop_after_minutes=left, folder=args.run
    )
    result = train(config, progress=True)
    say(f"{result.step} steps in {result.seconds:.0f} s", "" if result.finished else "(cut off)")
    source = inspect_checkpoint(args.run)
    card = (source.folder / "README.md").read_text(encoding="utf-8")
    pictures = {"loss.png": (source.folder / "loss.png").read_bytes()}
    checkpoint = args.out / "checkpoint"
    how = {"card": card, "extra": source.extra, "storage": "bfloat16", "pictures": pictures}
    save_checkpoint(checkpoint, load_checkpoint(args.run)[0], **how)
    shutil.copyfile(Path(args.run) / "log.jsonl", args.out / "log.jsonl")


def bounds(args: argparse.Namespace) -> dict[str, Any]:
    """The NELBO of the adapted model by block length, and of its source."""
    how: dict[str, Any] = {"length": LENGTH, "num_sequences": args.sequences, "batch_size": min(64, args.sequences)}
    found: dict[str, Any] = {}
    for name in (args.checkpoint, args.init_from):
        model, tokenizer = load_checkpoint(name, device=args.device)
        corpus = open_corpus(args.corpus, tokenizer)
        mine = found["source" if name == args.init_from else "adapted"] = {}
        for block_length in model.config.block_lengths or (None,):
            exact = {"num_mc_samples": 1 if block_length == 1 else 4, "block_length": block_length}
            whole = evaluate_nelbo(model, corpus, **how, **exact)
            parts = evaluate_parts(model, corpus, **how, **exact)
            mine[str(block_length)] = {"mix": whole.to_dict(), **{part: each.to_dict() for part, each in parts.items()}}
            figures = ", ".join(f"{part} {each.nats_per_token:.3f}" for part, each in parts.items())
            say(f"{name}, blocks of {block_length}: {whole.nats_per_token:.4f} nats/token; {figures}")
    return found


def drafts(args: argparse.Namespace, jobs: list[list[Any]]) -> None:
    """Write with each (temperature, length of the drafts, behind, number); print what a pass writes, as JSON lines."""
    model, tokenizer = load_checkpoint(args.checkpoint, device=args.device)
    known, rows = model.config.block_lengths, args.texts

    def write(config: SamplerConfig) -> tuple[list[list[int]], list[int], float]:
        began = time.monotonic()
        batches = draw_sequences(denoiser_for(model, config), tokenizer, config, LENGTH, batch_size=min(rows, 128))
        drawn = [row for batch in islice(batches, -(-rows // 128)) for row in batch][:rows]
        return [ids for ids, _ in drawn], [calls for _, calls in drawn], time.monotonic() - began

    reference: dict[float, list[list[int]]] = {}
    for temperature, length, behind, number in jobs:
        how: dict[str, Any] = {"temperature": temperature, "top_p": 0.9, "steps": LENGTH}
        if temperature not in reference:
            one = SamplerConfig("low_confidence", **how, **resolve_blocks("low_confidence", 1, known=known))
            reference[temperature], calls, seconds = write(one)
            report(tokenizer, temperature, 1, "", 1, reference[temperature], calls, seconds, reference[temperature])
        blocks = resolve_blocks("speculative", length, known=known)
        texts, calls, seconds = write(SamplerConfig("speculative", draft_behind=behind, drafts=number, **how, **blocks))
        report(tokenizer, temperature, length, behind, number, texts, calls, seconds, reference[temperature])


def report(
    tokenizer: Any,
    temperature: float,
    length: int,
    behind: str,
    number: int,
    texts: list[list[int]],
    calls: list[int],
    seconds: float,
    reference: list[list[int]],
) -> None:
    sets = [split_at_eos(ids, tokenizer.eos_id) for ids in texts]
    speed, ci95 = tokens_per_pass([[tokenizer.decode(one) for one in each] for each in sets], calls)
    same = sum(a == b for a, b in zip(texts, reference)) / len(texts)
    figures = {
        "temperature": temperature,
        "draft": length,
        "behind": behind,
        "drafts": number,
        "texts": len(texts),
        "tokens_per_pass": speed,
        "ci95": ci95,
        "positions_per_pass": LENGTH * len(texts) / sum(calls),
        "same_text": same,
        "distinct_3": distinct_n([one for each in sets for one in each], 3),
        "seconds": round(seconds, 1),
        "examples": [tokenizer.decode(ids) for ids in texts[:3]] if length == 1 else [],
    }
    print("RESULT " + json.dumps(figures), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default=RECIPES[RECIPE].options["corpus"])
    parser.add_argument("--init-from", default=RECIPES[RECIPE].options["init_from"])
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--run", default="runs/stories-blocks", help="folder of the training run")
    parser.add_argument("--checkpoint", help="measure this one, train none")
    parser.add_argument("--options", default="{}", help="JSON: options of TrainConfig that replace the recipe's")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--train-seconds", type=float, default=365.0, help="from the start of the program")
    parser.add_argument("--seconds", type=float, default=570.0, help="of it all; what is not measured then is left out")
    parser.add_argument("--trial-steps", type=int, default=60)
    parser.add_argument("--sequences", type=int, default=512)
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--jobs", help=argparse.SUPPRESS)  # of a process that measures drafts
    args = parser.parse_args()
    if args.jobs:
        drafts(args, json.loads(args.jobs))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.json"
    if not args.checkpoint:
        trained(args)
        args.checkpoint = str(args.out / "checkpoint")
    results: dict[str, Any] = {"device": device_name(torch.device(args.device)), "torch": torch.__version__}
    jobs = [[temperature, *how] for temperature, how in product(TEMPERATURES, DRAFTS)]
    share = -(-len(jobs) // WORKERS)  # neighbors, which are of one temperature
    files = [args.out / f"worker-{n}.log" for n in range(WORKERS)]
    common = [sys.executable, "-m", "tools.gpu.english", *sys.argv[1:], "--checkpoint", args.checkpoint]
    workers = []
    for n, log in enumerate(files):
        with log.open("w") as stream:
            command = [*common, "--jobs", json.dumps(jobs[n * share : (n + 1) * share])]
            workers.append(subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT))
    results["bounds"] = bounds(args)
    shown: set[str] = set()
    while True:
        running = any(worker.poll() is None for worker in workers)
        lines = [line for log in files for line in log.read_text().splitlines() if line.startswith("RESULT ")]
        results["drafts"] = sorted(
            (json.loads(line.removeprefix("RESULT ")) for line in set(lines)),
            key=lambda figures: [figures[name] for name in ("temperature", "draft", "behind", "drafts")],
        )
        for line in lines:
            if line not in shown:
                say(json.dumps({k: v for k, v in json.loads(line[7:]).items() if k != "examples"}))
                shown.add(line)
        file.write_text(json.dumps(results, indent=1, ensure_ascii=False))
        if not running or time.monotonic() - BEGAN > args.seconds:
            break
        time.sleep(2)
    for worker, log in zip(workers, files):
        if worker.poll() is None:
            worker.kill()
        if worker.poll() not in (0, None):
            say(log.read_text()[-2000:])


if __name__ == "__main__":
    main()
