"""Triton's interpreter, made right for bfloat16: as it comes, it rounds towards zero and multiplies the bare bits.

With `exact_bf16` a conversion rounds to the nearest, as a GPU does, and a product is that of the numbers, added in
float32. So a kernel's roundings can be tested where no GPU is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


@contextmanager
def exact_bf16() -> Iterator[None]:
    """Correct the interpreter for as long as it lasts."""
    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def nearest(self: InterpreterBuilder, source: TensorHandle, to: tl.dtype) -> TensorHandle:
        if source.dtype.scalar != tl.float32 or to.scalar != tl.bfloat16:
            return cast(self, source, to)
        rounded = torch.from_numpy(np.ascontiguousarray(source.data)).to(torch.bfloat16)
        bits = rounded.view(torch.int16).numpy().view(np.uint16)
        return interpreter.TensorHandle(bits.reshape(source.data.shape), tl.bfloat16)

    def product(self: InterpreterBuilder, a: TensorHandle, b: TensorHandle, *rest: object) -> TensorHandle:
        return dot(self, _wide(a), _wide(b), *rest)

    InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot = nearest, product
    try:
        yield
    finally:
        InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot = cast, dot


def _wide(handle: TensorHandle) -> TensorHandle:
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
