"""What a run writes for its reader: log.jsonl, loss.png, TensorBoard events and a progress bar.

    {"step": 12, "loss": 5.31, "norm": 0.8, "learning_rate": 0.00036}
    {"step": 500, "validation": 2.17, "entropy": 0.34, "excess_nelbo": 1.83, "seconds": 81.2}
    of a mix also   "validation/NAME": 2.05, "epochs/NAME": 3.2   for every part

Losses are in nats/token over all tokens of the rows, padding included; so are `validation` and `entropy`, the exact
entropy of the validation sequences where the corpus knows it. Losses stay on the device until they are written: reading
one waits for the GPU and for the other ranks, whose shares are added up there. log.jsonl is the record; TensorBoard
shows the same figures (`tensorboard --logdir runs`).
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffuapriel.charts.matplotlib import dress, legend, new_figure, to_png
from diffuapriel.charts.palette import SERIES
from diffuapriel.data.mixed import PartUse
from diffuapriel.evaluation.nelbo import RENAMED, NelboEstimate
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.distributed import SingleProcess
from diffuapriel.training.flops import peak_flops, utilization

log = logging.getLogger(__name__)

SMOOTHING = 0.1  # weight of the newest step in the smoothed curve
EARLY = 3  # percent of the steps, after which the smoothed loss sets the top of the chart
TAGS = {
    "loss": "training/nats per token",
    "norm": "training/gradient norm",
    "learning_rate": "training/learning rate",
    "validation": "validation/nats per token",
    "entropy": "validation/entropy",
    "excess_nelbo": "validation/excess NELBO",
    "tokens_per_second": "speed/tokens per second",
    "mfu": "speed/model FLOP utilization",
}


class RunLog:
    """log.jsonl of one run. Opening it at `step` drops what a killed run wrote after that step.

    Rank 0 writes; the others only contribute their losses. TensorBoard gets all records as well.
    """

    def __init__(self, config: TrainConfig, step: int, processes: SingleProcess) -> None:
        folder = Path(config.folder)
        self.file = folder / "log.jsonl"
        self.config, self.processes = config, processes
        wanted = config.tensorboard and processes.is_main
        self.tensorboard = TensorBoardLogger(folder / "tensorboard", step) if wanted else None
        self.pending: list[tuple[int, Tensor, Tensor, float]] = []
        self.validated: set[int] = set()
        if processes.is_main:
            kept = [record for record in read_log(folder) if record["step"] <= step]
            aside = self.file.with_suffix(".writing")
            aside.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
            os.replace(aside, self.file)
            known = sum("loss" in record for record in kept)
            if known < step:
                log.warning(f"{self.file} has lost {step - known} of the {step} steps before: its curve has a gap")
            self.validated = {record["step"] for record in kept if "validation" in record}

    def add(self, step: int, loss: Tensor, norm: Tensor, learning_rate: float) -> None:
        """Add one step; `loss` is this rank's share. Nothing is read from the device yet."""
        self.pending.append((step, loss, norm, learning_rate))

    def flush(self) -> float:
        """Write the steps added so far; returns their mean loss (NaN if there are none). All ranks must call it.

        Raises FloatingPointError, on every rank, at the first loss that is not finite.
        """
        if not self.pending:
            return math.nan
        steps, losses, norms, rates = zip(*self.pending)
        self.pending = []
        summed = self.processes.all_reduce(torch.stack(losses))
        values = torch.stack([summed, torch.stack(norms)]).tolist()  # the one wait for the device
        records = [
            {"step": step, "loss": loss, "norm": norm, "learning_rate": rate}
            for step, loss, norm, rate in zip(steps, *values, rates)
        ]
        for record in records:
            if not abs(record["loss"]) < float("inf") or not abs(record["norm"]) < float("inf"):
                raise FloatingPointError(
                    f"step {record['step']}: the loss is {record['loss']} and the gradient norm {record['norm']}; "
                    "try a smaller learning rate, a longer warm-up or float32"
                )
        self._append(records)
        return sum(record["loss"] for record in records) / len(records)

    def write_validation(
        self,
        step: int,
        estimate: NelboEstimate,
        *,
        seconds: float,
        parts: Mapping[str, NelboEstimate] | None = None,
        uses: Sequence[PartUse] = (),
    ) -> None:
        """Write a validation, at most once per step and after the steps before it. parts, uses: of a mix."""
        self.flush()
        if step in self.validated:
            return
        self.validated.add(step)
        share = _counted(estimate)
        record = {
            "step": step,
            "validation": estimate.nats_per_token * share,
            "entropy": None if estimate.entropy is None else estimate.entropy * share,
            "excess_nelbo": None if estimate.excess_nelbo is None else estimate.excess_nelbo * share,
            "seconds": round(seconds, 2),
        }
        for name, part in (parts or {}).items():
            record[f"validation/{name}"] = part.nats_per_token * _counted(part)
        for use in uses:
            record[f"epochs/{use.name}"] = use.epochs
        self._append([record])

    def draw(self) -> None:
        """Redraw loss.png from all records so far."""
        self.flush()
        if not self.processes.is_main:
            return
        folder = self.file.parent
        aside = folder / "loss.writing"
        title = f"{self.config.architecture} on {self.config.corpus}"
        aside.write_bytes(draw_curve(read_log(folder), self.config.tokens_per_step, title))
        os.replace(aside, folder / "loss.png")

    def speed(self, step: int, tokens_per_second: float) -> float | None:
        """Log speed and MFU to TensorBoard only: log.jsonl holds what a run computes, which is reproducible.

        Returns the MFU, from 0 to 1; None where the card is not known.
        """
        config, cards, peak = self.config, self.processes.world_size, peak_flops(self.processes.device)
        mfu = utilization(config.model_config, config.length, tokens_per_second, peak, cards) if peak else None
        if self.tensorboard:
            self.tensorboard.add({"step": step, "tokens_per_second": tokens_per_second, "mfu": mfu})
        return mfu

    def close(self) -> None:
        if self.tensorboard:
            self.tensorboard.writer.close()

    def _append(self, records: list[dict[str, Any]]) -> None:
        if not self.processes.is_main:
            return
        if self.tensorboard:
            for record in records:
                self.tensorboard.add(record)
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write("".join(json.dumps(record) + "\n" for record in records))


