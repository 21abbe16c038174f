"""Packed documents: each is scanned as if it stood alone, in both directions, by every backend."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffuapriel.ops.chunked import scan as chunked_scan
from diffuapriel.ops.document_ids import make_document_ids, number_runs
from diffuapriel.ops.recurrent import ScanInputs
from diffuapriel.ops.ssd import ssd, ssd_bidirectional, unsupported_reason

ALONG = ("x", "dt", "B", "C")
# Lengths of the documents in a row of 70; the chunked scan cuts it at 32 and 64 here.
PACKINGS = {
    "one document": [70],
    "boundaries at the chunks' edges": [32, 32, 6],
    "boundaries elsewhere": [31, 2, 30, 7],
    "several in a chunk": [3, 1, 1, 20, 5, 9, 31],
    "one over three chunks": [5, 60, 5],
    "one token each": [1] * 70,
}


def random_call(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    batch, length, heads, groups, headdim, state = 2, 70, 4, 2, 4, 8
    call = {
        "x": torch.randn(batch, length, 2, heads, headdim, dtype=dtype),
        "dt": torch.rand(batch, length, 2, heads, dtype=dtype),
        "A": -2 * torch.rand(2, heads, dtype=dtype),
        "B": torch.randn(batch, length, 2, groups, state, dtype=dtype),
        "C": torch.randn(batch, length, 2, groups, state, dtype=dtype),
        "D": torch.randn(2, heads, dtype=dtype),
    }
    return {name: tensor.requires_grad_() for name, tensor in call.items()}


def document_ids_of(lengths: list[int], batch: int = 2) -> Tensor:
    numbers = [number for number, n in enumerate(lengths) for _ in range(n)]
    return torch.tensor(numbers).expand(batch, -1)


def with_gradients(y: Tensor, call: dict[str, Tensor], weight: Tensor) -> list[Tensor]:
    return [y, *torch.autograd.grad(y, tuple(call.values()), weight)]


@pytest.mark.parametrize("backend", ["recurrent", "chunked"])
@pytest.mark.parametrize("lengths", PACKINGS.values(), ids=PACKINGS.keys())
def test_packed_documents_are_scanned_as_each_alone(backend: str, lengths: list[int]) -> None:
    torch.manual_seed(0)
    call = random_call()
    weight = torch.randn_like(call["x"])
    packed = ssd_bidirectional(**call, document_ids=document_ids_of(lengths), backend=backend)
    pieces, start = [], 0
    for n in lengths:
        document = {name: v[:, start : start + n] if name in ALONG else v for name, v in call.items()}
        pieces.append(ssd_bidirectional(**document, backend="recurrent"))
        start += n
    got = with_gradients(packed, call, weight)
    expected = with_gradients(torch.cat(pieces, dim=1), call, weight)
    for g, e in zip(got, expected, strict=True):
        assert torch.allclose(g, e, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lengths", PACKINGS.values(), ids=PACKINGS.keys())
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_states_enter_the_first_document_and_leave_the_last(lengths: list[int], reverse: bool) -> None:
    torch.manual_seed(0)
    call = {name: v.select(0 if name in "AD" else 2, 0).detach() for name, v in random_call().items()}
    call["initial_state"] = torch.randn(2, 4, 4, 8, dtype=torch.float64)
    call = {name: v.requires_grad_() for name, v in call.items()}
    how = {"document_ids": document_ids_of(lengths), "reverse": reverse, "return_final_state": True}
    results = []
    for backend in ("chunked", "recurrent"):
        y, final = ssd(**call, **how, backend=backend)
        loss = (y * torch.cos(y.detach())).sum() + final.square().sum()
        results.append([y, final, *torch.autograd.grad(loss, tuple(call.values()), allow_unused=True)])
    for g, e in zip(*results, strict=True):
        assert torch.allclose(g, e, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk_size", [1, 7, 32, 64])
def test_the_result_does_not_depend_on_the_chunk_size(chunk_size: int) -> None:
    torch.manual_seed(0)
    call = random_call()
    start, both = torch.zeros(2, 2, 4, 4, 8, dtype=torch.float64), (False, True)
    document_ids = document_ids_of(PACKINGS["several in a chunk"])
    whole, _ = chunked_scan(ScanInputs(*call.values(), start), both, chunk_size=70, document_ids=document_ids)
    cut, _ = chunked_scan(ScanInputs(*call.values(), start), both, chunk_size=chunk_size, document_ids=document_ids)
    assert torch.allclose(cut, whole, rtol=0, atol=1e-11)


def test_rows_may_be_packed_differently_and_numbers_may_come_again() -> None:
    torch.manual_seed(0)
    call = random_call()
    first, second = [3, 1, 66], [40, 30]
    document_ids = torch.cat([document_ids_of(first, 1), document_ids_of(second, 1)])
    expected = ssd_bidirectional(**call, document_ids=document_ids, backend="recurrent")
    again = document_ids % 2  # 0, 1, 0: another number after every boundary is all that is asked for
    assert torch.equal(number_runs(again), document_ids)
    got = ssd_bidirectional(**call, document_ids=again, backend="chunked")
    assert torch.allclose(got, expected, rtol=0, atol=1e-11)


def test_strong_decay_leaves_finite_gradients() -> None:
    torch.manual_seed(0)
    call = random_call(torch.float32)
    with torch.no_grad():
        call["dt"].mul_(1000)
    y = ssd_bidirectional(**call, document_ids=document_ids_of([3, 1, 60, 6]), backend="chunked")
    for tensor in with_gradients(y, call, torch.ones_like(y)):
        assert torch.isfinite(tensor).all()


def test_without_document_ids_documents_run_into_each_other() -> None:
    torch.manual_seed(0)
    call = random_call()
    apart = ssd_bidirectional(**call, document_ids=document_ids_of([35, 35]), backend="chunked")
    together = ssd_bidirectional(**call, backend="chunked")
    one = ssd_bidirectional(**call, document_ids=document_ids_of([70]), backend="chunked")
    assert torch.equal(one, together)
    assert not torch.allclose(apart, together, atol=1e-3)


def test_a_document_ends_with_its_end_of_text() -> None:
    ids = torch.tensor([[5, 6, 9, 7, 9, 9, 8], [9, 5, 5, 5, 5, 5, 9]])
    assert make_document_ids(ids, eos_id=9).tolist() == [[0, 0, 0, 1, 1, 2, 3], [0, 1, 1, 1, 1, 1, 1]]
    with pytest.raises(ValueError, match=r"ids are \(7,\)"):
        make_document_ids(ids[0], eos_id=9)


@pytest.mark.parametrize("document_ids", [torch.zeros(2, 69).long(), torch.zeros(2, 70), torch.zeros(70).long()])
def test_document_ids_of_another_shape_or_dtype_are_refused(document_ids: Tensor) -> None:
    with pytest.raises(ValueError, match=r"document_ids are .* must be \(2, 70\) int64"):
        ssd_bidirectional(**random_call(), document_ids=document_ids)


def test_our_kernels_say_that_they_keep_no_documents_apart() -> None:
    assert "document_ids" in str(unsupported_reason("triton", torch.zeros(1), 64, 128, packed=True))
    with pytest.raises(ValueError, match=r"'triton' cannot run: .*mamba_ssm and chunked do"):
        ssd_bidirectional(**random_call(), document_ids=document_ids_of([70]), backend="triton")
