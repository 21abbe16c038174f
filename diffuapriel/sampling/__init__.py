"""Sampling: from a canvas with [MASK]s to text, step by step."""
