"""One interface to the Mamba-2 scan ("state-space duality", arXiv:2405.21060), and the choice of its backend.

    y = ssd(x, dt, A, B, C, D)

    recurrent   the recurrence, any dtype; the oracle that the tests compare every backend with, gradients included
    chunked     plain PyTorch, batched matrix products; any device
    minimal     matrix products alone, without a loop or a branch: for export to ONNX
    mamba_ssm   the kernels of the library of that name; NVIDIA
    triton      our own kernels, both directions in one launch; NVIDIA

`backend="auto"` takes the fastest backend that can run the call. The argument, or the environment variable
DIFFUAPRIEL_SSD, forces one.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffuapriel.ops import chunked, minimal, recurrent
from diffuapriel.ops.document_ids import check_document_ids, number_runs
from diffuapriel.ops.recurrent import ScanInputs
from diffuapriel.ops.triton import launch

log = logging.getLogger(__name__)


def _mamba_ssm(*call: Any, **options: Any) -> Any:
    # Imports torch's compiler: one second that few machines need to pay.
    from diffuapriel.ops import mamba_ssm

    return mamba_ssm.scan(*call, **options)


def _triton(*call: Any) -> tuple[Tensor, Tensor]:
    from diffuapriel.ops.triton import autograd  # imports Triton

    return autograd.scan(*call)


BACKENDS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "recurrent": recurrent.scan,
    "chunked": chunked.scan,
    "minimal": minimal.scan,
    "mamba_ssm": _mamba_ssm,
    "triton": _triton,
}
RENAMED_BACKENDS = {"official": "mamba_ssm"}  # old name -> name; still accepted
ON_CUDA = ("triton", "mamba_ssm", "chunked")  # fastest first


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
    document_ids: Tensor | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The Mamba-2 scan `h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T`, `y_t = h_t C_t + D x_t` (arXiv:2405.21060).

    Args:
        x: (batch, length, heads, headdim).
        dt: (batch, length, heads), positive step sizes.
        A: (heads,), negative decay rates.
        B, C: (batch, length, groups, state); each group serves heads // groups neighboring heads.
        D: (heads,); zero by default.
        initial_state: (batch, heads, headdim, state); zero by default. With `reverse` it is the state after the last
            token.
        reverse: scan from the last token to the first.
        document_ids: (batch, length) int64, for rows that hold several documents: the state is reset to zero at the
            start of each document. Only the first document in scan order starts from the initial state.
        backend: a key of `BACKENDS`, or "auto" (see `choose_backend`).

    Returns y, shaped as x; with `return_final_state` also the final state, shaped as the initial one.
    Raises ValueError for shapes that do not fit and for an unknown backend.
    """
    x, dt, B, C = (v[:, :, None] for v in (x, dt, B, C))  # an axis of one direction
    D = None if D is None else D[None]
    initial_state = None if initial_state is None else initial_state[:, None]
    y, state = _scan((x, dt, A[None], B, C, D, initial_state), (reverse,), backend, document_ids)
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
    document_ids: Tensor | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Two independent scans in one call: direction 0 runs forward, direction 1 in reverse. Nothing is flipped.

    Arguments as in `ssd`, with an axis of two directions: x (batch, length, 2, heads, headdim), dt (batch, length, 2,
    heads), A and D (2, heads), B and C (batch, length, 2, groups, state), states (batch, 2, heads, headdim, state).
    Both directions share document_ids (batch, length).
    Equal to stacking `ssd(... direction 0)` and `ssd(... direction 1, reverse=True)`.
    """
    y, state = _scan((x, dt, A, B, C, D, initial_state), (False, True), backend, document_ids)
    return (y, state) if return_final_state else y


def choose_backend(backend: str, x: Tensor, headdim: int, state: int, *, packed: bool = False) -> str:
    """The name of the backend that runs a scan of tensors with the device and dtype of `x`.

    "auto" defers to DIFFUAPRIEL_SSD. If that is unset or "auto" too, it is the fastest backend that can run on CUDA,
    and `chunked` elsewhere; on CUDA a log line says which faster backends are unavailable, and why.
    `packed`: rows hold several documents (`document_ids`), which not every backend supports.
    Raises ValueError for an unknown name, and for a named backend that cannot run here, with the reason and the fix.
    """
    name = (os.environ.get("DIFFUAPRIEL_SSD") or "auto") if backend == "auto" else backend
    name = RENAMED_BACKENDS.get(name, name)
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"SSD backend is {name!r}; permitted: auto, {', '.join(BACKENDS)}")
    if name in ("recurrent", "chunked", "minimal"):
        return name
    if name == "auto" and (x.device.type != "cuda" or x.dtype == torch.float64):
        return "chunked"
    return _resolve(name, x.device, x.dtype, headdim, state, packed)


def unsupported_reason(name: str, x: Tensor, headdim: int, state: int, *, packed: bool = False) -> str | None:
    """None when backend `name` can run a scan of tensors like `x`; else one line: the reason, and the fix."""
    name = RENAMED_BACKENDS.get(name, name)
    if name == "mamba_ssm":
        from diffuapriel.ops import mamba_ssm

        return mamba_ssm.unsupported_reason(x)
    if name == "triton" and packed:
        return "its kernels do not support packed documents (document_ids); mamba_ssm and chunked do"
    return launch.unsupported_reason(x, headdim, state) if name == "triton" else None


def report(x: Tensor, headdim: int = 64, state: int = 128) -> list[str]:
    """One line per backend: that it can run scans of tensors like `x` here, or why it cannot."""
    lines = []
    for name in BACKENDS:
        reason = unsupported_reason(name, x, headdim, state)
        if reason is None and name == "mamba_ssm":
            from diffuapriel.ops.mamba_ssm import convolution_kernel

            reason = f"runs; convolution by {convolution_kernel()}"
        lines.append(f"SSD backend {name:9}  {reason or 'runs'}")
    return lines


def _resolve(*choice: Any) -> str:
    return _resolved_once(*choice)


# torch.compile takes the result as a constant instead of tracing how the machine is examined.
_resolve._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _resolved_once(name: str, device: torch.device, dtype: torch.dtype, headdim: int, state: int, packed: bool) -> str:
    """The part of `choose_backend` that depends on the machine, whose answer cannot change within a process."""
    like = torch.empty(0, device=device, dtype=dtype)
    if name != "auto":
        reason = unsupported_reason(name, like, headdim, state, packed=packed)
        if reason:
            raise ValueError(f"SSD backend {name!r} cannot run: {reason}")
        return name
    missing = []
    for name in ON_CUDA:
        reason = unsupported_reason(name, like, headdim, state, packed=packed)
        if reason is None:
            break
        missing.append(f"{name}: {reason}")
    if missing:
        _log_once(f"the scan runs on SSD backend {name!r}; {'; '.join(missing)}")
    return name


@functools.cache
def _log_once(line: str) -> None:
    log.warning(line)


def _scan(
    call: tuple[Any, ...], reverse: tuple[bool, ...], backend: str, document_ids: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Check the call, put zeros in place of None, and hand it to a backend.

    call: as `ScanInputs`, but D and the initial state may be None.
    """
    x, dt, A, B, C, D, initial_state = call
    if x.ndim != 5 or x.shape[1] == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (batch, length, heads, headdim), length 1 or more")
    batch, length, directions, heads, headdim = x.shape
    if B.ndim != 5 or B.shape[3] == 0 or heads % B.shape[3]:
        raise ValueError(
            f"B has shape {tuple(B.shape)}; it must have groups that divide the {heads} heads, and a state"
        )
    groups, state = B.shape[3:]
    if D is None:
        D = torch.zeros_like(A)
    if initial_state is None:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        initial_state = x.new_zeros((batch, directions, heads, headdim, state), dtype=dtype)
    inputs = ScanInputs(x, dt, A, B, C, D, initial_state)
    per_head, keys = (directions, heads), (batch, length, directions, groups, state)
    shapes = (x.shape, (batch, length, *per_head), per_head, keys, keys, per_head)
    shapes += ((batch, *per_head, headdim, state),)
    for name, tensor, shape in zip(ScanInputs._fields, inputs, shapes):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; with x {tuple(x.shape)} it must be {shape}")
    options = {}
    if document_ids is not None:
        check_document_ids(document_ids, batch, length)
        options["document_ids"] = number_runs(document_ids)
    name = choose_backend(backend, x, headdim, state, packed=document_ids is not None)
    return BACKENDS[name](inputs, reverse, **options)
