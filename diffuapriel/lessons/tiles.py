"""Programs on tiles for lesson 12: Triton where it is installed, and a small interpreter of the same programs.

    triton, tl, device = start()

The small interpreter runs a program as Triton's own does: one after another for each place of the grid, on the CPU. It
knows what the lesson uses of `triton.language`. The checkers run on it, it stands in for Triton where that cannot be
installed (Windows, macOS), and it counts the bytes that a program moves, which Triton does not tell.
"""

from __future__ import annotations

import dis
import functools
import itertools
import operator
import os
import sys
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor


class ChipTile:
    """A tile of numbers, or one number, on chip. Its functions are those of `language`, also as methods."""

    def __init__(self, value: Any) -> None:
        self.value = torch.as_tensor(value)

    def __getitem__(self, index: Any) -> ChipTile:
        if any(part is not None and part != slice(None) for part in (index if isinstance(index, tuple) else (index,))):
            raise TypeError(f"a tile has no index {index!r}; only : and None may stand there, as in rows[:, None]")
        return ChipTile(self.value[index])

    def __getattr__(self, name: str) -> Any:
        if name in ("sum", "cumsum", "exp", "trans", "sigmoid"):
            return functools.partial(getattr(language, name), self)
        raise AttributeError(f"a tile has no {name!r}; use the functions of tl")

    def __neg__(self) -> ChipTile:
        return ChipTile(-self.value)

    def __bool__(self) -> bool:
        raise TypeError("a tile is neither true nor false; compute with it, or use tl.where")

    def __repr__(self) -> str:
        return f"a tile of shape {tuple(self.value.shape)}" if self.value.dim() else f"{self.value.item():g}"


def _operator(name: str, swapped: bool = False) -> Callable[[ChipTile, Any], Any]:
    compute = getattr(operator, f"__{name}__")

    def method(self: ChipTile, other: Any) -> Any:
        if not isinstance(other, (ChipTile, int, float)):
            return NotImplemented
        pair = (_plain(other), self.value) if swapped else (self.value, _plain(other))
        return ChipTile(compute(*pair))

    return method


for _name in ("add", "sub", "mul", "truediv", "lt", "le", "gt", "ge", "eq", "ne", "and", "or"):
    setattr(ChipTile, f"__{_name}__", _operator(_name))
for _name in ("add", "sub", "mul", "truediv", "and", "or"):
    setattr(ChipTile, f"__r{_name}__", _operator(_name, swapped=True))


class Pointer:
    """An address, or a tile of addresses: numbers of `memory`, the whole storage of a tensor."""

    def __init__(self, memory: Tensor, at: Any) -> None:
        self.memory, self.at = memory, torch.as_tensor(at)

    def __add__(self, offset: Any) -> Pointer:
        return Pointer(self.memory, self.at + _plain(offset))

    __radd__ = __add__

    def __sub__(self, offset: Any) -> Pointer:
        return Pointer(self.memory, self.at - _plain(offset))

    def __getitem__(self, index: Any) -> Pointer:
        return Pointer(self.memory, self.at[index])

    def __repr__(self) -> str:
        return f"an address, number {self.at.tolist()} of {len(self.memory)}" if not self.at.dim() else "addresses"

    def inside(self, mask: Any) -> tuple[Tensor, Tensor]:
        """The addresses and which of them are wanted, both of the same shape. Raises IndexError outside the memory."""
        at, wanted = torch.broadcast_tensors(self.at, torch.as_tensor(True if mask is None else _plain(mask)))
        if (wanted & ((at < 0) | (at >= len(self.memory)))).any():
            raise IndexError("a load or store is outside the tensor's memory; is a mask missing, or a stride wrong?")
        return at.clamp(0, len(self.memory) - 1), wanted


class Traffic(NamedTuple):
    """Bytes that programs moved."""

    loaded: int
    stored: int


_moved = [0, 0]
_place: tuple[int, ...] = ()  # of the program that runs, in the grid


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, ChipTile) else value


def _load(pointer: Pointer, mask: Any = None, other: Any = 0.0) -> ChipTile:
    at, wanted = pointer.inside(mask)
    _moved[0] += int(wanted.sum()) * pointer.memory.element_size()
    return ChipTile(torch.where(wanted, pointer.memory[at], torch.as_tensor(_plain(other), dtype=pointer.memory.dtype)))


def _store(pointer: Pointer, value: Any, mask: Any = None) -> None:
    at, wanted = pointer.inside(mask)
    _moved[1] += int(wanted.sum()) * pointer.memory.element_size()
    kept = torch.as_tensor(_plain(value)).expand(at.shape).to(pointer.memory.dtype)
    pointer.memory[at[wanted]] = kept[wanted]


def _arange(begin: int, end: int) -> ChipTile:
    if (size := end - begin) < 1 or size & (size - 1):
        raise ValueError(f"tl.arange({begin}, {end}) has {size} numbers; Triton's tiles have a power of two")
    return ChipTile(torch.arange(begin, end))


