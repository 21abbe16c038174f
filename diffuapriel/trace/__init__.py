"""Recorded and steered generations: the trace, its file format, its GIF and its player."""
