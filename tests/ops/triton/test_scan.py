"""The scan and the fused mixer agree with the recurrence, in float32 under Triton's interpreter."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor

from diffuapriel.config import ModelConfig
from diffuapriel.model.mamba2 import BidirectionalMamba2
from diffuapriel.ops import recurrent
from diffuapriel.ops.recurrent import ScanInputs

triton = pytest.importorskip("triton", reason="Triton is not installed; it has Linux wheels only")

from diffuapriel.ops.triton import autograd as fused
from diffuapriel.ops.triton import scan as triton_scan

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # the interpreter's NumPy speaks up at log2(0)
    pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there: tests/gpu runs the full grid"),
]

TOLERANCE = 1e-4  # relative to the largest value, float32

# batch, length, directions, heads, headdim, groups, state, reverse
GRID = [
    (1, 1, 1, 1, 16, 1, 16, (False,)),
    (1, 1, 1, 1, 16, 1, 16, (True,)),
    (3, 2, 2, 1, 16, 1, 16, (False, True)),
    (1, 31, 2, 2, 32, 2, 32, (False, True)),
    (2, 64, 2, 2, 16, 1, 64, (False, True)),
    (1, 65, 1, 4, 16, 2, 16, (True,)),
    (1, 65, 2, 2, 64, 1, 128, (True, False)),
    (1, 517, 2, 2, 16, 1, 16, (False, True)),  # cut into two splits
]


def relative_error(ours: Tensor, exact: Tensor) -> float:
    return ((ours.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-30)).item()


def inputs(batch, length, directions, heads, headdim, groups, state, seed=0) -> list[Tensor]:
    """x, dt, A, B, C, D and an initial state, float32."""
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(shape, generator=draw)  # noqa: E731
    return [
        normal(batch, length, directions, heads, headdim),
        torch.rand(batch, length, directions, heads, generator=draw) * 0.2 + 1e-3,
        -torch.rand(directions, heads, generator=draw) * 8 - 0.5,
        normal(batch, length, directions, groups, state),
        normal(batch, length, directions, groups, state),
        normal(directions, heads),
        normal(batch, directions, heads, headdim, state),
    ]


@pytest.fixture
def poison(monkeypatch):
    """Memory that a kernel must fill holds NaN before: what it forgets is seen."""
    fresh, fresh_like = torch.Tensor.new_empty, torch.empty_like

    def filled(tensor: Tensor) -> Tensor:
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *a, **k: filled(fresh(self, *a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: filled(fresh_like(*a, **k)))


@pytest.mark.parametrize("case", GRID, ids=str)
def test_the_scan_agrees_with_the_recurrence(case, poison) -> None:
    values, reverse = inputs(*case[:-1]), case[-1]
    y, final = fused.scan(ScanInputs(*values), reverse)
    exact_y, exact_final = recurrent.scan(ScanInputs(*(v.double() for v in values)), reverse)
    errors = relative_error(y, exact_y), relative_error(final, exact_final)
    print(f"y {errors[0]:.1e}, final state {errors[1]:.1e}")
    assert max(errors) < TOLERANCE


@pytest.mark.parametrize("case", [GRID[0], GRID[4], GRID[5]], ids=str)
def test_the_gradients_of_the_scan_are_those_of_the_recurrence(case, poison) -> None:
    values, reverse = inputs(*case[:-1]), case[-1]
    ours = [v.clone().requires_grad_() for v in values]
    exact = [v.double().requires_grad_() for v in values]
    outputs, exact_outputs = (
        fused.scan(ScanInputs(*ours), reverse),
        recurrent.scan(ScanInputs(*exact), reverse),
    )
    toward = [torch.randn(v.shape, generator=torch.Generator().manual_seed(1)) for v in outputs]
    torch.autograd.backward(outputs, toward)
    torch.autograd.backward(exact_outputs, [v.double() for v in toward])
    names = ("x", "dt", "A", "B", "C", "D", "initial state")
    errors = {n: relative_error(a.grad, b.grad) for n, a, b in zip(names, ours, exact)}
    print(", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
    assert max(errors.values()) < TOLERANCE


@pytest.mark.parametrize(("length", "groups"), [(1, 1), (63, 2), (130, 1)])
def test_the_fused_mixer_agrees_with_the_plain_one(length, groups, poison) -> None:
    shape = {"d_model": 32, "depth": 2, "d_state": 16, "headdim": 16, "attention_headdim": 16, "cond_dim": 8}
    config = ModelConfig(architecture="diffuapriel", vocab_size=20, n_groups=groups, **shape)
    torch.manual_seed(length)
    mixer = BidirectionalMamba2(config, backend="triton")
    for parameter in mixer.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    u = torch.randn(1, length, config.d_model)
    exact = copy.deepcopy(mixer).double()
    exact.backend = "recurrent"
    with torch.no_grad():
        expected = exact(u.double())
        assert relative_error(mixer(u), expected) < TOLERANCE
        mixer.fold_norm()  # as in an engine: the kernel leaves the norm's weight out
        assert relative_error(mixer(u), expected) < TOLERANCE


def test_the_gradients_of_the_fused_mixer_are_those_of_the_plain_one(poison) -> None:
    shape = {"d_model": 32, "depth": 2, "d_state": 16, "headdim": 16, "attention_headdim": 16, "cond_dim": 8}
    torch.manual_seed(0)
    ours = BidirectionalMamba2(ModelConfig("diffuapriel", vocab_size=20, **shape), backend="triton")
    for parameter in ours.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    exact = copy.deepcopy(ours).double()
    exact.backend = "recurrent"
    u = torch.randn(1, 70, 32)
    inputs = [u.clone().requires_grad_(), u.double().requires_grad_()]
    toward = torch.randn_like(u)
    for mixer, given in zip((ours, exact), inputs):
        mixer(given).backward(toward.to(given.dtype))
    errors = {"u": relative_error(inputs[0].grad, inputs[1].grad)}
    for (name, a), b in zip(ours.named_parameters(), exact.parameters()):
        errors[name] = relative_error(a.grad, b.grad)
    print(", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
    assert max(errors.values()) < TOLERANCE


def test_the_compiler_takes_the_mixer_whole_forward_and_backward() -> None:
    shape = {"d_model": 16, "depth": 2, "d_state": 16, "headdim": 16, "attention_headdim": 16, "cond_dim": 8}
    torch.manual_seed(0)
    plain = BidirectionalMamba2(ModelConfig("diffuapriel", vocab_size=20, **shape), backend="triton")
    compiled = copy.deepcopy(plain)
    compiled.compile(backend="aot_eager", fullgraph=True)
    u = torch.randn(1, 5, 16)
    for mixer in (plain, compiled):
        mixer(u).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), compiled.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_a_text_cut_into_splits_gives_what_one_walk_gives(monkeypatch) -> None:
    values = inputs(1, 600, 2, 1, 16, 1, 16)
    parts = []
    for cut in (1, 2, 4):
        monkeypatch.setattr(triton_scan, "choose_splits", lambda *_, cut=cut: cut)
        parts.append(fused.scan(ScanInputs(*values), (False, True))[0])
    assert relative_error(parts[1], parts[0].double()) < TOLERANCE
    assert relative_error(parts[2], parts[0].double()) < TOLERANCE


def test_states_between_chunks_are_those_of_the_recurrence() -> None:
    x, dt, A, B, C, D, start = inputs(1, 150, 2, 2, 16, 1, 16)
    reverse, steps = (False, True), dt.permute(0, 2, 3, 1).contiguous()
    states, final = triton_scan.walk_states(x, B, steps, A, start, reverse, want_final=True)
    exact = [v.double() for v in (x, dt, A, B, C, D, start)]
    for chunk in (1, 2):
        cut = chunk * triton_scan.CHUNK
        halves = [
            recurrent.scan(
                ScanInputs(
                    *(v[:, piece, k : k + 1] for v in exact[:2]),
                    exact[2][k : k + 1],
                    *(v[:, piece, k : k + 1] for v in exact[3:5]),
                    exact[5][k : k + 1],
                    exact[6][:, k : k + 1],
                ),
                (reverse[k],),
            )[1]
            for k, piece in ((0, slice(0, cut)), (1, slice(150 - cut, 150)))
        ]
        entering = torch.cat(halves, 1).transpose(-1, -2)  # (b, k, h, n, p)
        assert relative_error(states[:, :, :, chunk], entering) < TOLERANCE
    whole = recurrent.scan(ScanInputs(*exact), reverse)[1].transpose(-1, -2)
    assert relative_error(final, whole) < TOLERANCE


def test_tensors_that_the_kernels_cannot_take_are_refused_with_the_reason() -> None:
    values = inputs(1, 4, 1, 1, 16, 1, 16)
    with pytest.raises(ValueError, match="float64; the Triton kernels take float32, bfloat16, float16"):
        fused.scan(ScanInputs(*(v.double() for v in values)), (False,))
    with pytest.raises(ValueError, match="headdim is 24; the Triton kernels take powers of two from 16 to 256"):
        fused.scan(ScanInputs(*inputs(1, 4, 1, 1, 24, 1, 16)), (False,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "compute capability" not in (fused.unsupported_reason(values[0], 16, 16) or "")
