"""The options of a sampler, checked on construction. Imports no PyTorch.

Two groups: which positions are filled, and when (`strategy` to `alpha_on`); and how a token is drawn at a selected
position (`temperature`, `top_k`, `top_p`, `repetition_penalty`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffuapriel.options import check_fields, option

STRATEGIES = (
    "ancestral",
    "low_confidence",
    "entropy",
    "margin",
    "random",
    "threshold",
    "factor",
    "entropy_bound",
    "remdm",
    "remdm_rescale",
    "remdm_conf",
    "remdm_loop",
    "first_hitting",
)
REMDM = ("remdm", "remdm_rescale", "remdm_conf", "remdm_loop")  # may return tokens to [MASK]
ON_SCHEDULE = ("ancestral", *REMDM)  # time is the schedule's, not the masked share
ADAPTIVE = ("threshold", "factor", "entropy_bound")  # reveal all that is certain enough, by the option of their name
DRAFT_BEHIND = ("text", "tokens")
SPECULATIVE = "speculative"  # of models of blocks only: not a choice of positions by one set of logits (speculative.py)
ALL_STRATEGIES = (*STRATEGIES, SPECULATIVE)
FREE_OF_STEPS = (*ADAPTIVE, "first_hitting", SPECULATIVE)  # choose their own number of denoiser calls
BY_CONFIDENCE = ("low_confidence", "threshold", "factor")  # compare what `confidence` says
RENAMED_STRATEGIES = {"confidence": "low_confidence", "remask": "remdm"}  # older spellings, still accepted

# The strategies that are usually run in blocks. At once over the whole canvas, they write fragments far apart that
# often leave gaps no text fits.
BLOCKWISE = ("low_confidence", "entropy", "margin", "random", *ADAPTIVE)
DEFAULT_BLOCK_LENGTH = 16
TEXT_TEMPERATURE = 0.7  # proposed for any text but tales: at 1 the sentences of small models fall apart
BLOCK_STARTS = ("prompt", "zero")
CONFIDENCES = ("top", "drawn")
BLOCK_LENGTH_HELP = (
    "fill blocks of N tokens from left to right, 0: all at once; default: 16 for low_confidence and models of blocks, "
    "else 0"
)

MAX_STEPS = 65_536
MAX_DRAFTS = 64
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class SamplerConfig:
    """How a canvas is filled.

    The strategies are described in strategies.py. `threshold`, `factor` and `entropy_bound` make as many denoiser calls
    as they need and `first_hitting` exactly one per masked position; they ignore `steps`. Same seed, same options and
    same denoiser give the same trace.

    `block_length` is LLaDA's semi-autoregressive remasking (arXiv:2502.09992). A block is full before the next one
    begins, and no step crosses a border, so each block needs a step at least: with fewer steps than blocks there is
    one step per block. The first block begins at the end of the prompt, the leading fixed positions (`block_start`
    "prompt", as in LLaDA), or at position 0 ("zero"). The strategies on the schedule run once over it in each block,
    in the block's share of the steps. With `stop_at_eos`, the text ends with the first <|endoftext|> of a full block:
    all that follows becomes <|endoftext|>, too, without a denoiser call, unless text is given there.

    `confidence` is what `low_confidence`, `threshold` and `factor` compare: the probability of the most probable token
    ("top"), or of the token drawn there ("drawn"), as in generate.py of LLaDA and Fast-dLLM, which draw a token at
    every masked position first. Both are the denoiser's, before temperature and filters. At temperature 0 they are the
    same. Above it, "drawn" favors positions whose draw happened to be probable, which lowers the effective temperature.

    `remask_below` mends what was revealed too early: when a block (or the canvas) is full, its tokens that had a lower
    probability when they were revealed return to [MASK], each at most once, and are filled again, now with the rest of
    the block in sight. Tokens of the pass that filled it stay, or follow in the next round. All passes count. Only
    `threshold`, `factor` and `entropy_bound` do so.

    `speculative` is for models of blocks. Its `block_length` is that of its drafts; the text is that of blocks of one
    token, in fewer passes (speculative.py). With `draft_behind` "tokens" the passes are longer and fewer still. With
    `drafts` above 1 each verifies several, as rows of a batch.

    `alg_temp` is Dream's (arXiv:2508.15487): above 0, `low_confidence`, `entropy` and `margin` draw the positions
    without replacement, in proportion to exp(score / alg_temp), instead of taking the best.

    Raises ValueError for a value out of range and TypeError for a wrong type, naming the option, the value and what is
    permitted.
    """

    strategy: str = option(
        "low_confidence",
        choices=ALL_STRATEGIES,
        renamed=RENAMED_STRATEGIES,
        help="which masked positions are filled at each step",
    )
    steps: int = option(32, least=1, most=MAX_STEPS, help="maximum number of denoiser calls")
    block_length: int | None = option(
        None, least=1, most=MAX_STEPS, help="fill blocks of N tokens from left to right; none: all at once"
    )
    block_start: str = option(
        "prompt",
        choices=BLOCK_STARTS,
        help="where the first block begins: at the end of the leading given tokens, or at position zero",
    )
    stop_at_eos: bool = option(False, help="with blocks: end the text with its first <|endoftext|>")
    temperature: float = option(1.0, least=0, most=100, help="0 takes the most probable token")
    top_k: int | None = option(None, least=1, help="draw from the N most probable tokens only")
    top_p: float | None = option(
        None, least=0, most=1, above=True, help="draw from the smallest set of tokens with this probability"
    )
    repetition_penalty: float = option(
        1.0, least=0.1, most=10, help="above 1: tokens already on the canvas become less probable"
    )
    confidence: str = option(
        "top",
        choices=CONFIDENCES,
        help="low_confidence, threshold, factor: compare the probability of the best token, or of the one drawn",
    )
    alg_temp: float = option(
        0.0, least=0, most=100, help="low_confidence, entropy, margin: above 0, draw positions by softmax(score / X)"
    )
    threshold: float = option(0.9, least=0, most=1, help="threshold: reveal every position at least this confident")
    factor: float = option(
        1.0, least=0, most=100, help="factor: reveal the n surest positions while (n + 1) (1 - confidence) is below X"
    )
    entropy_bound: float = option(
        0.1,
        least=0,
        most=100,
        help="entropy_bound: reveal while the sum of entropies but the largest, in nats, is up to X",
    )
    remask_below: float = option(
        0.0,
        least=0,
        most=1,
        help="threshold, factor, entropy_bound: mask tokens less probable than X once again when their block is full",
    )
    remask_cap: float = option(
        0.04, least=0, most=1, help="remdm, remdm_loop: maximum probability per step of returning a token to [MASK]"
    )
    remask_rescale: float = option(
        0.015, least=0, most=1, help="remdm_rescale: this share of the largest probability that the schedule permits"
    )
    t_on: float = option(0.55, least=0, most=1, help="remdm_loop: share of the steps left when the loop begins")
    t_off: float = option(0.05, least=0, most=1, help="remdm_loop: share of the steps left when the loop ends")
    alpha_on: float = option(0.9, least=0.001, most=0.999, help="remdm_loop: share of revealed tokens in the loop")
    draft_behind: str = option(
        "text",
        choices=DRAFT_BEHIND,
        help="speculative: draft a block behind the finished text, or one behind each token of the draft as well",
    )
    drafts: int = option(1, least=1, most=MAX_DRAFTS, help="speculative: verify N drafts side by side in each pass")
    seed: int = option(0, least=0, most=MAX_SEED, help="same seed, same text")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.stop_at_eos and self.block_length is None:
            raise ValueError("stop_at_eos is True, but without block_length the whole canvas is filled; give both")
        if self.strategy == SPECULATIVE and self.block_length is None:
            raise ValueError("speculative drafts blocks; give their block_length")
        if self.strategy == SPECULATIVE and self.repetition_penalty != 1:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}; with speculative it must be 1")
        if self.strategy == "remdm_loop" and self.t_off > self.t_on:
            raise ValueError(f"t_off is {self.t_off}; it must be a number from 0 to {self.t_on}, which is t_on")

    @property
    def draws_first(self) -> bool:
        """Whether a token is drawn at every masked position before the strategy selects positions."""
        return self.confidence == "drawn" and self.strategy in BY_CONFIDENCE

    @property
    def mends(self) -> bool:
        """Whether tokens of a full block may return to [MASK]."""
        return self.remask_below > 0 and self.strategy in ADAPTIVE

    def max_calls(self, masked: int, length: int | None = None) -> int:
        """The maximum number of denoiser calls for `masked` positions: the end of a progress bar.

        length: of the canvas; by default `masked`. It matters with blocks only, as each takes a call.
        """
        if self.strategy in FREE_OF_STEPS:
            return masked * (2 if self.mends else 1)
        blocks = -(-(length or masked) // self.block_length) if self.block_length else 1
        calls = max(self.steps, blocks)
        if self.strategy in ON_SCHEDULE:
            return calls if masked else 0
        return min(calls, masked)


def resolve_blocks(
    strategy: str, block_length: int | None, block_start: str = "prompt", known: tuple[int, ...] = ()
) -> dict[str, Any]:
    """The `block_length` and `block_start` of `SamplerConfig` from what a user gives.

    block_length: None is the default, 0 all at once. known: `ModelConfig.block_lengths`; a model of blocks fills those
    that it was trained for, from position 0. Raises ValueError for another one; `speculative` drafts blocks of any
    length, as they do not change the text, with a model that was also trained for blocks of one token.
    """
    if strategy == SPECULATIVE:
        if 1 not in known:
            trained = f"was trained for {_lengths(known)}" if known else "is not a model of blocks"
            raise ValueError(f"speculative verifies in blocks of one token; this model {trained}")
        return {"block_length": DEFAULT_BLOCK_LENGTH if block_length is None else block_length, "block_start": "zero"}
    if known:
        if block_length is None:
            block_length = DEFAULT_BLOCK_LENGTH if DEFAULT_BLOCK_LENGTH in known else max(known)
        if block_length not in known:
            raise ValueError(f"block_length is {block_length}; this model was trained for {_lengths(known)}")
        return {"block_length": block_length or None, "block_start": "zero"}
    if block_length is None and RENAMED_STRATEGIES.get(strategy, strategy) == "low_confidence":
        block_length = DEFAULT_BLOCK_LENGTH
    return {"block_length": block_length or None, "block_start": block_start}


def _lengths(known: tuple[int, ...]) -> str:
    return ", ".join(str(n) if n else "0 (the whole canvas)" for n in known)


def resolve_options(
    given: Mapping[str, Any], known: tuple[int, ...] = (), generation: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The options of `SamplerConfig` from what a user gives, where None means the default.

    generation: the rule that a checkpoint records (`CheckpointInfo.generation`). It is the default, with its value and
    block length, unless the user names another strategy. Its `stop_at_eos` does not hold for the whole canvas as one
    block. known: as for `resolve_blocks`, which this calls.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    named, rule = asked.get("strategy"), dict(generation or {})
    if named is not None and RENAMED_STRATEGIES.get(named, named) != rule.get("strategy"):
        rule = {}
    options = {"strategy": SamplerConfig.strategy, **rule, **asked}
    block_length, block_start = options.pop("block_length", None), options.pop("block_start", SamplerConfig.block_start)
    options |= resolve_blocks(options["strategy"], block_length, block_start, known)
    if options["block_length"] is None and "stop_at_eos" not in asked:
        options.pop("stop_at_eos", None)
    return options


def describe_sampling(
    strategy: str, steps: int, temperature: float, top_p: float | None = None, block_length: int | None = None
) -> str:
    """How texts were sampled, in one line."""
    blocks = "" if block_length is None else f", blocks of {block_length}"
    narrowed = "" if top_p is None else f", top-p {top_p:g}"
    return f"{strategy}{blocks}, {steps} steps, temperature {temperature:g}{narrowed}"
