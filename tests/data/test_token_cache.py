"""Token caches: what is in them, in which order it is read, and what is refused."""

import gc
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import types
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuapriel import storage
from diffuapriel.data import build as tokens_build
from diffuapriel.data.build import build_tokens, documents_of, pieces_of
from diffuapriel.data.registry import open_corpus
from diffuapriel.data.token_cache import TokenCorpus, token_dtype
from diffuapriel.storage import read_json, write_json
from diffuapriel.tokenizer import get_tokenizer

TOKENIZER = get_tokenizer("gpt2-4k")
DOCUMENTS = [f"Document number {i}" + " tells its story" * (i % 7) + "." for i in range(200)]
EOS = TOKENIZER.eos_id


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n\n" for text in DOCUMENTS), encoding="utf-8")
    return str(path)


@pytest.fixture
def cache(source, tmp_path):
    return build_tokens(source, tmp_path / "tokens", TOKENIZER, threads=2)


def stream(documents):
    return [id for text in documents for id in [*TOKENIZER.encode(text), EOS]]


def everything(corpus, split):
    return corpus._read(split, 0, corpus.tokens(split)).tolist()


# ---- what is in a cache --------------------------------------------------------------------------


def test_every_document_is_there_in_order_closed_by_its_end_of_text(cache):
    assert everything(cache, "train") == stream(DOCUMENTS[:180])
    assert everything(cache, "validation") == stream(DOCUMENTS[180:])
    assert (cache.documents("train"), cache.documents("valid")) == (180, 20)
    assert cache.document(7, split="train") == DOCUMENTS[7]
    assert cache.document(19, split="validation") == DOCUMENTS[199]
    with pytest.raises(ValueError, match="documents 0 to 19 in the split 'validation', not 20"):
        cache.document(20, split="validation")


def test_the_same_documents_are_held_out_as_without_the_cache(source, cache, tmp_path):
    plain = open_corpus(source, TOKENIZER)
    for split in ("train", "validation"):
        assert [cache.document(i, split=split) for i in range(cache.documents(split))] == plain.splits[split]
    book = tmp_path / "book.txt"
    book.write_text(" and then".join(DOCUMENTS))
    plain = open_corpus(str(book), TOKENIZER)
    single = build_tokens(str(book), tmp_path / "book", TOKENIZER)
    for split in ("train", "validation"):
        assert [single.document(0, split=split)] == plain.splits[split]


def test_tokens_take_two_bytes_where_the_vocabulary_fits(cache):
    assert [token_dtype(size) for size in (4098, 50_258, 65_536, 65_537)] == ["<u2", "<u2", "<u2", "<u4"]
    assert (cache.folder / "train-00000.bin").stat().st_size == 2 * cache.tokens("train")


