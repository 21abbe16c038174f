"""Corpora from the user's own files: text, JSON lines, Parquet, or a folder of them.

    .txt       one document
    .jsonl     one document per line, in the field "text" or another given field
    .parquet   one document per row, in the column "text" or another given column
    a folder   the documents of all such files in it and below, in the order of their names

The last tenth of the documents is for validation; of a single document, the last tenth of its characters. An error
names the file that cannot be read, and the line if there is one.

The corpus is kept in memory as text and tokenized window by window. A larger one goes through `diffuapriel tokenize`
once, which reads document by document (build.py).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffuapriel.data.documents import DocumentCorpus, split_documents
from diffuapriel.tokenizer import Tokenizer

SUFFIXES = (".txt", ".jsonl", ".parquet")
LARGE = 1_000_000_000  # bytes of files above which a token cache is recommended

log = logging.getLogger(__name__)


def file_corpus(path: Path, tokenizer: Tokenizer, *, field: str = "text") -> DocumentCorpus:
    """The corpus of a file or folder. Raises ValueError if it is empty, binary or malformed."""
    files = find_files(path)
    size = sum(file.stat().st_size for file in files)
    if size > LARGE:
        log.warning(
            f"{path} holds {size / 1e9:.1f} GB and all of it is read into memory; "
            f"`diffuapriel tokenize {path} --out FOLDER` makes a corpus tokens:FOLDER that is not"
        )
    documents = [document for file in files for document in read_documents(file, field) if document.strip()]
    if not documents:
        raise ValueError(f"{path} holds no text")
    train, validation = split_documents(documents)
    megabytes = sum(map(len, documents)) / 1e6
    description = f"{len(documents)} documents, {megabytes:.2f} million characters, from {path}"
    return DocumentCorpus(str(path), tokenizer, train=train, validation=validation, description=description)


def find_files(path: Path) -> list[Path]:
    """The files of a corpus, in the order of their names. Raises ValueError if there is none."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise ValueError(f"the folder {path} holds no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
        return files
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: a corpus is read from {', '.join(SUFFIXES)} files, not from {path.suffix!r}")
    return [path]


def read_documents(file: Path, field: str = "text") -> Iterator[str]:
    """The documents of one file, in order."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        yield from _read_parquet(file, field)
    elif suffix == ".jsonl":
        yield from _read_json_lines(file, field)
    else:
        yield _decode(file.read_bytes(), file)


def _read_json_lines(file: Path, field: str) -> Iterator[str]:
    with file.open("rb") as stream:
        for number, data in enumerate(stream, start=1):
            line, where = _decode(data, file, number).strip(), f"{file}, line {number}"
            if not line:
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: not JSON ({error.msg} at character {error.colno})") from None
            if not isinstance(record, dict):
                raise ValueError(f"{where}: expected a JSON object with a field {field!r}, not {line[:40]!r}")
            yield field_text(record, field, where)


def _decode(data: bytes, file: Path, first: int = 1) -> str:
    """The text of bytes that begin at line `first` of a file. ValueError, with the line, if they are not UTF-8 text."""
    try:
        text = data.decode("utf-8-sig" if first == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line = first + data.count(b"\n", 0, error.start)
        raise ValueError(f"{file}, line {line}: not UTF-8 text ({error.reason}); a binary file?") from None
    if "\0" in text:
        line = first + text.count("\n", 0, text.index("\0"))
        raise ValueError(f"{file}, line {line}: holds a zero byte; a binary file?")
    return text


def field_text(record: dict[str, Any], field: str, where: str) -> str:
    """The text in a field of a record. Raises ValueError, which names `where`, if the field is missing or not text."""
    if field not in record:
        known = ", ".join(map(repr, record)) or "none"
        raise ValueError(f"{where}: no field {field!r} (it has: {known}); name another with #field")
    text = record[field]
    if not isinstance(text, str):
        raise ValueError(f"{where}: the field {field!r} holds {type(text).__name__}, not text")
    return text


def _read_parquet(file: Path, field: str) -> Iterator[str]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError(f"{file}: reading Parquet needs pyarrow: pip install pyarrow") from error
    try:
        table = parquet.ParquetFile(file)
        columns = table.schema_arrow.names
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a Parquet file ({str(error).splitlines()[0]})") from None
    if field not in columns:
        raise ValueError(f"{file}: no column {field!r} (it has: {', '.join(columns)}); name another with #field")
    row = 0
    for batch in table.iter_batches(columns=[field]):
        for value in batch.column(0).to_pylist():
            row += 1
            if value is None:
                continue
            yield field_text({field: value}, field, f"{file}, row {row}")
