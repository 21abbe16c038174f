"""State-space duality: the Mamba-2 scan behind one function, `ssd.ssd`, and its backends."""
