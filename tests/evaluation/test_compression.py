"""xz's bits per byte are those of the command, over the validation text alone and after the training text."""

from __future__ import annotations

import lzma
import random
import shutil
import subprocess

import pytest

from diffuapriel.data.build import build_tokens
from diffuapriel.data.documents import DocumentCorpus
from diffuapriel.data.registry import open_corpus
from diffuapriel.evaluation.compression import XzEstimate, xz_bits_per_byte
from diffuapriel.tokenizer import get_tokenizer

TOKENIZER = get_tokenizer("gpt2-4k")


def corpus_of(*heldout: str) -> DocumentCorpus:
    return DocumentCorpus("test", TOKENIZER, train=["other text"], validation=heldout)


def test_the_held_out_documents_are_compressed_as_one_stream():
    documents = ["To be or not to be. " * 40, "Größe zählt. " * 30]
    data = "".join(documents).encode()
    found = xz_bits_per_byte(corpus_of(*documents))
    assert found is not None and found.text_bytes == len(data)
    assert found.bits_per_byte == 8 * len(lzma.compress(data, preset=9)) / len(data)


def test_after_the_training_text_it_costs_what_it_adds_to_the_compressed_size():
    known = " ".join(random.Random(1).choice(("red", "blue", "green", "grey")) for _ in range(2000))
    corpus = DocumentCorpus("test", TOKENIZER, train=[known], validation=[known[500:3000]])
    found, train, text = xz_bits_per_byte(corpus, trained=True), known.encode(), known[500:3000].encode()
    added = len(lzma.compress(train + text, preset=9)) - len(lzma.compress(train, preset=9))
    assert found is not None and found.after_training_text == 8 * added / len(text)
    assert found.after_training_text is not None and found.after_training_text < 0.2 * found.bits_per_byte, (
        "a copy of what was read costs little"
    )


@pytest.mark.skipif(shutil.which("xz") is None, reason="xz is not installed (apt install xz-utils)")
def test_it_is_what_the_command_makes_of_it():
    text = " ".join(random.Random(0).choice(("red", "blue", "green")) for _ in range(4000))
    command = subprocess.run(["xz", "-9", "--stdout"], input=text.encode(), capture_output=True, check=True)
    found = xz_bits_per_byte(corpus_of(text))
    assert found is not None and found.bits_per_byte == 8 * len(command.stdout) / len(text)


def test_at_most_so_many_bytes_are_read():
    found = xz_bits_per_byte(corpus_of("a" * 70, "b" * 70), most=100)
    whole = lzma.compress(b"a" * 70 + b"b" * 30, preset=9)
    assert found is not None and (found.bits_per_byte, found.text_bytes) == (8 * len(whole) / 100, 100)


def test_a_token_cache_has_the_text_of_its_documents(tmp_path):
    (tmp_path / "book.jsonl").write_text("\n".join(f'{{"text": "Größe number {i}"}}' for i in range(40)), "utf-8")
    plain = open_corpus(str(tmp_path / "book.jsonl"), TOKENIZER)
    cache = build_tokens(str(tmp_path / "book.jsonl"), tmp_path / "cache", TOKENIZER)
    assert xz_bits_per_byte(cache) == xz_bits_per_byte(plain)


def test_a_corpus_without_documents_has_none():
    assert xz_bits_per_byte(open_corpus("tales:1", TOKENIZER)) is None


def test_the_verdict_respects_the_interval():
    xz = XzEstimate(1.6, 1000, 1.5)
    assert xz.verdict((1.3, 1.4)) == XzEstimate(1.5, 1000).verdict((1.3, 1.4)), "xz at its best"
    assert xz.verdict((1.3, 1.4)) == "below xz"
    assert xz.verdict((1.4, 1.6)) == "level with xz"
    assert xz.verdict((1.6, 1.7)) == "above xz"
    assert xz.verdict((1.4, 1.5)) == xz.verdict((1.5, 1.6)) == "level with xz", "an end that touches does not decide"
