"""Recorded and steered generations: the trace, its file format, its pictures and its player."""
