"""The adapter for EleutherAI's lm-evaluation-harness, which scores models on hundreds of standard tasks.

    loglikelihood           the order-agnostic bound of the answer after a clean prompt (likelihood.py), and whether
                            greedy decoding would have written it
    loglikelihood_rolling   the NELBO of a whole text, as it stood in training: after the <|endoftext|> of another, or,
                            for a model of tales, in a window of its own that <|endoftext|> fills, whose cost counts
                            (as in `surprisal.score_text`). A text longer than the context is cut into windows that
                            score each token once
    generate_until          the sampler on a canvas of the prompt and `max_gen_toks` masks, cut at the first stop.
                            Without max_gen_toks, or with one as long as the context: what the prompt leaves of
                            the context, 256 at most

A model of blocks that knows blocks of one token has an exact log-likelihood, which is then what both return; it writes
block after block, with its cache, and a text ends with its first <|endoftext|>.

A prompt that does not fit beside the answer loses its beginning, with a warning.

Otherwise the log-likelihood, unlike that of a causal model, is a lower bound, estimated by Monte Carlo for longer
answers. Seeds are fixed, so the figures repeat, whatever the batch size and --limit.

The harness looks models up in a registry that only its own file fills; it has no entry points. So this module must be
imported before its command line runs, as `diffuapriel harness` does.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

from diffuapriel.checkpoint import inspect_checkpoint, load_checkpoint
from diffuapriel.data.tales import fill_window
from diffuapriel.device import resolve_device
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.evaluation.likelihood import AnswerScore, rolling_windows, score_answers
from diffuapriel.sampling.blocks import denoiser_for
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig, resolve_blocks
from diffuapriel.sampling.generate import generate
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.tokenizer import EOS

BATCH_TOKENS = 16_384  # the most per batch if the size is "auto"
BATCH_LOGITS = 2**28  # the most float32 logits: 1 GiB
MAX_NEW = 256  # tokens to generate where a task does not say, as for the harness's own models
SAMPLING = ("top_k", "top_p", "repetition_penalty")  # sampler options that a task may set
UNSET = (None, 0, -1)  # values by which tasks turn such an option off

log = logging.getLogger(__name__)


@register_model("diffuapriel")
class DiffuAprielLM(TemplateLM):
    """A masked diffusion model for the harness. Arguments come from --model_args.

    Args:
        pretrained: a bundled name, a folder, a model id on the Hugging Face Hub, or (denoiser, tokenizer).
        batch_size: texts per denoiser call, masked copies included; "auto" allows 16,384 tokens and 1 GiB of logits.
        max_batch_size: passed by the harness, not used.
        device: "cuda", "cpu", ...; "auto", the default, is a GPU if there is one.
        max_length: tokens of prompt and answer together; by default the sequence length in training.
        mc_num: Monte Carlo samples per answer (the name is LLaDA's).
        strategy, steps, block_length: of generate_until (see `SamplerConfig`); by default one step per token, and for a
            model of blocks its default block length.
        seed: of masks and samples.

    Raises ValueError for a count out of range and for a device that this machine does not have.
    """

    def __init__(
        self,
        pretrained: Any = "tales-diffuapriel",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        max_length: int | None = None,
        mc_num: int = 128,
        strategy: str = "low_confidence",
        steps: int | None = None,
        block_length: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._device = resolve_device(device)
        length, self.fills_windows = 1024, False
        if isinstance(pretrained, str):
            info = inspect_checkpoint(pretrained)
            length = info.length or info.config.context_length
            self.fills_windows = info.corpus.partition(":")[0] == "tales"
            pretrained = load_checkpoint(pretrained, device=self._device)
        self.denoiser, self.tokenizer = pretrained
        self.max_length = length if max_length is None else max_length
        self.mc_num, self.strategy, self.steps, self.seed = mc_num, strategy, steps, seed
        known = getattr(getattr(self.denoiser, "config", None), "block_lengths", ())
        self.blocks: dict[str, Any] = {}
        if known or block_length is not None:
            self.blocks = resolve_blocks(strategy, block_length, known=known)
            self.blocks["stop_at_eos"] = self.blocks["block_length"] is not None
        for name, value, least in (("max_length", self.max_length, 2), ("mc_num", mc_num, 1)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; it must be a whole number, {least} or more")
        tokens = min(BATCH_TOKENS, BATCH_LOGITS // self.tokenizer.vocab_size)
        size = max(1, tokens // self.max_length) if batch_size == "auto" else batch_size
        self.batch_size = int(size) if str(size).isdecimal() else 0  # the command line passes text
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}; it must be a whole number, 1 or more, or 'auto'")
        self._sampler(1, {})  # refuse a wrong strategy, number of steps or seed now, not after an hour

    @property
    def eot_token_id(self) -> int:
        """<|endoftext|>, the context of a text without a prompt."""
        return self.tokenizer.eos_id

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache of requests."""
        return self.tokenizer.name

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text; this tokenizer adds no specials."""
        return self.tokenizer.encode(string)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, greedy) of every (texts, prompt ids, answer ids)."""
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        pairs = [(prompt, answer) for _, prompt, answer in requests]
        self._warn_of_cuts([len(prompt) + len(answer) for prompt, answer in pairs])
        for number, scores in self._score(pairs, disable_tqdm, greedy=True):
            found[number] = -sum(s.nats for s in scores), all(s.greedy for s in scores)
            self.cache_hook.add_partial("loglikelihood", requests[number][0], found[number])
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Minus the NELBO of every text, in nats."""
        texts = [request.args[0] for request in requests]
        pairs = [self._as_in_training(self.tok_encode(text)) for text in texts]
        found = [0.0] * len(requests)
        for number, scores in self._score(pairs, disable_tqdm, greedy=False):
            found[number] = -sum(s.nats for s in scores)
            self.cache_hook.add_partial("loglikelihood_rolling", (texts[number],), found[number])
        return found

    def _as_in_training(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """The context and the tokens to score of a whole text."""
        if self.fills_windows and ids:
            return [], fill_window(ids, self.max_length, self.tokenizer.eos_id)
        return [self.prefix_token_id], ids

    def _score(
        self, pairs: Sequence[tuple[list[int], list[int]]], quiet: bool, greedy: bool
    ) -> Iterator[tuple[int, list[AnswerScore]]]:
        """(number of the pair, scores of its windows) as pairs are done; one without an answer never is."""
        cut = [(number, w) for number, pair in enumerate(pairs) for w in rolling_windows(*pair, self.max_length)]
        pending = Counter(number for number, _ in cut)
        scores: list[list[AnswerScore]] = [[] for _ in pairs]
        scored = score_answers(
            self.denoiser,
            [window for _, window in cut],
            self.tokenizer.mask_id,
            num_mc_samples=self.mc_num,
            batch_size=self.batch_size,
            greedy=greedy,
            seed=self.seed,
            device=self._device,
        )
        for window, score in tqdm(scored, "diffuapriel", len(cut), disable=quiet, unit="window"):
            number = cut[window][0]
            scores[number].append(score)
            if len(scores[number]) == pending[number]:
                yield number, scores[number]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the sampler writes after every prompt, up to the first stop string or <|endoftext|>.

        A prompt that leaves less than `max_gen_toks` of the context loses its beginning. Without `max_gen_toks`, one
        that leaves nothing loses enough for a quarter of the context. Raises ValueError for a `max_gen_toks` below 1.
        """
        found = [""] * len(requests)
        groups: dict[tuple[int, SamplerConfig], list[tuple[int, Canvas]]] = {}
        arguments: list[Any] = [request.args for request in requests]
        options = [dict[str, Any](normalize_gen_kwargs(wanted, default_max_gen_toks=0)) for _, wanted in arguments]
        needed = []
        for number, (prompt, _) in enumerate(arguments):
            canvas, config = self._canvas(prompt, options[number])
            groups.setdefault((len(canvas), config), []).append((number, canvas))
            needed.append(len(self.tok_encode(prompt)) + int(canvas.masked.sum()))
        self._warn_of_cuts(needed)
        if (most := max((wanted["max_gen_toks"] for wanted in options), default=0)) >= self.max_length:
            log.warning(
                f"max_gen_toks is {most}, but prompt and answer share {self.max_length} tokens (max_length): "
                "an answer gets what its prompt leaves"
            )
        with tqdm(total=len(requests), desc="diffuapriel", disable=disable_tqdm, unit="text") as bar:
            for (_, config), members in sorted(groups.items(), key=lambda group: -group[0][0]):
                sampler = Sampler(config, get_schedule("log-linear"), self.tokenizer.mask_id)
                for first in range(0, len(members), self.batch_size):
                    numbers, canvases = zip(*members[first : first + self.batch_size])
                    denoiser = denoiser_for(self.denoiser, config)
                    drawn = generate(sampler, denoiser, list(canvases), first_row=first)
                    for number, canvas, ids in zip(numbers, canvases, drawn.tolist()):
                        found[number] = self._text(ids, canvas, options[number])
                        self.cache_hook.add_partial("generate_until", arguments[number], found[number])
                    bar.update(len(numbers))
        return found

    def _canvas(self, prompt: str, options: dict[str, Any]) -> tuple[Canvas, SamplerConfig]:
        """A canvas, the end of the prompt followed by masks, and the sampler's options for it.

        options: max_gen_toks is 0 where the task does not give it.
        """
        tokens = options["max_gen_toks"]
        if tokens < 0:
            raise ValueError(f"max_gen_toks is {tokens}; it must be 1 or more: --gen_kwargs max_gen_toks=32")
        given = self.tok_encode(prompt) or [self.prefix_token_id]
        left = self.max_length - len(given)
        if not 0 < tokens < self.max_length:
            tokens = min(tokens or MAX_NEW, left if left > 0 else max(1, self.max_length // 4))
        kept = given[-(self.max_length - tokens) :]
        ids = torch.tensor([*kept, *[self.tokenizer.mask_id] * tokens], device=self._device)
        canvas = Canvas(ids, ids != self.tokenizer.mask_id, self.tokenizer.mask_id)
        sampling = {name: options[name] for name in SAMPLING if options.get(name) not in UNSET}
        sampling["temperature"] = options.get("temperature", 1.0 if options["do_sample"] else 0.0)
        return canvas, self._sampler(tokens, sampling)

    def _warn_of_cuts(self, needed: Sequence[int]) -> None:
        """Say how many prompts are cut, given the tokens of each prompt and its answer."""
        if cut := [tokens for tokens in needed if tokens > self.max_length]:
            log.warning(
                f"{len(cut)} of {len(needed)} prompts lose their beginning: prompt and answer share "
                f"{self.max_length} tokens (max_length), and the longest would need {max(cut)}"
            )

    def _sampler(self, tokens: int, sampling: dict[str, Any]) -> SamplerConfig:
        how = {**self.blocks, **sampling}
        return SamplerConfig(strategy=self.strategy, steps=self.steps or tokens, seed=self.seed, **how)

    def _text(self, ids: list[int], canvas: Canvas, options: dict[str, Any]) -> str:
        """What was written, without what the stops cut off."""
        written = self.tokenizer.decode(ids[int(canvas.fixed.sum()) :])
        return postprocess_generated_text(written, handle_stop_sequences(options["until"], EOS), None)
