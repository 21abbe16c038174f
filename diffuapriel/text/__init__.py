"""Tokenizers and corpora: everything between characters and token ids."""
