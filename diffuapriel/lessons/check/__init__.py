"""The checkers of the exercises, one module per lesson; each runs cases that the reader has not seen.

from diffuapriel.lessons import check
check.mask_exactly(my_function)       "Right.", or a hint, never the solution
"""

from diffuapriel.lessons.check import (
    denoising,
    learning,
    likelihood,
    masking,
    own_text,
    scanning,
    speed,
    start,
    unmasking,
)
from diffuapriel.lessons.check.advanced import baseline, blocks, kernels, recall, verifier
from diffuapriel.lessons.check.advanced.baseline import *  # noqa: F403
from diffuapriel.lessons.check.advanced.blocks import *  # noqa: F403
from diffuapriel.lessons.check.advanced.kernels import *  # noqa: F403
from diffuapriel.lessons.check.advanced.recall import *  # noqa: F403
from diffuapriel.lessons.check.advanced.verifier import *  # noqa: F403
from diffuapriel.lessons.check.denoising import *  # noqa: F403
from diffuapriel.lessons.check.learning import *  # noqa: F403
from diffuapriel.lessons.check.likelihood import *  # noqa: F403
from diffuapriel.lessons.check.masking import *  # noqa: F403
from diffuapriel.lessons.check.own_text import *  # noqa: F403
from diffuapriel.lessons.check.scanning import *  # noqa: F403
from diffuapriel.lessons.check.speed import *  # noqa: F403
from diffuapriel.lessons.check.start import *  # noqa: F403
from diffuapriel.lessons.check.unmasking import *  # noqa: F403

MODULES = (
    start,
    masking,
    scanning,
    denoising,
    learning,
    unmasking,
    speed,
    likelihood,
    own_text,
    blocks,
    baseline,
    recall,
    kernels,
    verifier,
)
__all__ = [name for module in MODULES for name in module.__all__]  # pyright: ignore[reportUnsupportedDunderAll]
