"""A pipeline: a trained model, its tokenizer and a sampler behind one call.

    from diffuapriel import pipeline

    pipe = pipeline("tales-diffuapriel")
    print(pipe("Mia found a [MASK:6]."))
    output = pipe(["", "Once upon a time"], length=64, num_inference_steps=32, seed=1, return_trace=True)
    output.texts, output.traces
    for piece in pipe.write("Once upon a time"):         # without end, for a model of blocks
        print(piece, end="")

The arguments have the names of the discrete diffusion pipelines of Hugging Face's diffusers, the defaults are those of
`diffuapriel sample`, and the same seed gives the same texts as there.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffuapriel.checkpoint import DEFAULT_LENGTH, checkpoint_name, inspect_checkpoint, load_checkpoint
from diffuapriel.config import DEFAULT_CHECKPOINT
from diffuapriel.device import resolve_device
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.options import Option
from diffuapriel.sampling.blocks import denoiser_for
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import MAX_STEPS, SamplerConfig, resolve_options
from diffuapriel.sampling.frames import StepFrame
from diffuapriel.sampling.generate import generate
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.sampling.writer import WrittenBlock, write_blocks
from diffuapriel.tokenizer import Tokenizer
from diffuapriel.trace.trace import Trace

BATCH_SIZE = 32  # canvases per denoiser call
NUM_STEPS = Option("num_inference_steps", int, 128, least=1, most=MAX_STEPS)
NUM_SAMPLES = Option("num_samples", int, 1, least=1)

# (pipe, step from 0, timestep from 1 to 0, kwargs); see TextDiffusionPipeline.__call__
Callback = Callable[["TextDiffusionPipeline", int, float, dict[str, Any]], Any]


@dataclass(frozen=True)
class TextDiffusionOutput:
    """The texts of one call, `num_samples` in a row for each text given; the traces if they were asked for."""

    texts: list[str]
    traces: list[Trace] | None = None

    def __str__(self) -> str:
        return "\n\n".join(self.texts)


class TextDiffusionPipeline:
    """Fills the [MASK]s of texts.

    Attributes:
        model, tokenizer: a denoiser in evaluation mode and its tokenizer.
        name: of the model, for traces.
        default_length: tokens of a text from [MASK]s alone: 128, or fewer if the rows in training were shorter.
        generation: the rule that `diffuapriel tune` recorded, the default of strategy, its value and block_length.
        interrupt: a callback sets it to True to end the call after the current step.
    """

    def __init__(
        self,
        model: Denoiser,
        tokenizer: Tokenizer,
        *,
        name: str = "",
        default_length: int = DEFAULT_LENGTH,
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.tokenizer, self.name, self.default_length = model, tokenizer, name, default_length
        self.generation = dict(generation or {})
        self.interrupt = False

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | Path, device: str | torch.device | None = None
    ) -> TextDiffusionPipeline:
        """The pipeline of a bundled checkpoint, a folder or a model on the Hub; see `pipeline`."""
        model, tokenizer = load_checkpoint(name_or_folder, device=resolve_device(device))
        info, name = inspect_checkpoint(name_or_folder), checkpoint_name(name_or_folder)
        return cls(model, tokenizer, name=name, default_length=info.default_length, generation=info.generation)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> TextDiffusionPipeline:
        """Move the model to `device`; returns the pipeline."""
        self.model.to(resolve_device(device))
        return self

    def __repr__(self) -> str:
        architecture = self.model.config.architecture
        return f"TextDiffusionPipeline({self.name!r}, architecture={architecture!r}, device='{self.device}')"

    def __call__(
        self,
        text: str | list[str] | tuple[str, ...] = "",
        *,
        length: int | None = None,
        num_samples: int = 1,
        num_inference_steps: int = 128,
        strategy: str | None = None,
        block_length: int | None = None,
        block_start: str = "prompt",
        threshold: float | None = None,
        remask_cap: float = 0.04,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = 0.9,
        repetition_penalty: float = 1.0,
        schedule: str = "log-linear",
        seed: int | None = None,
        generator: torch.Generator | None = None,
        return_trace: bool = False,
        callback_on_step_end: Callback | None = None,
        **sampler_options: Any,
    ) -> TextDiffusionOutput:
        """Fill the masks of `text`, or of each of several texts.

        Args:
            text: what is given; [MASK] in it is one token to fill, [MASK:8] eight. The empty text gives nothing.
            length: total number of tokens; the end of the canvas is filled with [MASK] up to it. Without text it
                defaults to `default_length`.
            num_samples: texts to write for each text given.
            num_inference_steps: maximum number of denoiser calls. Fewer are faster and worse.
            strategy: which masks are filled at each step, one of `sampling.config.ALL_STRATEGIES`; by default the rule
                in `generation`, or "low_confidence".
            block_length: tokens per block, filled from left to right; 0: all at once. By default 16 for the
                "low_confidence" and 0 for the others. A model of blocks keeps finished ones in a cache and takes a
                block length that it was trained for, by default 16 or its longest; it does not see what lies behind
                the block that it fills.
            block_start: where the first block begins: at the end of the "prompt", or at position "zero".
            threshold: for strategy "threshold": fill every position at least this confident; 0.9 by default.
            remask_cap: for remasking: maximum probability per step of returning a token to [MASK].
            temperature, top_k, top_p, repetition_penalty: how tokens are drawn; see `SamplerConfig`.
            schedule: noise schedule.
            seed: same seed, same texts; 0 by default. Sample i of a call does not depend on how many follow it.
            generator: a torch.Generator to draw the seed from, in place of `seed`.
            return_trace: also return a `Trace` of every text, with all steps.
            callback_on_step_end: called as `callback(pipe, step, timestep, kwargs)` after each step of each text, one
                text after the other; step counts from 0 and timestep runs from 1 to 0. kwargs: "input_ids" (length,)
                int64, "transfer_index" (length,) bool, the positions filled in this step, "frame", the `StepFrame`,
                and "index" of the text in the output. Its return value is ignored. If it sets `pipe.interrupt = True`,
                the call returns at once: unfinished texts still contain [MASK].
            sampler_options: further options of `SamplerConfig`, such as `stop_at_eos`, `factor` or `entropy_bound`.

        Raises ValueError or TypeError that names the argument, its value and what is permitted.
        """
        texts = list(text) if isinstance(text, (list, tuple)) else [text]
        if not texts:
            raise ValueError('text is an empty list; give at least one text, or "" to write from nothing')
        if generator is not None and seed is not None:
            raise ValueError(f"seed is {seed} and a generator is given; give one of the two")
        if generator is not None:
            seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
        rule = {"strategy": strategy, "threshold": threshold, "block_length": block_length, "block_start": block_start}
        config = SamplerConfig(
            steps=NUM_STEPS.check(num_inference_steps),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            remask_cap=remask_cap,
            seed=0 if seed is None else seed,
            **resolve_options({**sampler_options, **rule}, self.model.config.block_lengths, self.generation),
        )
        sampler = Sampler(config, get_schedule(schedule), self.tokenizer.mask_id)
        repeats = NUM_SAMPLES.check(num_samples)
        canvases = []
        for given in texts:
            total = self.default_length if length is None and given == "" else length
            canvases += [Canvas.from_text(given, self.tokenizer, total).to(self.device)] * repeats

        self.interrupt = False
        if callback_on_step_end is None and not return_trace:
            return TextDiffusionOutput([self._text(ids) for ids in self._generate(sampler, canvases)])
        runs = [self._stream(sampler, canvas, index, callback_on_step_end) for index, canvas in enumerate(canvases)]
        results = [self._text(list(frames[-1].ids)) for frames in runs]
        if not return_trace:
            return TextDiffusionOutput(results)
        about = {
            "model": self.name,
            "architecture": self.model.config.architecture,
            "schedule": sampler.schedule.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        traces = [
            Trace.of(frames, canvas, self.tokenizer, config, **about)
            for frames, canvas in zip(runs, canvases, strict=True)
        ]
        return TextDiffusionOutput(results, traces)

    def write(
        self,
        prompt: str = "",
        *,
        block_length: int | None = None,
        window: int | None = None,
        seed: int = 0,
        schedule: str = "log-linear",
        **sampler_options: Any,
    ) -> Iterator[str]:
        """Continue a prompt without end, in memory that does not grow: yields the text block by block.

        Args:
            block_length: as for a call. window: tokens that attention reads, by default the context of the model.
            sampler_options: of `SamplerConfig`; `steps` are those of a block.

        Raises ValueError for a model that was not trained in blocks, or a block length that it does not know.
        """
        known = self.model.config.block_lengths
        rule = self.generation if self.generation.get("block_length") else {}  # not one for the whole canvas
        options = resolve_options({**sampler_options, "block_length": block_length}, known, rule)
        length = options.pop("block_length")
        if not known or length is None:
            raise ValueError(
                f"{self.name or 'the model'} was trained for block lengths {list(known)}; a text without end needs one "
                "that is not 0, the whole canvas"
            )
        del options["block_start"]
        options.pop("stop_at_eos", None)
        config = SamplerConfig(seed=seed, **{"top_p": 0.9, **options})
        sampler = Sampler(config, get_schedule(schedule), self.tokenizer.mask_id)
        ids = self.tokenizer.encode(prompt)
        written = write_blocks(self.model, sampler, length, ids, window=window)
        return _texts(written, self.tokenizer)

    def _generate(self, sampler: Sampler, canvases: list[Canvas]) -> Iterator[list[int]]:
        """The filled ids of every canvas; adjacent canvases of equal length share a batch."""
        row = 0
        for _, group in groupby(canvases, key=len):
            equal = list(group)
            for start in range(0, len(equal), BATCH_SIZE):
                batch = equal[start : start + BATCH_SIZE]
                denoiser = denoiser_for(self.model, sampler.config)
                filled: Tensor = generate(sampler, denoiser, batch, first_row=row)
                row += len(batch)
                yield from filled.tolist()

    def _stream(self, sampler: Sampler, canvas: Canvas, index: int, callback: Callback | None) -> list[StepFrame]:
        """The frames of one canvas, with noise stream `index`; only the start if the call was interrupted."""
        frames: list[StepFrame] = []
        denoiser = denoiser_for(self.model, sampler.config)
        for frame in sampler.stream(denoiser, sampler.start(canvas, first_row=index)):
            frames.append(frame)
            if callback is not None and frame.step > 0:
                ids = torch.tensor(frame.ids)
                filled = torch.zeros(len(frame.ids), dtype=torch.bool)
                filled[list(frame.revealed)] = True
                told = {"input_ids": ids, "transfer_index": filled, "frame": frame, "index": index}
                callback(self, frame.step - 1, frame.t, told)
            if self.interrupt:
                break
        return frames

    def _text(self, ids: list[int]) -> str:
        """The text without <|endoftext|>: between two documents it becomes an empty line."""
        end = self.tokenizer.eos_id
        parts = [list(run) for is_end, run in groupby(ids, key=lambda id: id == end) if not is_end]
        return "\n\n".join(self.tokenizer.decode(part) for part in parts)


def _texts(written: Iterator[WrittenBlock], tokenizer: Tokenizer) -> Iterator[str]:
    """The text of each block; a character that two blocks share comes with the second."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for block in written:
        new = block.ids[block.given :]
        yield decoder.decode(b"".join(b"\n\n" if i == tokenizer.eos_id else tokenizer.token_bytes(i) for i in new))


def pipeline(
    name_or_folder: str | Path = DEFAULT_CHECKPOINT, device: str | torch.device | None = None
) -> TextDiffusionPipeline:
    """A pipeline that writes with a trained model.

    name_or_folder: a bundled checkpoint (`checkpoint.bundled()` lists them), a checkpoint folder, or the id
    `owner/name` of a model on the Hugging Face Hub. device: "cpu", "cuda", "mps", ...; None takes CUDA where available.
    Raises FileNotFoundError, ValueError and ConnectionError as `load_checkpoint` does.
    """
    return TextDiffusionPipeline.from_pretrained(name_or_folder, device)
