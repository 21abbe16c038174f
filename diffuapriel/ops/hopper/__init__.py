"""Kernels in CUDA C++ for Hopper GPUs, where Triton does not reach what the hardware offers."""
