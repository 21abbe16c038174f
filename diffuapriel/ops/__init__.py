"""The Mamba-2 scan behind one function, `ssd.ssd`, with its backends; and the recorder of CUDA graphs."""
