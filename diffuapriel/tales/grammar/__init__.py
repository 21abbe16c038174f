"""Probabilistic grammars with agreement: compiled, sampled from, parsed and measured."""
