"""The splits have one name each and old aliases; under the old keys the data stay the same to the last token."""

import hashlib
import itertools
import json
import sys
import types

import numpy as np
import pytest

from diffuapriel.data.base import check_split
from diffuapriel.data.build import build_tokens
from diffuapriel.data.documents import DocumentCorpus
from diffuapriel.data.huggingface import HubCorpus
from diffuapriel.data.registry import open_corpus
from diffuapriel.data.tales import TalesCorpus
from diffuapriel.storage import write_json
from diffuapriel.tokenizer import get_tokenizer

TOKENIZER = get_tokenizer("gpt2-4k")
WORDS = " ".join(f"word{i}" for i in range(2000))
HOW = {"batch_size": 4, "length": 48, "seed": 11}


def digest(corpus, split):
    return hashlib.sha256(corpus.batch(5, split=split, **HOW).numpy().tobytes()).hexdigest()[:16]


def tales():
    return TalesCorpus(TOKENIZER, 1)


def documents():
    return DocumentCorpus("documents", TOKENIZER, train=[WORDS], validation=[WORDS])


def hub(monkeypatch):
    module = types.ModuleType("datasets")
    records = [{"text": f"document {i} has some words in it"} for i in range(400)]
    module.load_dataset = lambda *args, **options: {"train": records}
    monkeypatch.setitem(sys.modules, "datasets", module)
    return HubCorpus("owner/name", TOKENIZER)


def tokens(tmp_path):
    tmp_path.mkdir(exist_ok=True)
    lines = [json.dumps({"text": f"document {i} {WORDS[i * 20 : i * 20 + 300]}"}) for i in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    return build_tokens(str(tmp_path / "a.jsonl"), tmp_path / "out", TOKENIZER)


def test_validation_has_two_older_names():
    assert [check_split(name) for name in ("train", "validation", "heldout", "valid")] == [
        "train",
        *["validation"] * 3,
    ]
    for name in ("heldout", "valid"):
        assert documents().document(0, split=name) == WORDS
        assert digest(documents(), name) == digest(documents(), "validation")


def test_the_texts_of_a_split_are_its_documents_in_order(monkeypatch, tmp_path):
    for corpus in (tales(), documents(), hub(monkeypatch), tokens(tmp_path)):
        for split in ("train", "validation"):
            texts = list(itertools.islice(corpus.texts(split), 3))
            assert texts == [corpus.document(i, split=split, seed=0) for i in range(len(texts))] != []
    cache = tokens(tmp_path / "again")
    assert [len(list(cache.texts(split))) for split in ("train", "heldout")] == [180, 20]
    assert len(list(hub(monkeypatch).texts("valid"))) == 40
    with pytest.raises(ValueError, match="no split 'test'"):
        documents().texts("test")


def test_the_data_are_those_of_recorded_figures(monkeypatch, tmp_path):
    """Digests written when the split was called "heldout": its random streams still have that key."""
    assert digest(tales(), "train") == "f86adb2766a02342"
    assert digest(tales(), "validation") == "86bd0f6c8de70660"
    assert tales().document(7, split="validation", seed=11) == "Peter found a silver rope on the hill."
    assert digest(documents(), "train") == "08481511339b5dad"
    assert digest(documents(), "validation") == "34060b6cf7822f9f"
    assert digest(hub(monkeypatch), "train") == "d39a105b98a2bf7a"
    assert digest(hub(monkeypatch), "validation") == "f1679a40c9e98f15"
    cache = tokens(tmp_path)
    assert digest(cache, "train") == "8f0f647f09b3143c" and digest(cache, "validation") == "592e1c9b7a86a408"
    assert cache.digest == "b5ea7c81de5f6307b779017e4aa611c7c1f2cba041b2673e5d968c64c764ac4d"


@pytest.mark.parametrize("split", ["validation", "heldout"])
def test_a_cache_written_before_opens(tmp_path, split):
    """index.json and the files as they were when the split was called "heldout"."""
    text = {"train": "one two three", "heldout": "four five"}
    parts = {}
    for name, words in text.items():
        ids = np.array([*TOKENIZER.encode(words), TOKENIZER.eos_id], dtype="<u2")
        ids.tofile(tmp_path / f"{name}-00000.bin")
        np.array([len(ids)], dtype="<i8").tofile(tmp_path / f"{name}.documents")
        shard = {"file": f"{name}-00000.bin", "tokens": len(ids), "sha256": hashlib.sha256(ids).hexdigest()}
        parts[name] = {"documents": 1, "tokens": len(ids), "shards": [shard]}
    index = {"schema": "diffuapriel-tokens", "version": 1, "source": "words.txt", "tokenizer": "gpt2-4k"}
    index |= {"vocab_size": TOKENIZER.vocab_size, "dtype": "uint16", "digest": "0" * 64, "parts": parts}
    write_json(tmp_path / "index.json", index)
    cache = open_corpus(f"tokens:{tmp_path}", TOKENIZER)
    cache.verify()
    assert cache.document(0, split=split) == "four five" and cache.document(0, split="train") == text["train"]