def test_shards_and_jobs_of_any_size_hold_the_same(source, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(tokens_build, "SHARD_TOKENS", 300)
    monkeypatch.setattr(tokens_build, "JOB_CHARACTERS", 100)
    cut = build_tokens(source, tmp_path / "cut", TOKENIZER, threads=3)
    assert len(list(cut.folder.glob("train-*.bin"))) > 5
    assert everything(cut, "train") == everything(cache, "train")
    how = {"split": "train", "batch_size": 4, "length": 400, "seed": 0}  # longer than a shard
    assert torch.equal(cut.batch(1, **how), cache.batch(1, **how))
    assert cut.document(99, split="train") == DOCUMENTS[99]


def test_a_long_document_is_tokenized_in_pieces_without_a_trace():
    text = "The cat's 3 kittens  slept.\n\n  Then  they woke up, and (all of them) ate; ça va? " * 50
    pieces = list(pieces_of(text, size=100))
    assert len(pieces) > 20 and "".join(pieces) == text
    assert [id for piece in pieces for id in TOKENIZER.encode(piece)] == TOKENIZER.encode(text)
    assert list(pieces_of("x" * 500, size=100)) == ["x" * 500]


@given(
    st.lists(
        st.sampled_from(["a", "It's", "'s", "12", "...", "\x1c", "\u200b", "é", "日本", "Ж", *" \n\t\xa0\u2028", "  "])
    ),
    st.integers(1, 9),
)
@settings(deadline=None)
def test_any_text_has_the_same_tokens_in_pieces(parts, size):
    pieces = list(pieces_of("".join(parts), size))
    assert [id for piece in pieces for id in TOKENIZER.encode(piece)] == TOKENIZER.encode("".join(parts))


def test_as_many_tokens_as_were_asked_for(tmp_path):
    corpus = build_tokens("tales:1", tmp_path / "tales", TOKENIZER, most_tokens=2000)
    assert 2000 <= corpus.tokens("train") < 2100
    assert 223 <= corpus.tokens("validation") < 300
    train, validation = (
        {corpus.document(i, split=p) for i in range(corpus.documents(p))} for p in ("train", "validation")
    )
    assert len(train) > 20 and validation


def test_a_folder_of_files_is_read_document_by_document(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("text a")
    (folder / "b.jsonl").write_text('\ufeff{"text": "text b"}\n{"text": " "}\n{"text": "text\\nc"}', encoding="utf-8")
    parquet.write_table(arrow.table({"text": ["text d", None, "text e"]}), folder / "c.parquet")
    documents = list(documents_of(str(folder), TOKENIZER, Counter()))
    assert [text for _, text in documents] == ["text a", "text b", "text\nc", "text d", "text e"]
    assert [split for split, _ in documents] == ["train"] * 4 + ["validation"]


# ---- in which order it is read -------------------------------------------------------------------


def test_an_epoch_reads_every_window_once_whatever_the_batch(cache):
    total = cache.tokens("train")
    length = 16
    windows = total // length
    orders = []
    for epoch in (0, 1):
        rows = [
            cache.batch(step, split="train", batch_size=1, length=length, seed=5)[0].tolist()
            for step in range(epoch * windows, (epoch + 1) * windows)
        ]
        whole = ",".join(map(str, everything(cache, "train")))
        start = min(whole.index(",".join(map(str, row))) for row in rows)
        first = whole[:start].count(",")
        assert first <= total % length
        tiles = [everything(cache, "train")[first + i * length :][:length] for i in range(windows)]
        assert sorted(rows) == sorted(tiles)
        assert rows != tiles
        orders.append(rows)
    assert orders[0] != orders[1]
    batches = [cache.batch(step, split="train", batch_size=7, length=length, seed=5) for step in range(30)]
    assert torch.cat(batches).tolist() == [*orders[0], *orders[1]][:210]


def test_rows_are_those_of_the_whole_batch_over_the_end_of_an_epoch(cache):
    how = {"split": "train", "batch_size": 12, "length": 100, "seed": 1}
    assert cache.tokens("train") // 100 % 12, "or no batch holds the end of an epoch"
    for step in (0, 1, 2, 3, 10**9):
        whole = cache.batch(step, **how)
        assert whole.shape == (12, 100) and whole.dtype == torch.int64
        parts = [cache.batch(step, **how, rows=rows) for rows in (range(0, 5), range(5, 6), range(6, 12))]
        assert torch.equal(torch.cat(parts), whole)
    with pytest.raises(ValueError, match="consecutive ones"):
        cache.batch(0, **how, rows=range(6, 13))


def test_a_batch_is_a_function_of_its_arguments(cache):
    how = {"split": "train", "batch_size": 4, "length": 32, "seed": 0}
    first = cache.batch(7, **how)
    assert torch.equal(first, pickle.loads(pickle.dumps(cache)).batch(7, **how))
    assert torch.equal(first, open_corpus(cache.name, TOKENIZER).batch(7, **how))
    for other in ({"seed": 1}, {"split": "validation"}):
        assert not torch.equal(first, cache.batch(7, **how | other))


# ---- what is refused -----------------------------------------------------------------------------


def test_the_cache_of_another_tokenizer_is_refused_by_name(cache):
    with pytest.raises(ValueError, match=r"with 'gpt2-4k', this model reads 'gpt2'.*--tokenizer gpt2 --out"):
        open_corpus(cache.name, get_tokenizer("gpt2"))


def test_a_window_longer_than_the_part_is_refused(cache):
    with pytest.raises(ValueError, match=r"in the split 'validation'; a window of 5,000 does not fit"):
        cache.batch(0, split="validation", batch_size=1, length=5000, seed=0)


def test_damage_is_told(cache):
    file = cache.folder / "train-00000.bin"
    data = file.read_bytes()
    cache.verify()
    file.write_bytes(b"\1\0" + data[2:])
    with pytest.raises(ValueError, match=r"train-00000.bin is damaged: its SHA-256"):
        cache.verify()
    file.write_bytes(data[:-2])
    with pytest.raises(ValueError, match=r"train-00000.bin is damaged: [\d,]+ bytes, where"):
        open_corpus(cache.name, TOKENIZER)
    file.unlink()
    with pytest.raises(ValueError, match=r"train-00000\.bin is missing"):
        open_corpus(cache.name, TOKENIZER)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"version": 9}, "version 9; this program reads"), ({"digest": None}, "damaged: it lacks digest")],
)
def test_an_index_that_is_not_ours_is_refused(cache, change, message):
    index = {key: v for key, v in (read_json(cache.folder / "index.json") | change).items() if v is not None}
    write_json(cache.folder / "index.json", index)
    with pytest.raises(ValueError, match=message):
        open_corpus(cache.name, TOKENIZER)


