"""Run a study: choose each entry's learning rate, train it once per seed, score all on the same sequences.

Each run has a folder of its own below `folder` and is a run of `training.train`: after an interruption, the same call
continues. A score that is on disk is not measured again.

    FOLDER/rate/NAME/FACTOR/       runs that try a learning rate
    FOLDER/run/NAME/SEED/          runs of the whole budget; score.json beside each checkpoint

Two models are compared on the same sequences under the same noise. What the sequences have in common cancels, so a
difference is known far better than either figure.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffuapriel.benchmark.learning import blocks
from diffuapriel.benchmark.learning.plan import StudyEntry, StudyPlan
from diffuapriel.benchmark.result import rename_keys
from diffuapriel.checkpoint import load_checkpoint
from diffuapriel.data.registry import open_corpus
from diffuapriel.device import device_name
from diffuapriel.evaluation.interval import ratio_interval
from diffuapriel.evaluation.nelbo import estimate, score_sequences
from diffuapriel.evaluation.samples import default_sampler
from diffuapriel.evaluation.tales import evaluate_tales
from diffuapriel.storage import read_json, write_json
from diffuapriel.training.logging import read_log
from diffuapriel.training.loop import train

OLD_KEYS = {  # of studies and scores saved before
    "contestants": "entries",
    "windows": "sequences",
    "draws": "mc_samples",
    "tokens_of_windows": "sequence_tokens",
    "gap": "excess_nelbo",
}
PER_SEQUENCE = ("nats", "sequence_tokens")  # in score.json, not in the study's JSON


def load_study(file: Path) -> dict[str, Any]:
    """A study from its JSON; those saved with older names load too."""
    return rename_keys(read_json(file), OLD_KEYS)


def run_study(plan: StudyPlan, folder: str | Path, *, progress: bool = True) -> dict[str, Any] | None:
    """All that `report` needs, as plain values; None when it was interrupted: the same call continues.

    Raises ValueError if the folder holds runs with other options, and what `train` raises.
    """
    try:
        entries = [run_entry(plan, entry, Path(folder), progress=progress) for entry in plan.entries]
    except Interrupted:
        return None
    found = block_differences(entries) if plan.study == "blocks" else differences(entries)
    for run in (run for entry in entries for run in entry["runs"]):
        for scores in (run, *run.get("by_block_length", ())):
            for name in PER_SEQUENCE:
                scores.pop(name, None)
    return {
        "plan": dataclasses.asdict(plan),
        "torch": torch.__version__,
        "machine": device_name(plan.torch_device),
        "entries": entries,
        "differences": found,
    }


class Interrupted(Exception):
    """A run ended before its last step."""


def run_entry(plan: StudyPlan, entry: StudyEntry, folder: Path, *, progress: bool) -> dict[str, Any]:
    """One entry: the rates that were tried, the best one, and the runs with it. Raises Interrupted."""
    tried = try_rates(plan, entry, folder, progress=progress)
    best = min(tried, key=tried.__getitem__)
    known = {factor: nelbo if math.isfinite(nelbo) else None for factor, nelbo in tried.items()}
    return {
        "name": entry.name,
        "architecture": entry.model.architecture,
        "parameters": entry.parameters,
        "layers": list(entry.model.layer_kinds),
        **({"block_lengths": list(entry.model.block_lengths)} if entry.model.block_lengths else {}),
        "rates": [{"factor": factor, "nelbo": nelbo} for factor, nelbo in known.items()],
        "factor": best,
        "learning_rate": plan.train_config(entry, best).peak_learning_rate,
        "runs": [run_once(plan, entry, best, seed, folder, progress=progress) for seed in plan.seeds],
    }


def try_rates(plan: StudyPlan, entry: StudyEntry, folder: Path, *, progress: bool) -> dict[float, float]:
    """Validation NELBO at the end of a small budget by factor; infinite after divergence, or with one factor."""
    if len(plan.factors) == 1:
        return {plan.factors[0]: math.inf}
    found: dict[float, float] = {}
    for factor in sorted(plan.factors):
        home = folder / "rate" / slug(entry.name) / f"{factor:g}"
        config = plan.train_config(entry, factor, plan.seeds[0], str(home), plan.sweep_tokens)
        try:
            result = train(config, progress=progress)
        except FloatingPointError:  # the rate is too large, which is a result
            found[factor] = math.inf
            continue
        if not result.finished:
            raise Interrupted
        found[factor] = result.validation.nats_per_token
    if min(found.values()) == math.inf:
        raise ValueError(f"{entry.name} diverged at every learning rate; give smaller factors than {plan.factors}")
    return found


def run_once(
    plan: StudyPlan, entry: StudyEntry, factor: float, seed: int, folder: Path, *, progress: bool
) -> dict[str, Any]:
    """One run of the whole budget, and its scores."""
    home = folder / "run" / slug(entry.name) / str(seed)
    result = train(plan.train_config(entry, factor, seed, str(home)), progress=progress)
    if not result.finished:
        raise Interrupted
    asked: dict[str, Any] = {
        "sequences": plan.sequences,
        "mc_samples": plan.mc_samples,
        "stories": plan.stories,
    }
    asked["estimator"] = "counts"  # older scores are by MDLM's estimator, and are measured again
    file = home / "score.json"
    score = rename_keys(read_json(file), OLD_KEYS) if file.exists() else {}
    if score.pop("asked", None) != asked:
        score = measure(plan, result.checkpoint)
        write_json(file, {"asked": asked, **score})
    about = {"seed": seed, "tokens": result.tokens, "seconds": round(result.seconds, 1)}
    return {**about, "curve": curve(home, plan), **score}


def measure(plan: StudyPlan, checkpoint: Path) -> dict[str, Any]:
    """NELBO with its interval, the nats of each sequence, and for tales the quality of samples.

    Of a study of blocks, the NELBO at every block length and no samples.
    """
    model, tokenizer = load_checkpoint(checkpoint, device=plan.torch_device)
    corpus = open_corpus(plan.corpus, tokenizer)

    def score(block_length: int | None) -> dict[str, Any]:
        scores = score_sequences(
            model,
            corpus,
            length=plan.length,
            num_sequences=plan.sequences,
            num_mc_samples=plan.mc_samples,
            batch_size=plan.batch_size,
            block_length=block_length,
        )
        return {
            "likelihood": estimate(scores, plan.length).to_dict(),
            "nats": scores.nats.tolist(),
            "sequence_tokens": scores.tokens.tolist(),
        }

    if plan.study == "blocks":
        found = [{"block_length": block_length, **score(block_length)} for block_length in blocks.LENGTHS]
        return {"by_block_length": found}
    found = score(None)
    kind, _, level = plan.corpus.partition(":")
    if kind == "tales" and plan.stories:
        found["samples"] = evaluate_tales(
            model,
            tokenizer,
            level=int(level or 3),
            stories=plan.stories,
            length=plan.length,
            sampler=default_sampler(plan.length),
            batch_size=plan.batch_size,
        ).to_dict()
    return found


def curve(home: Path, plan: StudyPlan) -> dict[str, list[float]]:
    """Validation NELBO over training: tokens, seconds and nats/token of all tokens, from the run's log.

    Only points at regular steps count, which all runs share: not one at an interruption, and not the last one, which
    averages several masks per sequence and would look like a jump.
    """
    config = plan.train_config(plan.entries[0])
    every, last = config.validate_every, config.planned_steps
    found = {record["step"]: record for record in read_log(home) if "validation" in record}
    points = [record for step, record in found.items() if step % every == 0 and step != last]
    points = points or list(found.values())  # a run of one step
    per_step = plan.batch_size * plan.length
    return {
        "tokens": [record["step"] * per_step for record in points],
        "seconds": [record["seconds"] for record in points],
        "nelbo": [record["validation"] for record in points],
    }


def differences(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each pair, seed by seed: nats/token of the first minus the second, with the paired 95 % interval.

    `verdict` is the name of the better one if the intervals of all seeds agree, and None otherwise.
    """
    found = []
    for first, second in itertools.combinations(entries, 2):
        pairs = [_paired(a, b) for a, b in zip(first["runs"], second["runs"], strict=True)]
        below = all(high < 0 for _, (_, high) in pairs)
        above = all(low > 0 for _, (low, _) in pairs)
        found.append(
            {
                "first": first["name"],
                "second": second["name"],
                "seeds": [{"nats_per_token": mean, "ci95": list(ci95)} for mean, ci95 in pairs],
                "verdict": first["name"] if below else second["name"] if above else None,
            }
        )
    return found


def block_differences(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`differences` of the pairs of a study of blocks, each at one `block_length`."""
    by_name, found = {entry["name"]: entry for entry in entries}, []
    for first, second, block_length in blocks.pairs(list(by_name)):
        index = blocks.LENGTHS.index(block_length)
        at_length = [
            {"name": name, "runs": [run["by_block_length"][index] for run in by_name[name]["runs"]]}
            for name in (first, second)
        ]
        found += [{**pair, "block_length": block_length} for pair in differences(at_length)]
    return found


def _paired(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, tuple[float, float]]:
    def values(run: dict[str, Any], name: str) -> Tensor:
        return torch.tensor(run[name], dtype=torch.float64)

    return ratio_interval(values(a, "nats") - values(b, "nats"), values(a, "sequence_tokens"))


def slug(name: str) -> str:
    """A name as a folder is called."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
