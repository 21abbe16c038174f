"""The options of a sampler, checked when they are made.

Two groups: what a strategy does with the canvas (`strategy`, `steps`, `block_length`, `threshold`, `remask_cap`), and
how a token is drawn once its position is chosen (`temperature`, `top_k`, `top_p`, `repetition_penalty`).
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

STRATEGIES = (
    "ancestral",
    "confidence",
    "entropy",
    "margin",
    "random",
    "threshold",
    "remask",
    "first_hitting",
)

BY_BLOCKS = ("confidence", "entropy", "margin", "random", "threshold")  # these can take block after block
BLOCK = 16  # where nothing else is asked for: what is written far apart at once often leaves gaps

MAX_STEPS = 65_536
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class SamplerConfig:
    """How a canvas is filled.

    Attributes:
        strategy: one of STRATEGIES; what each does stands in strategies.py.
        steps: denoiser calls at most, 1 to 65,536. `threshold` takes as many as it needs and `first_hitting`
            exactly one per hole; both ignore it.
        block_length: for the strategies BY_BLOCKS: fill blocks of so many positions (1 to 65,536) from left to right,
            one after the other (LLaDA's semi-autoregressive remasking, arXiv:2502.09992); None: all is one block.
            What is written here and there at once may leave gaps that nothing fits; block by block it seldom does.
        temperature: 0 to 100; 0 takes the most probable token.
        top_k: keep the k most probable tokens (1 or more), or None for all.
        top_p: keep the smallest set of tokens with this much probability, in (0, 1], or None for all.
        repetition_penalty: 0.1 to 10; above 1 makes tokens already on the canvas less probable.
        threshold: for `threshold`: reveal all positions at least so confident, 0 to 1.
        remask_cap: for `remask`: largest probability of returning a token to [MASK] in one step, 0 to 1.
        seed: 0 to 2^63 - 1. Same seed, same options, same denoiser: same trace.

    Raises ValueError (TypeError for a wrong type) that names the option, its value and the permitted range.
    """

    strategy: str = "confidence"
    steps: int = 32
    block_length: int | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    threshold: float = 0.9
    remask_cap: float = 0.04
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.strategy, str) or self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is {self.strategy!r}; permitted: {', '.join(STRATEGIES)}")
        self._whole("steps", 1, MAX_STEPS)
        self._whole("seed", 0, MAX_SEED)
        self._number("temperature", 0.0, 100.0)
        self._number("repetition_penalty", 0.1, 10.0)
        self._number("threshold", 0.0, 1.0)
        self._number("remask_cap", 0.0, 1.0)
        if self.top_k is not None:
            self._whole("top_k", 1, None)
        if self.block_length is not None:
            self._whole("block_length", 1, MAX_STEPS)
            if self.strategy not in BY_BLOCKS:
                raise ValueError(
                    f"block_length is {self.block_length}, but {self.strategy!r} chooses places regardless of blocks; "
                    f"permitted: None, or one of the strategies {', '.join(BY_BLOCKS)}"
                )
        if self.top_p is not None:
            self._number("top_p", 0.0, 1.0, open_below=True)

    def max_calls(self, masks: int) -> int:
        """The most denoiser calls that filling `masks` holes can take: the end of a progress bar."""
        if self.strategy in ("ancestral", "remask"):
            return self.steps if masks else 0
        if self.strategy in ("threshold", "first_hitting"):
            return masks
        return min(self.steps, masks)

    def _whole(self, name: str, low: int, high: int | None) -> None:
        value: Any = getattr(self, name)
        permitted = f"{low} or more" if high is None else f"{low} to {high:,}"
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} is {value!r}; it must be a whole number, {permitted}")
        number = int(value)  # a NumPy integer becomes a Python one: it goes into JSON
        if number < low or (high is not None and number > high):
            raise ValueError(f"{name} is {_short(number)}; permitted: {permitted}")
        object.__setattr__(self, name, number)

    def _number(self, name: str, low: float, high: float, *, open_below: bool = False) -> None:
        value: Any = getattr(self, name)
        permitted = f"above {low:g} and up to {high:g}" if open_below else f"{low:g} to {high:g}"
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} is {value!r}; it must be a number, {permitted}")
        try:
            number = float(value)
        except OverflowError:
            raise ValueError(f"{name} is beyond any floating-point number; permitted: {permitted}") from None
        # Written so that NaN fails every comparison and is refused.
        if not low <= number <= high or (open_below and number == low):
            raise ValueError(f"{name} is {number}; permitted: {permitted}")
        object.__setattr__(self, name, number)


def _short(value: int) -> str:
    """The value for a message; str() itself refuses a number of thousands of digits."""
    return str(value) if abs(value) < 10**20 else f"a number of {value.bit_length()} bits"
