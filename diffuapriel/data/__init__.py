"""Corpora: token windows from files, datasets, the standard library and the tales grammar."""
