"""The random numbers of a step: two float64 uniforms for every position.

One decides *where and when* something happens, the other *which token* is drawn there. They are a pure
function of (seed, row, step): a counter-based generator (Philox, Salmon et al. 2011) is asked for exactly
that block. So a sample does not depend on the other rows of its batch, and a run that is stopped at any
step, or branched from it, goes on with the numbers it would have had.

Float64 matters: Gumbel noise or uniforms in float32 cannot reach the rare end of a distribution, which
lowers the effective temperature and flatters generative perplexity (Zheng et al., arXiv:2409.02908).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Noise:
    """`uniforms` (batch, 2, length) float64 in [0, 1). Raises ValueError for another shape, dtype or value."""

    uniforms: NDArray[np.float64]

    def __post_init__(self) -> None:
        u = self.uniforms
        if u.ndim != 3 or u.shape[1] != 2 or u.dtype != np.float64:
            raise ValueError(
                f"noise: shape {u.shape}, dtype {u.dtype}; it must be (batch, 2, length) and float64"
            )
        if not ((u >= 0) & (u < 1)).all():  # NaN fails too
            raise ValueError(
                f"noise: values from {u.min()} to {u.max()}; permitted: 0 up to, not including, 1"
            )

    @property
    def where(self) -> NDArray[np.float64]:
        """(batch, length): for the choice of positions and times."""
        return self.uniforms[:, 0]

    @property
    def token(self) -> NDArray[np.float64]:
        """(batch, length): for the token at a chosen position."""
        return self.uniforms[:, 1]

    @classmethod
    def draw(cls, seed: int, first_row: int, rows: int, step: int, length: int) -> Noise:
        """The numbers of `step` for rows first_row ... first_row + rows - 1 of the run with this seed."""
        uniforms = np.empty((rows, 2, length))
        # The key names the stream; the step sits in the counter's highest word, so blocks never overlap.
        counter = np.array([0, 0, 0, step], dtype=np.uint64)
        for i in range(rows):
            philox = np.random.Philox(key=np.array([seed, first_row + i], dtype=np.uint64), counter=counter)
            np.random.Generator(philox).random(out=uniforms[i])
        return cls(uniforms)
