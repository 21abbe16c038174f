"""Without a CUDA device the Triton kernels run in Triton's interpreter, on the CPU.

Triton decides when it is first imported, so the variable is set before any test module is. Only float32 means
anything there: the interpreter's bf16 products are wrong. A subprocess that compiles kernels must drop the variable.
"""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
