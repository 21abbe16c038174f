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
    y, state = _scan(x, dt, A, B, C, D, initial_state, (reverse,), backend)
    return (y, state) if return_final_state else y


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
    """Two independent scans in one call: the first half of heads and groups runs forward, the second in reverse.

    Shapes as in `ssd`, with 2 x heads and 2 x groups. Equal to concatenating, over the heads,
    `ssd(first half)` and `ssd(second half, reverse=True)`; nothing is flipped.
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
    _check_shapes(x, dt, A, B, C, D, initial_state, directions=len(reverse))
    k = len(reverse)
    batch, length, heads, headdim = x.shape
    if initial_state is None:
        state_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        initial_state = x.new_zeros((batch, heads, headdim, B.shape[-1]), dtype=state_dtype)
    y, state = BACKENDS[choose_backend(backend)](
        x.unflatten(2, (k, -1)),  # (batch, length, directions, heads, headdim)
        dt.unflatten(2, (k, -1)),
        A.unflatten(0, (k, -1)),
        B.unflatten(2, (k, -1)),
        C.unflatten(2, (k, -1)),
        initial_state.unflatten(1, (k, -1)),
        reverse,
    )
    y = y.flatten(2, 3)
    return (y if D is None else y + D.to(y.dtype)[:, None] * x), state.flatten(1, 2)


def _check_shapes(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    directions: int,
) -> None:
    if x.ndim != 4 or x.shape[1] == 0:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; it must be (batch, length, heads, headdim), length 1 or more"
        )
    batch, length, heads, headdim = x.shape
    if B.ndim != 4 or B.shape[2] % directions or heads % max(B.shape[2], 1) or heads % directions:
        raise ValueError(
            f"B has shape {tuple(B.shape)}; it must be (batch, length, groups, state) with groups dividing {heads} heads"
            + (", both even" if directions == 2 else "")
        )
    groups, state = B.shape[2:]
    expected = {
        "dt": (dt, (batch, length, heads)),
        "A": (A, (heads,)),
        "B": (B, (batch, length, groups, state)),
        "C": (C, (batch, length, groups, state)),
        "D": (D, (heads,)),
        "initial_state": (initial_state, (batch, heads, headdim, state)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; beside x {tuple(x.shape)} it must be {shape}"
            )
