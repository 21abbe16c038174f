"""Every backend agrees with the recurrence in float64, forward and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffuapriel.ops.chunked import scan as chunked_scan
from diffuapriel.ops.recurrent import ScanInputs
from diffuapriel.ops.ssd import BACKENDS, ssd, ssd_bidirectional

FAST_BACKENDS = ("chunked", "minimal")  # on any machine, in float64; the others have their own tests
ANYWHERE = ("recurrent", *FAST_BACKENDS)
# (batch, length, heads, groups, headdim, state): length 1, odd lengths, more than one chunk, several heads and groups
SHAPES = [
    (1, 1, 1, 1, 4, 4),
    (2, 7, 4, 1, 8, 16),
    (3, 32, 2, 2, 8, 8),
    (2, 33, 6, 3, 4, 16),
    (1, 101, 4, 2, 16, 8),
]


def random_call(shape: tuple[int, ...], directions: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Fresh tensors of one call, all requiring gradients; `directions` 0 leaves that axis out."""
    batch, length, heads, groups, headdim, state = shape
    k = (directions,) if directions else ()

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, dtype=dtype)

    call = {
        "x": draw(batch, length, *k, heads, headdim),
        "dt": torch.rand(batch, length, *k, heads, dtype=dtype),
        "A": -4 * torch.rand(*k, heads, dtype=dtype),
        "B": draw(batch, length, *k, groups, state),
        "C": draw(batch, length, *k, groups, state),
        "D": draw(*k, heads),
        "initial_state": draw(batch, *k, heads, headdim, state),
    }
    return {name: tensor.requires_grad_() for name, tensor in call.items()}


def outputs_and_gradients(function, call: dict[str, Tensor], **options) -> list[Tensor]:
    y, state = function(**call, return_final_state=True, **options)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v.dtype) for v in (y, state)]
    return [y, state, *torch.autograd.grad((y, state), tuple(call.values()), weights)]


def assert_agree(got: list[Tensor], expected: list[Tensor], rtol: float) -> None:
    for g, e in zip(got, expected, strict=True):
        assert torch.isfinite(g).all()
        assert (g - e).norm() <= rtol * e.norm() + 1e-12


