"""Run a comparison: choose each contestant's learning rate, train it for each seed, score all on the same windows.

Every run has a folder of its own below `folder` and is a run of `training.train`: stopped or killed, the same call
goes on where it was. A score that is on disk is not measured again.

    FOLDER/rate/NAME/FACTOR/       runs that try a learning rate
    FOLDER/run/NAME/SEED/          runs of the whole budget; score.json beside each checkpoint

Two models are compared pair by pair: on the same windows under the same noise, so what the windows have in common
cancels, and a difference is known far better than either figure.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffuapriel.benchmark.learning.plan import Contestant, Plan
from diffuapriel.checkpoint import load_checkpoint
from diffuapriel.data.registry import open_corpus
from diffuapriel.device import device_name
from diffuapriel.evaluation.interval import ratio_interval
from diffuapriel.evaluation.nelbo import estimate, score_sequences
from diffuapriel.evaluation.tales import default_sampler, evaluate_tales
from diffuapriel.storage import read_json, write_json
from diffuapriel.training.logging import read_log
from diffuapriel.training.loop import train


def run_study(plan: Plan, folder: str | Path, *, progress: bool = True) -> dict[str, Any] | None:
    """Everything that `report` needs, as plain values; None when it was interrupted: the same call goes on.

    Raises ValueError where the folder holds runs of other options, and what `train` raises.
    """
    folder = Path(folder)
    contestants: list[dict[str, Any]] = []
    for contestant in plan.contestants:
        tried = try_rates(plan, contestant, folder, progress=progress)
        if tried is None:
            return None
        best = min(tried, key=tried.__getitem__)
        runs = []
        for seed in plan.seeds:
            run = run_once(plan, contestant, best, seed, folder, progress=progress)
            if run is None:
                return None
            runs.append(run)
        contestants.append(
            {
                "name": contestant.name,
                "architecture": contestant.model.architecture,
                "parameters": contestant.parameters,
                "layers": list(contestant.model.layer_kinds),
                "rates": [
                    {"factor": factor, "nelbo": nelbo if math.isfinite(nelbo) else None}
                    for factor, nelbo in tried.items()
                ],
                "factor": best,
                "learning_rate": plan.train_config(contestant, best, 0, "", 1).peak_learning_rate,
                "runs": runs,
            }
        )
    return {
        "plan": plan.to_dict(),
        "torch": torch.__version__,
        "machine": device_name(plan.torch_device),
        "contestants": [_without_scores(one) for one in contestants],
        "differences": differences(contestants),
    }


def try_rates(plan: Plan, of: Contestant, folder: Path, *, progress: bool) -> dict[float, float] | None:
    """Held-out NELBO at the end of a small budget for each factor, infinite where it diverged; None when interrupted.

    One factor alone is not tried: it is the only choice, and stands as infinite too.
    """
    if len(plan.factors) == 1:
        return {plan.factors[0]: math.inf}
    found: dict[float, float] = {}
    for factor in sorted(plan.factors):
        home = folder / "rate" / slug(of.name) / f"{factor:g}"
        try:
            result = train(
                plan.train_config(of, factor, plan.seeds[0], str(home), plan.sweep_tokens), progress=progress
            )
        except FloatingPointError:  # too large a rate: it is out of the choice, and that is a result
            found[factor] = math.inf
            continue
        if not result.finished:
            return None
        found[factor] = result.validation.nats_per_token
    if min(found.values()) == math.inf:
        raise ValueError(
            f"{of.name} diverged at every learning rate; give smaller factors than {plan.factors}"
        )
    return found


def run_once(
    plan: Plan, of: Contestant, factor: float, seed: int, folder: Path, *, progress: bool
) -> dict[str, Any] | None:
    """One run of the whole budget, and its scores; None when interrupted."""
    home = folder / "run" / slug(of.name) / str(seed)
    result = train(plan.train_config(of, factor, seed, str(home), plan.tokens), progress=progress)
    if not result.finished:
        return None
    asked = {"windows": plan.windows, "draws": plan.draws, "stories": plan.stories}
    file = home / "score.json"
    if not file.exists() or read_json(file)["asked"] != asked:
        write_json(file, {"asked": asked, **measure(plan, result.checkpoint)})
    return {
        "seed": seed,
        "tokens": result.tokens,
        "seconds": round(result.seconds, 1),
        "curve": curve(home, plan),
        **{name: value for name, value in read_json(file).items() if name != "asked"},
    }


def measure(plan: Plan, checkpoint: Path) -> dict[str, Any]:
    """NELBO with its interval, the nats of every window, and for tales the quality of samples."""
    model, tokenizer = load_checkpoint(checkpoint, device=plan.torch_device)
    scores = score_sequences(
        model,
        open_corpus(plan.corpus, tokenizer),
        length=plan.length,
        num_sequences=plan.windows,
        num_mc_samples=plan.draws,
        batch_size=plan.batch_size,
    )
    found: dict[str, Any] = {
        "likelihood": estimate(scores, plan.length, plan.draws).to_dict(),
        "nats": scores.nats.tolist(),
        "tokens_of_windows": scores.tokens.tolist(),
    }
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


def curve(home: Path, plan: Plan) -> dict[str, list[float]]:
    """Held-out NELBO over training: tokens, seconds and nats/token of all tokens, as the run's log has them.

    Only those taken on the way, at the same updates for every run: one where a run was interrupted is nobody else's,
    and the one at the end averages several noise levels of each window, which would look like a jump.
    """
    config = plan.train_config(plan.contestants[0], 1.0, 0, "", plan.tokens)
    every, last = config.validate_every, config.planned_steps
    found = {record["step"]: record for record in read_log(home) if "validation" in record}
    points = [record for step, record in found.items() if step % every == 0 and step != last]
    points = points or list(found.values())  # a run of one update
    per_step = plan.batch_size * plan.length
    return {
        "tokens": [record["step"] * per_step for record in points],
        "seconds": [record["seconds"] for record in points],
        "nelbo": [record["validation"] for record in points],
    }


def differences(contestants: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every pair, seed by seed: nats/token of the first minus the second, with the paired 95 % interval.

    `verdict` is the name of the one ahead when every seed's interval says so, and None otherwise.
    """
    found = []
    for place, first in enumerate(contestants):
        for second in contestants[place + 1 :]:
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


def _paired(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, tuple[float, float]]:
    def values(run: dict[str, Any], name: str) -> Tensor:
        return torch.tensor(run[name], dtype=torch.float64)

    return ratio_interval(values(a, "nats") - values(b, "nats"), values(a, "tokens_of_windows"))


def _without_scores(one: dict[str, Any]) -> dict[str, Any]:
    """A contestant without the nats of single windows: they are in the runs' own folders."""
    bulky = ("nats", "tokens_of_windows")
    runs = [{name: value for name, value in run.items() if name not in bulky} for run in one["runs"]]
    return {**one, "runs": runs}


def slug(name: str) -> str:
    """A name as a folder is called."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
