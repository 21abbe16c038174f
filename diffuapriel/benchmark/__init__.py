"""Measuring: timing, memory, rooflines, generations, sweeps over length, and whole benchmark runs."""
