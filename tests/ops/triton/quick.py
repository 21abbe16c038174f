"""Triton's interpreter without what it does again and again to no effect: a third of its time, and the same results.

For every integer that is added, subtracted or multiplied it computes in 64 bits whether it overflows, and asserts that
only with `debug`, which is off. Each call of a device function patches all of triton.language, which its kernel has
patched. And it makes the same few types and shapes for every value of every program: here they are made once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import triton.language as tl
from triton._utils import validate_block_shape
from triton.language import core
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter


def quicken() -> None:
    """Once per process."""
    builder = interpreter.interpreter_builder
    assert not builder.options.debug, "an overflow would be asserted"
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    interpreter._patch_lang = _patched_once(interpreter._patch_lang)
    interpreter._patch_attr = _patch_attr
    interpreter._get_np_dtype = _by_name(interpreter._get_np_dtype)
    core._unwrap_if_constexpr = _sorted_out(core._unwrap_if_constexpr)
    core.block_type.__init__, core.tensor.__init__ = _init_type, _init_tensor
    core.tuple.__eq__ = _same_or(core.tuple.__eq__)
    TritonSemantic.broadcast_impl_value = _broadcast_or(TritonSemantic.broadcast_impl_value)


# Patches


def _patched_once(patch: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`patch`, which within a kernel leaves alone what is patched. Only a kernel restores what it has patched."""
    running: set[Any] = set()
    left: set[Any] = set()

    @cache
    def languages(fn: Any) -> set[Any]:
        return {value for value in fn.__globals__.values() if value is tl or value is core}

    def patch_once(fn: Any) -> Any:
        wanted = languages(fn)
        if running and wanted <= running | left:
            return interpreter._LangPatchScope()
        scope = patch(fn)
        if running:
            left.update(wanted)
            return scope
        running.update(wanted)
        restore = scope.restore

        def end() -> None:
            running.clear()
            restore()

        scope.restore = end
        return scope

    return patch_once


def _patch_attr(obj: Any, name: str, member: Any, builder: Any, scope: Any) -> None:
    """A built-in function in the interpreter: `builtin` only asks whether there is a `_semantic`."""
    function, semantic = getattr(member, "__wrapped__", member), interpreter.interpreter_semantic

    def interpreted(*args: Any, **options: Any) -> Any:
        options["_semantic"] = semantic
        return function(*args, **options)

    scope.set_attr(obj, name, interpreted)


# Types and shapes


def _by_name(usual: Callable[[Any], np.dtype]) -> Callable[[Any], np.dtype]:
    known: dict[str, np.dtype] = {}

    def np_dtype(dtype: Any) -> np.dtype:
        name = dtype.scalar.name
        if name not in known:
            known[name] = usual(dtype)
        return known[name]

    return np_dtype


def _sorted_out(usual: Callable[[Any], Any]) -> Callable[[Any], Any]:
    plain = {int, float, bool, str, type(None), core.tensor, core.dtype}

    def unwrap(value: Any) -> Any:
        kind = type(value)
        if kind in plain:
            return value
        return value.value if kind is core.constexpr else usual(value)

    return unwrap


@cache
def _sizes(sizes: tuple[int, ...]) -> tuple[core.tuple, int, core.constexpr, core.tuple]:
    """Shape and number of elements, as a type has them and as a tensor has them."""
    if not sizes:
        raise TypeError("0d block_type is forbidden")
    constants = core.tuple([core.constexpr(size) for size in sizes])
    return core.tuple(sizes), validate_block_shape(sizes), core.constexpr(math.prod(sizes)), constants


@cache
def _name(sizes: tuple[int, ...], scalar: str) -> str:
    return f"<{_sizes(sizes)[0]}, {scalar}>"


_SCALAR = core.constexpr(1), core.tuple([])


def _init_type(self: core.block_type, element_ty: core.dtype, shape: Any) -> None:
    assert isinstance(shape, (list, tuple, core.tuple))
    sizes = tuple([core._unwrap_if_constexpr(size) for size in shape])
    self.element_ty, self.sizes = element_ty, sizes
    self.shape, self.numel, *self.of_tensor = _sizes(sizes)
    self.name = _name(sizes, element_ty.name)


def _init_tensor(self: core.tensor, handle: Any, type: core.dtype) -> None:
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.numel, self.shape = type.of_tensor if type.is_block() else _SCALAR


def _same_or(usual: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda self, other: core.constexpr(True) if self is other else usual(self, other)


@cache
def _common(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that both are broadcast to, if they have one and are of the same rank."""
    if len(a) != len(b) or any(1 not in pair and pair[0] != pair[1] for pair in zip(a, b)):
        return None
    return tuple(right if left == 1 else left for left, right in zip(a, b))


def _broadcast_or(usual: Callable[..., Any]) -> Callable[..., Any]:
    def broadcast(self: TritonSemantic, a: core.tensor, b: core.tensor) -> tuple[core.tensor, core.tensor]:
        if not (a.type.is_block() and b.type.is_block()):
            return usual(self, a, b) if a.type.is_block() or b.type.is_block() else (a, b)
        shape = _common(a.type.sizes, b.type.sizes)
        return usual(self, a, b) if shape is None else (_stretched(self, a, shape), _stretched(self, b, shape))

    return broadcast


def _stretched(semantic: TritonSemantic, value: core.tensor, shape: tuple[int, ...]) -> core.tensor:
    if value.type.sizes == shape:
        return value
    handle = semantic.builder.create_broadcast(value.handle, shape)
    return semantic.tensor(handle, core.block_type(value.dtype, shape))
