"""Files and folders as people have them: what is read, what is left out and counted, what is refused in one line."""

import gzip
import io
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuapriel.data import files
from diffuapriel.data.build import documents_of
from diffuapriel.data.files import WITHOUT_TEXT, find_files, read_documents
from diffuapriel.data.registry import open_corpus
from diffuapriel.tokenizer import get_tokenizer

TOKENIZER = get_tokenizer("gpt2-4k")
TEXT = "Some words that are here.\n" * 20


def read(path, field="text"):
    """(documents, what was left out) of a file or folder."""
    left_out = Counter()
    found = [text for file in find_files(path, left_out) for text in read_documents(file, field, left_out)]
    return found, dict(left_out)


def lines(records):
    return "\n".join(map(json.dumps, records)).encode()


def parquet_bytes(texts, **how):
    arrow = pytest.importorskip("pyarrow")
    sink = io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table({"text": texts}), sink, **how)
    return sink.getvalue()


def zst(data):
    arrow = pytest.importorskip("pyarrow")
    sink = arrow.BufferOutputStream()
    with arrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


# ---- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zst, lambda d: gzip.compress(d[:99]) + gzip.compress(d[99:])])
@pytest.mark.parametrize("kind", [".txt", ".md", ".jsonl"])
def test_text_and_json_lines_are_read_as_they_are_and_compressed(tmp_path, kind, pack):
    documents = [TEXT, "zwei\n é"] if kind == ".jsonl" else [TEXT]
    plain = lines({"text": text} for text in documents) if kind == ".jsonl" else TEXT.encode()
    suffix = {bytes: "", zst: ".zst"}.get(pack, ".GZ")
    (tmp_path / f"a{kind}{suffix}").write_bytes(pack(plain))
    assert read(tmp_path) == (documents, {})


def test_zst_without_its_package_is_told_with_the_command(tmp_path, monkeypatch):
    (tmp_path / "a.txt.zst").write_bytes(b"any")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"a\.txt\.zst: .*pip install pyarrow"):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_records_without_text_are_one_rule_for_all(tmp_path, kind):
    texts = ["a", None, "", " \n\t", "b"]
    data = parquet_bytes(texts) if kind == "parquet" else lines([*({"text": text} for text in texts), {"other": 1}])
    (tmp_path / f"a.{kind}").write_bytes(data)
    assert read(tmp_path) == (["a", "b"], {WITHOUT_TEXT: 3 if kind == "parquet" else 4})


def test_a_field_that_no_record_has_is_an_error_and_found_early(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines([{"body": "x"}] * 5000))
    with pytest.raises(ValueError, match=r"line 1: no field 'text' \(it has: 'body'\); name another with #field"):
        read(tmp_path)


# ---- what is left out ----------------------------------------------------------------------------


def test_a_folder_says_what_it_leaves_out(tmp_path):
    folder, outside = tmp_path / "texts", tmp_path / "outside"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    (folder / "chapter").mkdir()
    outside.mkdir()
    for name in ("a.txt", "chapter/b.md", "._a.txt", ".ipynb_checkpoints/a-checkpoint.txt", "notes.pdf", "data.tar.gz"):
        (folder / name).write_text(name)
    (folder / "blank.txt").write_text(" \n")
    (outside / "secret.txt").write_text("secret")
    (folder / "leak.txt").symlink_to(outside / "secret.txt")
    (folder / "linked").symlink_to(outside)
    (folder / "again.txt").symlink_to(folder / "a.txt")  # or a text would be in both splits
    (folder / "loop").symlink_to(folder)
    documents, left_out = read(folder)
    assert documents == ["a.txt", "chapter/b.md"]
    assert left_out == {"hidden files and folders": 2, "files of other kinds": 2, "links": 4, WITHOUT_TEXT: 1}
    assert open_corpus(str(folder), TOKENIZER).description.endswith("documents without text: 1")
    (tmp_path / "way").symlink_to(folder)
    assert read(tmp_path / "way")[0] == documents, "the corpus itself may be a link"


