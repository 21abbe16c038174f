"""Corpora of documents: files, folders, the standard library, and the windows cut from them."""

import json
import pickle
from itertools import pairwise

import pytest
import torch

from diffuapriel.data.build import build_tokens
from diffuapriel.data.documents import DocumentCorpus, split_documents
from diffuapriel.data.registry import open_corpus
from diffuapriel.data.stdlib import find_sources, is_held_out, stdlib_corpus
from diffuapriel.tokenizer import get_tokenizer

TOKENIZER = get_tokenizer("gpt2-4k")
HOW = {"split": "train", "batch_size": 4, "length": 64, "seed": 0}
WORDS = " ".join(f"word{i} and" for i in range(2000))


def write_jsonl(path, records):
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n", encoding="utf-8")
    return str(path)


# ---- windows -------------------------------------------------------------------------------------


def corpus_of(train, validation=("held out",)):
    return DocumentCorpus("test", TOKENIZER, train=list(train), validation=list(validation))


def test_documents_are_joined_by_one_end_of_text():
    corpus = corpus_of(["first text", "second text"])
    for row in corpus.batch(0, **HOW).tolist():
        pieces = TOKENIZER.decode(row).split("<|endoftext|>")
        assert set(pieces[1:-1]) == {"first text", "second text"}
        assert all(a != b for a, b in pairwise(pieces[1:-1]))


def test_windows_are_pieces_of_the_text_and_begin_at_a_word():
    corpus = corpus_of([WORDS])
    for row in corpus.batch(0, **HOW).tolist():
        text = TOKENIZER.decode(row)
        for piece in text.split("<|endoftext|>"):
            assert piece in WORDS
        assert text.startswith((" ", "word", "<|endoftext|>"))


def test_a_window_ends_with_the_tokens_of_the_whole_text():
    text = "extraordinarily uncharacteristic misunderstandings " * 200
    whole = ",".join(map(str, TOKENIZER.encode(text)))
    for length in (2, 7, 30, 101):
        ids = corpus_of([text])._window("train", _at(0.3), length)
        assert ",".join(map(str, ids)) in whole


def _at(u):
    class Stream:
        def random(self):
            return u

    return Stream()


def test_any_start_gives_a_whole_window():
    corpus = corpus_of(["a", "", "b c", WORDS, " "])
    for i in range(500):
        assert len(corpus._window("train", _at(i / 500), 33)) == 33
    assert len(corpus._window("train", _at(1 - 2**-53), 33)) == 33


def test_a_batch_is_a_function_of_its_arguments():
    corpus = corpus_of([WORDS])
    first = corpus.batch(7, **HOW)
    assert first.shape == (4, 64) and first.dtype == torch.int64
    assert torch.equal(first, corpus.batch(7, **HOW))
    assert torch.equal(first, pickle.loads(pickle.dumps(corpus)).batch(7, **HOW))
    assert not torch.equal(first, corpus.batch(8, **HOW))
    assert not torch.equal(first, corpus.batch(7, **HOW | {"seed": 1}))


def test_the_splits_share_no_document():
    documents = [f"number {i}" for i in range(25)]
    train, validation = split_documents(documents)
    assert train + validation == documents and len(validation) == 2
    assert split_documents(["a", "b"]) == (["a"], ["b"])


def test_of_a_single_text_the_last_tenth_is_held_out():
    train, validation = split_documents([WORDS])
    assert train[0] + validation[0] == WORDS
    assert len(validation[0]) == pytest.approx(len(WORDS) / 10, abs=20)
    assert validation[0].startswith(" ")


def test_a_document_is_found_by_its_number():
    corpus = corpus_of(["a", "b"], ["c"])
    assert corpus.document(1, split="train") == "b" and corpus.document(0, split="valid") == "c"
    with pytest.raises(ValueError, match="documents 0 to 1 in the split 'train', not 2"):
        corpus.document(2, split="train")


# ---- files ---------------------------------------------------------------------------------------


def test_a_text_file_is_one_document(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbf" + WORDS.encode())  # with a byte order mark
    corpus = open_corpus(str(path), TOKENIZER)
    assert corpus.document(0, split="train", seed=0) + corpus.document(0, split="validation", seed=0) == WORDS


def test_json_lines_have_one_document_a_line(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": f"line\n{i} é"} for i in range(20)])
    corpus = open_corpus(path, TOKENIZER)
    assert corpus.document(3, split="train", seed=0) == "line\n3 é"
    assert corpus.document(1, split="validation", seed=0) == "line\n19 é"


def test_another_field_is_named_after_a_hash(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"content": f"c{i}", "text": "no"} for i in range(20)])
    assert open_corpus(path + "#content", TOKENIZER).document(0, split="train", seed=0) == "c0"


def test_parquet_has_one_document_a_row(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"text": [f"row {i}" for i in range(19)] + [None], "n": range(20)}), path)
    corpus = open_corpus(str(path), TOKENIZER)
    assert corpus.document(4, split="train", seed=0) == "row 4"
    assert corpus.document(0, split="validation", seed=0) == "row 18"
    with pytest.raises(ValueError, match=r"no column 'body' \(it has: text, n\)"):
        open_corpus(f"{path}#body", TOKENIZER)
    with pytest.raises(ValueError, match="row 1: the field 'n' holds int, not text"):
        open_corpus(f"{path}#n", TOKENIZER)