def _counted(estimate: NelboEstimate) -> float:
    """The share of the tokens that an estimate counts; the rest is padding."""
    return estimate.tokens / (estimate.num_sequences * estimate.length)


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """The records of a run, older keys renamed; a last line cut off by a kill is skipped.

    Raises ValueError, with the line, for anything else that is not a record.
    """
    file = Path(folder) / "log.jsonl"
    records = []
    lines = file.read_bytes().split(b"\n") if file.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line.decode())
            if not isinstance(record["step"], int) or not all(
                value is None or isinstance(value, (int, float)) for value in record.values()
            ):
                raise ValueError("it holds no figures of a step")
            records.append({RENAMED.get(key, key): value for key, value in record.items()})
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            if line.strip() and number < len(lines):
                raise ValueError(
                    f"{file}, line {number} is no record of a run: {line[:40]!r}; remove the line"
                ) from None
    return records


def draw_curve(records: list[dict[str, Any]], tokens_per_step: int, title: str) -> bytes:
    """The loss against tokens as a PNG: steps, their smoothed line, validations, and the entropy as a dashed line."""
    steps = [record for record in records if "loss" in record]
    checks = [record for record in records if "validation" in record]
    figure = new_figure(7, 4, layout="constrained")
    axes = figure.add_subplot(xlabel="million tokens", ylabel="nats/token")
    dress(axes, title)
    training, validation = SERIES[0].color, SERIES[1].color
    tokens = [record["step"] * tokens_per_step / 1e6 for record in steps]
    losses = [record["loss"] for record in steps]
    axes.plot(tokens, losses, ".", markersize=2, alpha=0.15, color=training, rasterized=True)
    line = _smooth(losses)
    axes.plot(tokens, line, color=training, label="training, smoothed")
    if checks:
        where = [record["step"] * tokens_per_step / 1e6 for record in checks]
        label = "validation, averaged weights"
        axes.plot(where, [record["validation"] for record in checks], "o-", color=validation, label=label)
        names = [key.removeprefix("validation/") for key in checks[-1] if key.startswith("validation/")]
        for name, style in zip(names, itertools.cycle(SERIES[2:])):
            own = [record.get(f"validation/{name}", math.nan) for record in checks]
            axes.plot(where, own, style.marker + "-", color=style.color, markersize=3, linewidth=0.8, label=name)
        entropy = checks[-1].get("entropy")
        if entropy is not None:
            axes.axhline(entropy, linestyle="--", color="black", label=f"entropy of the corpus, {entropy:.3f}")
    if losses:
        axes.set_ylim(0, min(max(losses) * 1.05, 1.4 * line[len(line) * EARLY // 100]))
    legend(axes)
    return to_png(figure)


def _smooth(values: list[float]) -> list[float]:
    """Bias-corrected exponential average."""
    total = weight = 0.0
    line = []
    for value in values:
        total = (1 - SMOOTHING) * total + SMOOTHING * value
        weight = (1 - SMOOTHING) * weight + SMOOTHING
        line.append(total / weight)
    return line


class TensorBoardLogger:
    """Event files in `folder`. Opening it at `step` hides what a killed run wrote after that step."""

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError("logs for TensorBoard need tensorboard: pip install tensorboard") from None
        self.writer = SummaryWriter(str(folder), purge_step=step + 1)

    def add(self, record: dict[str, Any]) -> None:
        """Add every known figure of a record of log.jsonl to its curve."""
        for key, name in TAGS.items():
            if record.get(key) is not None:
                self.writer.add_scalar(name, record[key], record["step"])
        for key in record:
            if key.startswith("validation/"):  # a part of a mix
                self.writer.add_scalar(key, record[key], record["step"])


def progress_bar(what: str, total: int | None, *, unit: str, initial: int = 0, enabled: bool = True) -> Any:
    """A tqdm bar on standard error: often on a terminal or in a notebook, now and then in a file."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("training shows its progress with tqdm: pip install tqdm") from None
    return tqdm(
        desc=what,
        total=total,
        initial=initial,
        unit=unit,
        disable=not enabled,
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
    )