def test_a_folder_without_permission_is_reported(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def refused(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(files.os, "scandir", refused)
    assert read(tmp_path) == ([TEXT], {"folders without permission": 1})
    with pytest.raises(PermissionError, match="closed"):
        read(tmp_path / "closed")


def test_a_folder_of_nothing_that_is_read_says_what_it_holds(tmp_path):
    (tmp_path / "a.pdf").write_text("x")
    (tmp_path / ".hidden.txt").write_text("x")
    with pytest.raises(ValueError, match=r"holds no \.txt.*left out: .*files of other kinds: 1"):
        read(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have names of characters only")
def test_a_name_that_is_not_utf_8_is_read_and_can_be_told(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text(TEXT)
    assert read(tmp_path)[0] == [TEXT]
    for source in (open_corpus, lambda *how: documents_of(*how, Counter())):
        with pytest.raises(ValueError, match=r"the corpus is .*, which is not UTF-8"):
            source(str(tmp_path / os.fsdecode(b"caf\xe9.txt")), TOKENIZER)
    (tmp_path / os.fsdecode(b"caf\xe9.jsonl")).write_text("{")
    code = "import sys; from diffuapriel.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "tokenize", str(tmp_path), "--out", str(tmp_path / "tokens")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "jsonl, line 1: not JSON" in done.stderr


def test_the_share_for_validation_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("short")
    (tmp_path / "b.txt").write_text(TEXT * 100)
    assert (
        open_corpus(str(tmp_path), TOKENIZER).description
        == "2 documents, 52,005 characters, 100.0% of them for validation"
    )


def test_the_fingerprint_follows_the_text_and_not_the_place(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.txt").write_text(f"text {i}")

    def fingerprint(name):
        return open_corpus(str(tmp_path / name), TOKENIZER).fingerprint()

    before = fingerprint("one")
    assert fingerprint("two") == before
    for change in (
        lambda f: f.write_text("text 2!"),
        lambda f: f.unlink(),
        lambda f: f.with_name("3.txt").write_text("x"),
    ):
        change(tmp_path / "two" / "2.txt")
        assert fingerprint("two") != before


# ---- what is refused -----------------------------------------------------------------------------


def fifo(path):
    os.mkfifo(path)


def zero(path):
    path.symlink_to("/dev/zero")


def unix_socket(path):
    socket.socket(socket.AF_UNIX).bind(str(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("make", [fifo, zero, unix_socket])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz", "a.parquet"])
def test_devices_and_pipes_are_no_corpus(tmp_path, monkeypatch, make, name):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    make(tmp_path.joinpath(name).relative_to(tmp_path))
    with pytest.raises(ValueError, match=f"{name} is a device, pipe or socket"):
        open_corpus(name, TOKENIZER)
    (tmp_path / "b.txt").write_text(TEXT)
    documents, left_out = read(tmp_path)
    assert documents == [TEXT] and sum(left_out.values()) == 1


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"text": "a", "n": ' + b'{"n":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b'{"text": "a", "n": ' + b"9" * 100_000 + b"}",
        b'{"text": "a", "n": [' + b"[]," * 5_000_000 + b"[]]}",
        b'{"text": "a", "n": {' + b'"":"",' * 2_000_000 + b'"":""}}',
        b'{"text": "' + b'\\"' * 5_000_000,
        b'{"text": "a" ' + b" " * 5_000_000,
    ],
    ids=["depth", "nested", "digits", "lists", "names", "unclosed", "blank"],
)
def test_a_hostile_line_is_refused_with_its_place(tmp_path, line):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' + line + b"\n")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: ") as refused:
        read(tmp_path)
    assert len(str(refused.value)) < 400


def test_a_long_line_of_text_is_no_hostile_one(tmp_path):
    text = 'He said: "[{(\\n' * 300_000
    (tmp_path / "a.jsonl").write_bytes(lines([{"text": text}]))
    assert read(tmp_path)[0] == [text]


@pytest.mark.parametrize("pack", [gzip.compress, zst])
@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: d[:-1], lambda d: b"foreign" + d[7:]])
def test_a_damaged_compressed_file_is_refused_by_name(tmp_path, pack, damage):
    name = f"a.txt.{'gz' if pack is gzip.compress else 'zst'}"
    (tmp_path / name).write_bytes(damage(pack(os.urandom(3000).hex().encode())))
    with pytest.raises(ValueError, match=f"{name}: damaged, or not a"):
        read(tmp_path)


@pytest.mark.parametrize(
    "name", ["a.txt.gz", "a.jsonl.gz", "a.md.zst", "long.parquet", "rows.parquet", "value.parquet"]
)
def test_a_file_that_expands_beyond_measure_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch, name):
    monkeypatch.setattr(files, "SMALL_TEXT", 1_000_000)
    bomb = {
        "a.txt.gz": lambda: gzip.compress(b"a" * 5_000_000),
        "a.jsonl.gz": lambda: gzip.compress(b'{"text": "a"}\n' * 500_000),
        "a.md.zst": lambda: zst(b"a" * 5_000_000),
        "long.parquet": lambda: parquet_bytes(["a" * 5_000_000], compression="zstd"),
        "rows.parquet": lambda: parquet_bytes([None, "a"] * 500_000, compression="zstd"),
        "value.parquet": lambda: parquet_bytes(["a" * 100_000] * 500, compression="zstd"),
    }
    (tmp_path / name).write_bytes(bomb[name]())
    with pytest.raises(ValueError, match=rf"{name}: [\d,]+ bytes expand to more than 100 times"):
        read(tmp_path)


@cache
def ordinary_parquet():
    texts = [f"row {i} " + "words " * (i % 9) for i in range(300)]
    return parquet_bytes(texts, row_group_size=100, data_page_size=256)


def refused_or_read(path):
    """For a damaged file: read all the same, or refused with a ValueError that names it."""
    try:
        read(path)
    except ValueError as error:
        assert type(error) is ValueError and str(path) in str(error) and len(str(error)) < 1000


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_a_damaged_parquet_file_is_refused_by_name(tmp_path_factory, data):
    content = bytearray(ordinary_parquet())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.parquet"
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    refused_or_read(path)