def test_a_folder_holds_all_its_files_in_order(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("text a")
    (tmp_path / "b.csv").write_text("ignored")
    write_jsonl(tmp_path / "deep" / "c.jsonl", [{"text": "text c"}, {"text": "text d"}])
    corpus = open_corpus(str(tmp_path), TOKENIZER)
    assert [corpus.document(i, split="train", seed=0) for i in range(2)] == ["text a", "text c"]
    assert corpus.document(0, split="validation", seed=0) == "text d"


@pytest.mark.parametrize(
    ("names", "validation", "left_out"),
    [
        (("train.jsonl", "heldout.jsonl"), "heldout.jsonl", ""),
        (("train-00000-of-00001.jsonl", "valid.jsonl", "test.jsonl"), "valid.jsonl", "files of the split test: 1"),
        (("train/one.jsonl", "test/one.jsonl"), "test/one.jsonl", ""),
    ],
)
def test_a_folder_whose_files_are_named_after_splits_has_these_splits(tmp_path, names, validation, left_out):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_jsonl(tmp_path / name, [{"text": f"{name} {i}"} for i in range(3)])
    corpus = open_corpus(str(tmp_path), TOKENIZER)
    for split, name in (("train", names[0]), ("validation", validation)):
        assert corpus.splits[split] == [f"{name} {i}" for i in range(3)]
    assert left_out in corpus.description and bool(left_out) == ("left out" in corpus.description)
    cache = build_tokens(str(tmp_path), tmp_path.with_name(f"{tmp_path.name}-cache"), TOKENIZER)
    for split, documents in corpus.splits.items():
        assert [cache.document(i, split=split) for i in range(cache.documents(split))] == documents


@pytest.mark.parametrize(
    "names", [("train.txt", "other.txt"), ("train.txt", "training.txt"), ("valid.txt", "test.txt")]
)
def test_other_names_say_nothing_about_splits(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text(name)
    corpus = open_corpus(str(tmp_path), TOKENIZER)
    assert [corpus.splits[split] for split in ("train", "validation")] == [[name] for name in sorted(names)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "empty.txt holds no text"),
        ("blank.txt", b" \n\n", "blank.txt holds no text"),
        ("tiny.txt", b"ab", "too little text"),
        ("bytes.txt", b"one\ntwo \xff\xfe", r"bytes.txt, line 2: not UTF-8 text"),
        ("zero.txt", b"one\n\ntwo\0", r"zero.txt, line 3: holds a zero byte"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": ', r"a.jsonl, line 3: not JSON"),
        ("a.jsonl", b'\n{"txet": "a", "b": 1}\n{}', r"line 2: no field 'text' \(it has: 'txet', 'b'\)"),
        ("a.jsonl", b'{"text": 5}', r"line 1: the field 'text' holds int, not text"),
        ("a.jsonl", b'["text"]', r"line 1: expected a JSON object"),
        ("a.parquet", b"PAR1 not really", r"a.parquet: not a Parquet file"),
        ("a.docx", b"PK", r"a.docx is no .txt, .md, .jsonl or .parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_corpus(str(tmp_path / name), TOKENIZER)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \.txt, \.md, \.jsonl or \.parquet file"):
        open_corpus(str(tmp_path), TOKENIZER)


def test_a_missing_path_is_told_with_the_known_names():
    with pytest.raises(FileNotFoundError, match=r"'storys' is not a corpus.*tales:1.*stdlib.*hf:owner/name"):
        open_corpus("storys", TOKENIZER)


@pytest.mark.parametrize("spec", ["", "  ", None, 3])
def test_a_corpus_is_named_by_text(spec):
    with pytest.raises(ValueError, match="given as text"):
        open_corpus(spec, TOKENIZER)


# ---- the standard library ------------------------------------------------------------------------


def test_the_standard_library_is_ten_megabytes_split_by_module():
    corpus = open_corpus("stdlib", TOKENIZER)
    assert isinstance(corpus, DocumentCorpus)
    train, validation = corpus.splits["train"], corpus.splits["validation"]
    assert sum(len(text.encode()) for text in train + validation) > 10_000_000
    assert 0.02 < sum(map(len, validation)) / sum(map(len, train + validation)) < 0.25
    assert "Python sources" in corpus.description and "for validation" in corpus.description
    assert corpus.batch(0, **HOW).shape == (4, 64)


def test_a_package_is_never_on_both_sides(tmp_path):
    modules = [f"module{i}" for i in range(60)]
    for module in modules:
        (tmp_path / module).mkdir()
        for name in ("a.py", "b.py"):
            (tmp_path / module / name).write_text(f"# {module}")
    corpus = stdlib_corpus(TOKENIZER, tmp_path)
    assert not set(corpus.splits["train"]) & set(corpus.splits["validation"])
    assert set(corpus.splits["validation"]) == {f"# {module}" for module in modules if is_held_out(module)}


def test_installed_packages_are_no_part_of_the_library_and_tests_only_fill_up(tmp_path):
    for folder in ("json", "site-packages/torch", "json/tests", "test"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "code.py").write_text("pass")
    names = [str(file.relative_to(tmp_path)) for file in find_sources(tmp_path)]
    assert names == ["json/code.py", "json/tests/code.py", "test/code.py"]  # far below 10 MB: with tests


@pytest.mark.parametrize("rows", [range(0, 1), range(1, 3), range(0, 4)])
def test_some_rows_of_a_batch_are_those_rows_of_the_whole(rows):
    corpus = corpus_of(["first text", "second text"])
    part = corpus.batch(3, **HOW, rows=rows)
    assert torch.equal(part, corpus.batch(3, **HOW)[rows.start : rows.stop])


@pytest.mark.parametrize("rows", [range(0, 0), range(2, 99), range(-1, 1), range(0, 4, 2)])
def test_rows_that_a_batch_does_not_have_are_refused(rows):
    with pytest.raises(ValueError, match=r"rows are range\(.*consecutive ones of range\(0, 4\)"):
        corpus_of(["first text", "second text"]).batch(3, **HOW, rows=rows)