def test_a_folder_without_tokens_says_how_to_make_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no tokens.*diffuapriel tokenize SPEC --out"):
        open_corpus(f"tokens:{tmp_path}", TOKENIZER)


def test_what_is_there_is_not_written_over_and_a_cache_is_no_source(cache, source):
    with pytest.raises(FileExistsError, match="exists already"):
        build_tokens(source, cache.folder, TOKENIZER)
    with pytest.raises(ValueError, match="no corpus of documents"):
        build_tokens(cache.name, cache.folder.with_name("other"), TOKENIZER)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("tales", {}, "tales never ends"),
        ("stdlib", {"most_tokens": 0}, "most_tokens is 0; it must be 1 or more"),
        ("stdlib", {"threads": -1}, "threads is -1"),
    ],
)
def test_what_cannot_be_made_is_refused_and_leaves_nothing(tmp_path, spec, options, message):
    with pytest.raises(ValueError, match=message):
        build_tokens(spec, tmp_path / "out", TOKENIZER, **options)
    assert not list(tmp_path.iterdir())


def test_too_little_text_for_both_splits_is_refused(tmp_path):
    (tmp_path / "tiny.txt").write_text("ab")
    with pytest.raises(ValueError, match="too little text, nothing is left for the split 'validation'"):
        build_tokens(str(tmp_path / "tiny.txt"), tmp_path / "out", TOKENIZER)
    assert not (tmp_path / "out").exists()


def test_a_fault_in_the_source_is_told_and_leaves_nothing(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": 2}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: the field 'text' holds int"):
        build_tokens(str(tmp_path / "a.jsonl"), tmp_path / "out", TOKENIZER)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_second_ctrl_c_does_not_end_the_removal_of_what_was_written(source, tmp_path, monkeypatch):
    remove, before = storage.shutil.rmtree, signal.getsignal(signal.SIGINT)

    def impatient(folder, **how):
        if folder.exists():
            os.kill(os.getpid(), signal.SIGINT)
        remove(folder, **how)

    monkeypatch.setattr(storage.shutil, "rmtree", impatient)
    with pytest.raises(KeyboardInterrupt):
        build_tokens(source, tmp_path / "out", TOKENIZER, on_progress=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full disk")
def test_a_full_disk_is_told_with_the_folder_and_leaves_nothing(source, tmp_path, monkeypatch):
    plain, ignored = Path.open, []
    monkeypatch.setattr(
        Path, "open", lambda path, how: plain(Path("/dev/full") if path.suffix == ".bin" else path, how)
    )
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises(OSError, match=r"No space left on device: .*out'"):
        build_tokens(source, tmp_path / "out", TOKENIZER)
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]
    assert not ignored, "no file is closed behind one's back"


