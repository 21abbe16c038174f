"""The scan and the whole bidirectional mixer as Triton kernels, forward and backward."""