@pytest.mark.parametrize("backend", FAST_BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_backend_agrees_with_the_recurrence(backend: str, shape: tuple[int, ...], reverse: bool) -> None:
    torch.manual_seed(0)
    call = random_call(shape)
    expected = outputs_and_gradients(ssd, call, reverse=reverse, backend="recurrent")
    assert_agree(outputs_and_gradients(ssd, call, reverse=reverse, backend=backend), expected, rtol=1e-11)


@pytest.mark.parametrize("backend", FAST_BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bidirectional_backend_agrees_with_the_recurrence(backend: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    call = random_call(shape, directions=2)
    expected = outputs_and_gradients(ssd_bidirectional, call, backend="recurrent")
    assert_agree(outputs_and_gradients(ssd_bidirectional, call, backend=backend), expected, rtol=1e-11)


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_float32_stays_close_to_the_float64_recurrence(backend: str) -> None:
    torch.manual_seed(0)
    call = random_call((2, 130, 4, 2, 16, 16), directions=2)
    single = {name: tensor.detach().float().requires_grad_() for name, tensor in call.items()}
    expected = outputs_and_gradients(ssd_bidirectional, call, backend="recurrent")
    got = outputs_and_gradients(ssd_bidirectional, single, backend=backend)
    assert_agree([g.double() for g in got], expected, rtol=1e-5)


@pytest.mark.parametrize("backend", ANYWHERE)
def test_reverse_is_the_flipped_forward_scan(backend: str) -> None:
    torch.manual_seed(0)
    call = random_call((2, 40, 4, 2, 8, 8))
    flipped = {n: v.flip(1) if n in ("x", "dt", "B", "C") else v for n, v in call.items()}
    assert torch.allclose(
        ssd(**call, reverse=True, backend=backend),
        ssd(**flipped, backend=backend).flip(1),
        rtol=0,
        atol=1e-11,
    )


@pytest.mark.parametrize("backend", ANYWHERE)
def test_the_two_directions_are_independent_scans(backend: str) -> None:
    torch.manual_seed(0)
    call = random_call((2, 40, 4, 2, 8, 8), directions=2)
    axis = {"x": 2, "dt": 2, "B": 2, "C": 2, "A": 0, "D": 0, "initial_state": 1}
    together = ssd_bidirectional(**call, backend=backend)
    for k, reverse in enumerate((False, True)):
        alone = ssd(**{n: v.select(axis[n], k) for n, v in call.items()}, reverse=reverse, backend=backend)
        assert torch.allclose(together[:, :, k], alone, rtol=0, atol=1e-11)


@pytest.mark.parametrize("backend", ANYWHERE)
def test_a_text_may_be_scanned_in_two_halves(backend: str) -> None:
    torch.manual_seed(0)
    call = random_call((2, 50, 4, 1, 8, 8))
    whole, end = ssd(**call, return_final_state=True, backend=backend)
    along = ("x", "dt", "B", "C")
    first, state = ssd(**{n: v[:, :19] if n in along else v for n, v in call.items()}, return_final_state=True)
    rest = {n: v[:, 19:] if n in along else v for n, v in call.items()} | {"initial_state": state}
    second, final = ssd(**rest, return_final_state=True, backend=backend)
    assert torch.allclose(torch.cat([first, second], 1), whole, rtol=0, atol=1e-11)
    assert torch.allclose(final, end, rtol=0, atol=1e-11)


def test_the_result_does_not_depend_on_the_chunk_size() -> None:
    torch.manual_seed(0)
    call = random_call((2, 50, 4, 1, 8, 8), directions=2)
    results = [chunked_scan(ScanInputs(*call.values()), (False, True), chunk_size=q)[0] for q in (1, 7, 32, 64)]
    for result in results[1:]:
        assert torch.allclose(result, results[0], rtol=0, atol=1e-11)


def test_strong_decay_neither_overflows_nor_leaves_nan() -> None:
    torch.manual_seed(0)
    call = random_call((1, 100, 2, 1, 4, 4), directions=2, dtype=torch.float32)
    with torch.no_grad():
        call["dt"].mul_(100)
    for tensor in outputs_and_gradients(ssd_bidirectional, call, backend="chunked"):
        assert torch.isfinite(tensor).all()


def test_the_environment_forces_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    call = random_call((1, 3, 1, 1, 4, 4))
    monkeypatch.setenv("DIFFUAPRIEL_SSD", "no-such")
    with pytest.raises(ValueError, match=r"no-such.*permitted: auto, recurrent, chunked"):
        ssd(**call)
    monkeypatch.setenv("DIFFUAPRIEL_SSD", "recurrent")
    monkeypatch.setitem(BACKENDS, "chunked", None)
    assert ssd(**call).shape == call["x"].shape


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("dt", (2, 7)),
        ("A", (3,)),
        ("C", (2, 7, 1, 8)),
        ("D", (1,)),
        ("initial_state", (2, 4, 8, 8)),
        ("x", (2, 7, 4)),
    ],
)
def test_a_wrong_shape_is_refused_by_name(name: str, size: tuple[int, ...]) -> None:
    call = random_call((2, 7, 4, 1, 8, 16)) | {name: torch.rand(size, dtype=torch.float64)}
    with pytest.raises(ValueError, match=rf"^{name} has shape"):
        ssd(**call)


def test_groups_must_divide_the_heads() -> None:
    call = random_call((2, 7, 4, 1, 8, 16))
    call["B"] = torch.rand(2, 7, 3, 16, dtype=torch.float64)
    with pytest.raises(ValueError, match="B has shape"):
        ssd(**call)