def test_what_was_read_and_left_out_is_kept(tmp_path):
    texts = [*DOCUMENTS, None, "\n" * 1_100_000 + "end"]  # the last one is more than tiktoken itself can encode
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    (tmp_path / "b.pdf").write_text("x")
    cache = build_tokens(str(tmp_path), tmp_path / "out", TOKENIZER)
    assert sum(map(cache.characters, ("train", "validation"))) == sum(len(text) for text in texts if text)
    assert cache.left_out == {"files of other kinds": 1, "documents without text": 1}
    assert re.fullmatch(
        r"201 documents, [\d,]+ tokens, 9\d\.\d% of them for validation; left out: .*", cache.description
    )
    assert cache.document(19, split="validation") == texts[-1]


def test_the_fingerprint_is_the_digest_of_a_cache_that_is_whole(cache):
    assert cache.fingerprint() == cache.digest
    file = cache.folder / "heldout-00000.bin"
    data = bytearray(file.read_bytes())
    data[7] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"heldout-00000\.bin is damaged"):
        cache.fingerprint()


def test_a_token_outside_the_vocabulary_is_refused_where_it_is_read(cache):
    file = cache.folder / "train-00000.bin"
    file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(ValueError, match="is damaged: it holds the token 65535 in the split 'train'"):
        cache.batch(0, split="train", batch_size=2, length=8, seed=0)


def test_a_killed_run_leaves_nothing_that_can_be_opened(source, tmp_path):
    code = (
        "import os, signal\n"
        "from diffuapriel.tokenizer import get_tokenizer\n"
        "from diffuapriel.data.build import build_tokens\n"
        "kill = lambda documents, tokens: documents == 150 and os.kill(os.getpid(), signal.SIGKILL)\n"
        f"build_tokens({source!r}, {str(tmp_path / 'out')!r}, get_tokenizer('gpt2-4k'), on_progress=kill)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert not (tmp_path / "out").exists()
    for attempt in (
        lambda: open_corpus(f"tokens:{tmp_path / 'out'}", TOKENIZER),
        lambda: build_tokens(source, tmp_path / "out", TOKENIZER),
    ):
        with pytest.raises(ValueError, match=r"half-built.*remove .*\.out\.writing"):
            attempt()


def test_memory_is_bounded_by_reading_ahead_a_little(monkeypatch):
    """No more documents are asked of the source than the jobs under way can hold."""
    asked = [0]

    def documents():
        for text in DOCUMENTS * 20:
            asked[0] += 1
            yield "train", text

    monkeypatch.setattr(tokens_build, "JOB_CHARACTERS", 500)
    most = 0
    encode = partial(tokens_build._encode, tokenizer=TOKENIZER, stop=Event())
    with ThreadPoolExecutor(2) as pool:
        for number, _ in enumerate(tokens_build._tokenized(documents(), pool, encode, ahead=4), start=1):
            most = max(most, asked[0] - number)
    assert number == 4000
    assert most < 5 * 500 / 16  # four jobs and one more, of documents no shorter than 16 characters


def test_the_hub_is_read_once_with_its_splits(monkeypatch):
    splits = {"train": [{"text": t} for t in [*DOCUMENTS[:20], " "]]}
    fake = types.SimpleNamespace(load_dataset=lambda name, config, *, streaming: splits)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    documents = list(documents_of("hf:owner/name", TOKENIZER, Counter()))
    assert [split for split, _ in documents] == (["train"] * 9 + ["validation"]) * 2
    corpus = open_corpus("hf:owner/name", TOKENIZER)
    assert [text for split, text in documents if split == "validation"] == [
        corpus.document(i, split="validation", seed=0) for i in range(2)
    ]
    splits["test"] = [{"text": "own"}]
    assert next(documents_of("hf:owner/name", TOKENIZER, Counter())) == ("validation", "own")
    assert {split for split, _ in list(documents_of("hf:owner/name", TOKENIZER, Counter()))[1:]} == {"train"}


def test_the_pages_of_a_cache_are_mapped_not_read(cache):
    cache.batch(0, split="train", batch_size=1, length=8, seed=0)
    (mapped,) = cache._maps.values()
    assert isinstance(mapped.base, np.memmap)
    assert isinstance(cache, TokenCorpus) and "180" not in repr(cache) and "train" in repr(cache)
