"""Keep writing: a text without end by a model of blocks."""
