"""The `mamba_ssm` backend against its plain twins: the library faked, and interpreted where it is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffuapriel.config import ModelConfig
from diffuapriel.model.layers import EPS
from diffuapriel.model.mamba2 import BidirectionalMamba2
from diffuapriel.ops import mamba_ssm, recurrent
from diffuapriel.ops.recurrent import ScanInputs
from diffuapriel.ops.triton import launch
from tests.ops.mamba_ssm_fake import fake_library

INSTALLED = importlib.util.find_spec("mamba_ssm") is not None and not torch.cuda.is_available()
# (batch, length, heads, groups, headdim, state): length 1, odd lengths, more than one chunk, several heads and groups
SHAPES = [(1, 1, 1, 1, 16, 16), (2, 7, 4, 2, 16, 16), (3, 70, 2, 1, 32, 16)]


@pytest.fixture(autouse=True)
def precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the backend sets for Triton's arithmetic is forgotten after the test."""
    monkeypatch.setenv("TRITON_F32_DEFAULT", "tf32x3")
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")


@pytest.fixture(params=["plain convolution", "causal_conv1d", "interpreted"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The library's functions: faked with and without causal_conv1d, and its own kernels in Triton's interpreter."""
    if request.param != "interpreted":
        faked = fake_library(with_causal_conv1d=request.param == "causal_conv1d")
        monkeypatch.setattr(mamba_ssm, "_load", lambda: faked)
        return request.param
    if not INSTALLED:
        pytest.skip("mamba_ssm is not installed; on a machine with a GPU tests/gpu runs its kernels")
    # One configuration for each kernel: the interpreter cannot time them.
    monkeypatch.setenv("MAMBA_DETERMINISTIC", "1")
    mamba_ssm._load.cache_clear()
    mamba_ssm.library()
    monkeypatch.delenv("MAMBA_DETERMINISTIC")
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    properties = types.SimpleNamespace(multi_processor_count=4)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return request.param


def random_scan(shape: tuple[int, ...], directions: int) -> list[Tensor]:
    b, l, h, g, p, n = shape
    k = directions
    sizes = (b, l, k, h, p), (b, l, k, h), (k, h), (b, l, k, g, n), (b, l, k, g, n), (k, h), (b, k, h, p, n)
    call = [torch.randn(size) for size in sizes]
    call[1], call[2] = torch.rand_like(call[1]), -4 * torch.rand_like(call[2])
    return [v.requires_grad_() for v in call]


def assert_close(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    scale = expected.abs().max().clamp_min(1e-6)  # length 1 without a state: no gradient of A
    assert (got.double() - expected).abs().max() <= 1e-4 * scale


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reverse", [(False,), (True,), (False, True)], ids=str)
def test_the_scan_agrees_with_the_recurrence(library: str, shape: tuple[int, ...], reverse: tuple[bool, ...]) -> None:
    torch.manual_seed(0)
    call = random_scan(shape, len(reverse))
    exact = [v.detach().double().requires_grad_() for v in call]
    got, expected = mamba_ssm.scan(ScanInputs(*call), reverse), recurrent.scan(ScanInputs(*exact), reverse)
    weights = [torch.randn_like(v) for v in got]
    got += torch.autograd.grad(got, call, weights)
    expected += torch.autograd.grad(expected, exact, [w.double() for w in weights])
    for g, e in zip(got, expected, strict=True):
        assert_close(g, e)


def test_packed_documents_are_kept_apart(library: str) -> None:
    torch.manual_seed(0)
    reverse = (False, True)
    call = random_scan((2, 300, 1, 1, 16, 16), len(reverse))  # two chunks of the library's longest
    exact = [v.detach().double().requires_grad_() for v in call]
    lengths = [
        [1, 30, 1, 32, 192, 2, 42],
        [3, 295, 2],
    ]  # a boundary at the chunk's edge, several in one, across it
    document_ids = torch.tensor([[number for number, n in enumerate(row) for _ in range(n)] for row in lengths])
    got = mamba_ssm.scan(ScanInputs(*call), reverse, document_ids=document_ids)
    expected = recurrent.scan(ScanInputs(*exact), reverse, document_ids=document_ids)
    weights = [torch.randn_like(v) for v in got]
    got += torch.autograd.grad(got, call, weights)
    expected += torch.autograd.grad(expected, exact, [w.double() for w in weights])
    for g, e in zip(got, expected, strict=True):
        assert_close(g, e)


def small_module(**fields: int) -> BidirectionalMamba2:
    torch.manual_seed(0)
    shape = {"d_model": 32, "depth": 1, "headdim": 16, "d_state": 16, "vocab_size": 8, **fields}
    module = BidirectionalMamba2(ModelConfig("diffuapriel", **shape), backend="chunked")
    with torch.no_grad():  # what starts as ones or zeros would hide a wrong place
        for weight in (module.D, module.norm_weight, module.conv_bias):
            weight.normal_()
    return module


def mamba_ssm_forward(module: BidirectionalMamba2, u: Tensor) -> Tensor:
    y = mamba_ssm.mixer(
        module.in_proj(u),
        module.conv_weight,
        module.conv_bias,
        module.dt_bias,
        module.A_log,
        module.D,
        module.norm_weight,
        groups=module.config.n_groups,
        eps=EPS,
    )
    return module.out_proj(y.flatten(2))


@pytest.mark.parametrize(
    ("fields", "batch", "length"),
    [({}, 2, 37), ({}, 1, 1), ({"n_groups": 2}, 1, 70), ({"d_model": 24, "d_conv": 3}, 2, 5)],
    ids=["", "one token", "two groups", "three heads, three taps"],
)
def test_the_mixer_is_the_plain_forward_and_gradient(
    library: str, fields: dict[str, int], batch: int, length: int
) -> None:
    module = small_module(**fields)
    u = torch.randn(batch, length, module.config.d_model, requires_grad=True)
    weights, inputs = torch.randn_like(u), (u, *module.parameters())
    got, expected = mamba_ssm_forward(module, u), module(u)
    assert_close(got, expected)
    for g, e in zip(
        torch.autograd.grad(got, inputs, weights), torch.autograd.grad(expected, inputs, weights), strict=True
    ):
        assert_close(g, e)


def test_five_taps_are_convolved_without_causal_conv1d(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba_ssm, "_load", lambda: fake_library(with_causal_conv1d=True))
    module = small_module(d_conv=5)
    u = torch.randn(1, 9, module.config.d_model)
    assert_close(mamba_ssm_forward(module, u), module(u))


def test_a_batch_beyond_32_bits_is_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba_ssm, "_load", lambda: fake_library(with_causal_conv1d=False))
    module = small_module()
    u = torch.randn(5, 6, module.config.d_model)
    monkeypatch.setattr(mamba_ssm, "MAX_ELEMENTS", module.in_proj(u)[:2].numel())
    assert_close(mamba_ssm_forward(module, u), module(u))
    monkeypatch.setattr(mamba_ssm, "MAX_ELEMENTS", module.in_proj(u)[0, :5].numel())
    with pytest.raises(ValueError, match=r"6 tokens x \d+ channels exceeds.*permitted: 5 tokens"):
        mamba_ssm_forward(module, u)


def test_flipping_wide_or_not_is_flipping() -> None:
    for channels in (8, 7):  # seven bf16 channels are no whole number of eight bytes
        v = torch.randn(2, 5, 2, channels).bfloat16()[:, :, 1]
        assert torch.equal(mamba_ssm._flip(v), v.flip(1))


def test_short_texts_take_short_chunks() -> None:
    assert [mamba_ssm.chunk_length(n) for n in (1, 64, 65, 200, 256, 4097)] == [
        64,
        64,
        128,
        256,
        256,
        256,
    ]


@pytest.fixture
def fresh_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A folder in front of the path, for a foreign mamba_ssm; what is imported from it is forgotten after."""
    for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    mamba_ssm._load.cache_clear()
    yield tmp_path
    mamba_ssm._load.cache_clear()
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "mamba_ssm":
            del sys.modules[name]


def test_mamba_ssm_is_imported_without_its_init(fresh_import: Path) -> None:
    kernels = fresh_import / "mamba_ssm" / "ops" / "triton"
    kernels.mkdir(parents=True)
    (fresh_import / "mamba_ssm" / "__init__.py").write_text("import selective_scan_cuda\n")
    for folder in (kernels.parent, kernels):
        (folder / "__init__.py").write_text("")
    scan = "mamba_chunk_scan_combined"
    (kernels / "ssd_combined.py").write_text(f"{scan} = _{scan}_fwd = _{scan}_bwd = len\n")
    (kernels / "layernorm_gated.py").write_text("_layer_norm_fwd = _layer_norm_bwd = max\n")
    assert mamba_ssm.library().scan is len
    assert mamba_ssm.library().norm_backward is max
    assert "mamba_ssm" not in sys.modules, "whoever imports the package later gets the whole of it"


def test_a_broken_mamba_ssm_is_explained(fresh_import: Path) -> None:
    (fresh_import / "mamba_ssm").mkdir()
    (fresh_import / "mamba_ssm" / "__init__.py").write_text("")
    with pytest.raises(ValueError, match=r"mamba_ssm cannot be imported: No module.*make gpu"):
        mamba_ssm.library()


def test_what_the_library_cannot_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "interpreted", lambda: False)
    assert "the tensors are on cpu" in str(mamba_ssm.unsupported_reason(torch.zeros(1)))
    monkeypatch.setattr(launch, "interpreted", lambda: True)
    assert "the tensors are float64" in str(mamba_ssm.unsupported_reason(torch.zeros(1).double()))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    mamba_ssm._load.cache_clear()
    assert "not installed (`make gpu` installs it" in str(mamba_ssm.unsupported_reason(torch.zeros(1)))
    mamba_ssm._load.cache_clear()


def test_float32_is_kept_exact_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_F32_DEFAULT", "tf32")
    mamba_ssm.keep_float32_exact(torch.zeros(1))
    assert os.environ["TRITON_F32_DEFAULT"] == "tf32"
    del os.environ["TRITON_F32_DEFAULT"]
    mamba_ssm.keep_float32_exact(torch.zeros(1).bfloat16())
    assert "TRITON_F32_DEFAULT" not in os.environ
    mamba_ssm.keep_float32_exact(torch.zeros(1))
    assert os.environ["TRITON_F32_DEFAULT"] == "tf32x3"