language = SimpleNamespace(
    constexpr=int,
    float32=torch.float32,
    program_id=lambda axis: _place[axis],
    load=_load,
    store=_store,
    arange=_arange,
    zeros=lambda shape, dtype: ChipTile(torch.zeros(shape, dtype=dtype)),
    dot=lambda a, b, acc=None, **options: ChipTile(a.value @ b.value + (0 if acc is None else acc.value)),
    trans=lambda a: ChipTile(a.value.T),
    cumsum=lambda a, axis=0: ChipTile(a.value.cumsum(axis)),
    sum=lambda a, axis=None: ChipTile(a.value.sum() if axis is None else a.value.sum(axis)),
    exp=lambda a: ChipTile(_plain(a).exp()),
    sigmoid=lambda a: ChipTile(a.value.sigmoid()),
    where=lambda chosen, a, b: ChipTile(torch.where(chosen.value, _plain(a), _plain(b))),
    cdiv=lambda a, b: -(-a // b),
)
tl: Any = language  # of the functions below; `start` puts Triton's own here


def pointer(tensor: Tensor) -> Pointer:
    """The address of the tensor's first number, in the memory that it may share with others."""
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    return Pointer(tensor.detach().as_strided((size,), (1,), 0), tensor.storage_offset())


def small(function: Any) -> FunctionType:
    """`function`, jitted or not, and the jitted functions that it calls, for the small interpreter."""
    plain: FunctionType = getattr(function, "fn", function)
    space = {**plain.__globals__, "tl": language}
    for name in {step.argval for step in dis.get_instructions(plain) if step.opname == "LOAD_GLOBAL"}:
        if isinstance(getattr(space.get(name), "fn", None), FunctionType):
            space[name] = small(space[name])
    return FunctionType(plain.__code__, space, plain.__name__, plain.__defaults__, plain.__closure__)


class Program:
    """What `triton.jit` makes, for the small interpreter: program[grid](*tensors and numbers)."""

    def __init__(self, fn: FunctionType) -> None:
        self.fn = fn

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Traffic]:
        return functools.partial(counted, self.fn, grid)

    def __call__(self, *given: Any) -> Any:
        return small(self.fn)(*given)


def counted(program: Any, grid: tuple[int, ...], *given: Any, **options: Any) -> Traffic:
    """Run a program, jitted or not, on CPU tensors by the small interpreter, and count what it moves."""
    global _place
    function = small(program)
    values = [pointer(value) if isinstance(value, Tensor) else value for value in given]
    _moved[:] = [0, 0]
    for place in itertools.product(*map(range, grid)):
        _place = (*place, 0, 0)[:3]
        function(*values, **options)
    return Traffic(*_moved)


def start() -> tuple[Any, Any, str]:
    """`triton`, `triton.language` and the device of the tensors; prints who runs the programs.

    With a CUDA device Triton compiles for it. Without one, its interpreter runs the programs, or the small one where
    Triton is not installed. Raises RuntimeError where Triton has been loaded without its interpreter: it cannot change.
    """
    global tl
    cuda = torch.cuda.is_available()
    if not cuda:
        if sys.modules.get("triton") and os.environ.get("TRITON_INTERPRET") != "1":
            raise RuntimeError("Triton was loaded before its interpreter was chosen; restart the kernel and run again")
        os.environ["TRITON_INTERPRET"] = "1"
    os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")  # float32 products without rounding to ten bits
    try:
        import triton
        import triton.language
    except ImportError:
        print("Triton is not installed; it has packages for Linux only (pip install triton). A small interpreter of")
        print("this course runs your programs in its place. Only the last two sections need Triton: read them.")
        return SimpleNamespace(jit=Program, cdiv=language.cdiv), language, "cpu"
    tl = triton.language
    told = (
        f"compiles your programs for {torch.cuda.get_device_name()}" if cuda else "interprets your programs on the CPU"
    )
    print(f"Triton {triton.__version__} {told}.")
    return triton, triton.language, "cuda" if cuda else "cpu"


# Our solutions. They stand here, because a function that Triton takes looks `tl` up in its own module.


def _load_rows(start, rows, columns, row_stride, length):
    at = start + rows[:, None] * row_stride + columns[None, :]
    return tl.load(at, mask=(rows < length)[:, None], other=0.0)


def _scan_tile(H, x, dt, B, C, rate, rows):
    s = tl.cumsum(dt * rate, 0)
    s_end = tl.sum(dt * rate, 0)
    past = rows[:, None] >= rows[None, :]
    L = tl.exp(tl.where(past, s[:, None] - s[None, :], float("-inf")))
    written = dt[:, None] * x
    inside = tl.dot(L * tl.dot(C, tl.trans(B)), written)
    before = tl.exp(s)[:, None] * tl.dot(C, H)
    left = tl.exp(s_end - s)[:, None] * written
    return inside + before, tl.exp(s_end) * H + tl.dot(tl.trans(B), left)


def _walk(start, row_stride, length, reverse):
    return start + reverse * (length - 1) * row_stride, (1 - 2 * reverse) * row_stride


def _gated(y, z):
    return y * z / (1 + tl.exp(-z))


def _traffic(length: int, heads: int, P: int, N: int, bytes_each: int) -> int:
    return bytes_each * heads * length * (3 * P + 2 * N + 1)


OURS: dict[str, Callable[..., Any]] = {
    "load_rows": _load_rows,
    "scan_tile": _scan_tile,
    "walk": _walk,
    "gated": _gated,
    "traffic": _traffic,
}
