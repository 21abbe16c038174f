"""CUDA C++ without a build step: NVRTC, which PyTorch's CUDA wheels bring, compiles a source at its first use.

The driver loads the result and launches its kernels on PyTorch's current stream, so that they are recorded in CUDA
graphs as any other.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAX_DYNAMIC_SHARED_SIZE = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
BFLOAT16, SWIZZLE_128B, L2_256B = 9, 3, 3  # of CUtensorMapDataType, CUtensorMapSwizzle and CUtensorMapL2promotion
TENSOR_MAP_BYTES, TENSOR_MAP_ALIGNMENT = 128, 64


def compile_source(nvrtc: ctypes.CDLL, source: str, options: tuple[str, ...]) -> bytes:
    """The machine code (cubin) of a CUDA C++ source. Raises RuntimeError with the compiler's message."""
    program = ctypes.c_void_p()
    arguments = [option.encode() for option in options]
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None):
        raise RuntimeError("NVRTC made no program")
    failed = nvrtc.nvrtcCompileProgram(program, len(arguments), (ctypes.c_char_p * len(arguments))(*arguments))
    what = "ProgramLog" if failed else "CUBIN"
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    result = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, result)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise RuntimeError(f"NVRTC does not compile the source: {result.value.decode()}")
    return result.raw


def find_nvrtc() -> ctypes.CDLL:
    """The NVRTC that belongs to this PyTorch. Raises OSError if there is none."""
    major = (torch.version.cuda or "0").partition(".")[0]
    packages = importlib.util.find_spec("nvidia")  # of the wheels that PyTorch's own depends on
    folders = (packages and packages.submodule_search_locations) or []
    for builtins in (file for folder in folders for file in Path(folder).glob(f"*/lib/libnvrtc-builtins.so.{major}*")):
        ctypes.CDLL(str(builtins))  # NVRTC does not look for it in its own folder
        return ctypes.CDLL(str(builtins.with_name(f"libnvrtc.so.{major}")))
    return ctypes.CDLL(f"libnvrtc.so.{major}")


class Kernels:
    """The kernels of one source, for sm_90a. Raises OSError or RuntimeError where they cannot be built or loaded."""

    def __init__(self, source: str, options: tuple[str, ...] = ()) -> None:
        options = ("--gpu-architecture=sm_90a", "--std=c++17", *options)
        self.driver = ctypes.CDLL("libcuda.so.1")
        self.library = ctypes.c_void_p()
        cubin = compile_source(find_nvrtc(), source, options)
        nothing = (None, None, 0, None, None, 0)
        self.check(self.driver.cuLibraryLoadData(ctypes.byref(self.library), cubin, *nothing))

    def check(self, error: int) -> None:
        if error:
            name = ctypes.c_char_p()
            self.driver.cuGetErrorName(error, ctypes.byref(name))
            raise RuntimeError(f"the CUDA driver reports {(name.value or str(error).encode()).decode()}")

    def kernel(self, name: str, shared_bytes: int, device: int) -> ctypes.c_void_p:
        """The kernel of that name, allowed so much dynamic shared memory on `device`."""
        kernel = ctypes.c_void_p()
        self.check(self.driver.cuLibraryGetKernel(ctypes.byref(kernel), self.library, name.encode()))
        self.check(self.driver.cuKernelSetAttribute(MAX_DYNAMIC_SHARED_SIZE, shared_bytes, kernel, device))
        return kernel

    def launch(
        self, kernel: ctypes.c_void_p, blocks: int, threads: int, shared_bytes: int, arguments: list[Any]
    ) -> None:
        """On the current device and stream; arguments are ctypes objects."""
        addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        shape = blocks, 1, 1, threads, 1, 1, shared_bytes
        self.check(self.driver.cuLaunchKernel(kernel, *shape, stream, addresses, None))

    @functools.lru_cache(maxsize=256)  # noqa: B019, the kernels live as long as the process
    def tensor_map(
        self, address: int, shape: tuple[int, int, int], strides: tuple[int, int], rows: int
    ) -> ctypes.Array[ctypes.c_char]:
        """What TMA needs to know of a bfloat16 tensor (batch, rows, columns), to move tiles of `rows` by 64 columns.

        strides: of batch and rows, in numbers. Rows of a tile, 128 bytes, are swizzled. What lies outside is zero when
        loaded, and not stored.
        """
        memory = bytearray(TENSOR_MAP_BYTES + TENSOR_MAP_ALIGNMENT)
        unaligned = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        result = (ctypes.c_char * TENSOR_MAP_BYTES).from_buffer(memory, -unaligned % TENSOR_MAP_ALIGNMENT)
        sizes = (ctypes.c_uint64 * 3)(*shape[::-1])
        steps = (ctypes.c_uint64 * 2)(2 * strides[1], 2 * strides[0])
        box, every = (ctypes.c_uint32 * 3)(64, rows, 1), (ctypes.c_uint32 * 3)(1, 1, 1)
        about = ctypes.c_void_p(address), sizes, steps, box, every
        self.check(self.driver.cuTensorMapEncodeTiled(result, BFLOAT16, 3, *about, 0, SWIZZLE_128B, L2_256B, 0))
        return result


def pointers(*tensors: Tensor) -> list[int]:
    """Addresses of tensors."""
    return [tensor.data_ptr() for tensor in tensors]
