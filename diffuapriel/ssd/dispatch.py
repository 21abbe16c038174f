"""One interface to the scan, and the choice of who computes it.

    y = ssd(x, dt, A, B, C, D)

`backend="auto"` takes the fastest that can run the call; the environment variable DIFFUAPRIEL_SSD or the
argument forces one. Every backend is held to `recurrent`, forward and gradient, in the tests.

    recurrent   the recurrence, any dtype; the oracle
    chunked     pure PyTorch, batched matrix products, forward and backward; any device
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from diffuapriel.ssd import chunked, recurrent

BACKENDS = {"recurrent": recurrent.scan, "chunked": chunked.scan}


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The Mamba-2 scan `h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T`, `y_t = h_t C_t + D x_t` (arXiv:2405.21060).

    x (batch, length, heads, headdim); dt (batch, length, heads), positive step sizes; A (heads,), negative;
    B and C (batch, length, groups, state), each group shared by heads // groups neighboring heads; D (heads,);
    initial_state (batch, heads, headdim, state), zero when left out. With `reverse` the scan runs from the last
    token to the first, and the initial state stands after the last token.
    Returns y, shaped as x; with `return_final_state` also the state the scan ends in.
    Raises ValueError for shapes that do not fit and for a backend that is unknown.
    """
    initial = None if initial_state is None else initial_state[:, None]
    D = None if D is None else D[None]
    y, state = _scan(
        x[:, :, None], dt[:, :, None], A[None], B[:, :, None], C[:, :, None], D, initial, (reverse,), backend
    )
    return (y[:, :, 0], state[:, 0]) if return_final_state else y[:, :, 0]


def ssd_bidirectional(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Two independent scans in one call: direction 0 runs forward, direction 1 in reverse; nothing is flipped.

    Shapes as in `ssd` with an axis of two directions: x (batch, length, 2, heads, headdim), dt (batch, length, 2,
    heads), A and D (2, heads), B and C (batch, length, 2, groups, state), states (batch, 2, heads, headdim, state).
    Equal to stacking `ssd(... direction 0)` and `ssd(... direction 1, reverse=True)`.
    """
    y, state = _scan(x, dt, A, B, C, D, initial_state, (False, True), backend)
    return (y, state) if return_final_state else y


def choose_backend(backend: str = "auto") -> str:
    """The name of the backend a call would take. Raises ValueError for an unknown name."""
    name = os.environ.get("DIFFUAPRIEL_SSD", "auto") if backend == "auto" else backend
    if name == "auto":
        return "chunked"
    if name not in BACKENDS:
        raise ValueError(f"SSD backend is {name!r}; permitted: auto, {', '.join(BACKENDS)}")
    return name


def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    reverse: tuple[bool, ...],
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The call of a backend, every tensor with its axis of directions."""
    name = choose_backend(backend)
    _check_shapes(x, dt, A, B, C, D, initial_state)
    batch, _, directions, heads, headdim = x.shape
    if D is None:
        D = torch.zeros_like(A)
    if initial_state is None:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        initial_state = x.new_zeros((batch, directions, heads, headdim, B.shape[-1]), dtype=dtype)
    return BACKENDS[name](x, dt, A, B, C, D, initial_state, reverse)


def _check_shapes(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, initial_state: Tensor | None
) -> None:
    if x.ndim != 5 or x.shape[1] == 0:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; it must be (batch, length, heads, headdim), length 1 or more"
        )
    batch, length, directions, heads, headdim = x.shape
    if B.ndim != 5 or B.shape[3] == 0 or heads % B.shape[3]:
        raise ValueError(
            f"B has shape {tuple(B.shape)}; it must have groups that divide the {heads} heads, and a state"
        )
    groups, state = B.shape[3:]
    expected = {
        "dt": (dt, (batch, length, directions, heads)),
        "A": (A, (directions, heads)),
        "B": (B, (batch, length, directions, groups, state)),
        "C": (C, (batch, length, directions, groups, state)),
        "D": (D, (directions, heads)),
        "initial_state": (initial_state, (batch, directions, heads, headdim, state)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; beside x {tuple(x.shape)} it must be {shape}"
            )
