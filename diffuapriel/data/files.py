"""Corpora from the user's own files: text, JSON lines, Parquet, or a folder of them.

    .txt .md   one document
    .jsonl     one document per line, in the field "text" or another given field
    .parquet   one document per row, in the column "text" or another given column
    a folder   the documents of all such files in it and below, in the order of their names

Text and JSON lines may be compressed (book.txt.gz, data.jsonl.zst). In a folder, hidden files and folders, links, and
files of other kinds are left out; so are records whose text is null, missing or blank. All that is left out is counted
and is part of the corpus's description.

A folder whose files or folders are all called train, validation (or valid, heldout) or test, e.g. train.parquet and
heldout.parquet, has these splits; test is left out, unless it is all there is for validation. Elsewhere the last tenth
of the documents is for validation; of a single document, the last tenth of its characters. An error names the file
that cannot be read, and the line if there is one. A file whose text is far larger than the file itself is refused
before it fills the memory (MAX_EXPANSION).

The corpus is kept in memory as text and tokenized window by window. A larger one goes through `diffuapriel tokenize`
once, which reads document by document (build.py).
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from diffuapriel.data.base import ALIASES, SPLITS, describe_left_out
from diffuapriel.data.documents import DocumentCorpus, describe, split_documents
from diffuapriel.tokenizer import Tokenizer

SUFFIXES = (".txt", ".md", ".jsonl", ".parquet")
COMPRESSED = (".gz", ".zst")
READ = ".txt, .md, .jsonl or .parquet file (the first three also as .gz or .zst)"
WITHOUT_TEXT = "documents without text"
LARGE = 1_000_000_000  # bytes of files above which a token cache is recommended
MAX_EXPANSION = 100  # text of a compressed or Parquet file over its size, beyond SMALL_TEXT
SMALL_TEXT = 100_000_000  # characters
ROW_CHARACTERS = 16  # of a Parquet row without text, as far as MAX_EXPANSION is concerned
BATCH_BYTES = 256_000_000  # of a row group of Parquet, decoded at once
MAX_STRUCTURE = 1_000_000  # characters of a JSON line outside its strings
NUM_WITHOUT_FIELD = 1000  # first records of a JSON-lines file that may lack the field

log = logging.getLogger(__name__)


def file_corpus(path: Path, tokenizer: Tokenizer, *, field: str = "text") -> DocumentCorpus:
    """The corpus of a file or folder. Raises ValueError if it is empty, binary or malformed."""
    left_out: Counter[str] = Counter()
    files = find_files(path, left_out)
    size = sum(file.stat().st_size for file in files)
    if size > LARGE:
        log.warning(
            f"{path} holds {size / 1e9:.1f} GB and all of it is read into memory; "
            f"`diffuapriel tokenize {path} --out FOLDER` makes a corpus tokens:FOLDER that is not"
        )
    splits = own_splits(path, files, left_out) or {"": files}
    documents = {
        split: [text for file in files for text in read_documents(file, field, left_out)]
        for split, files in splits.items()
    }
    if not any(documents.values()):
        raise ValueError(f"{path} holds no text")
    train, validation = split_documents(documents[""]) if "" in documents else map(documents.__getitem__, SPLITS)
    description = describe(sum(map(len, documents.values())), train, validation, left_out)
    return DocumentCorpus(str(path), tokenizer, train=train, validation=validation, description=description)


def find_files(path: Path, left_out: Counter[str]) -> list[Path]:
    """The files of a corpus, in the order of their names; what is passed over is added to `left_out`.

    Raises ValueError if there is none, and for a device or pipe.
    """
    if path.is_dir():
        files = sorted(_walk(path, left_out))
        if not files:
            raise ValueError(f"the folder {path} holds no {READ}{describe_left_out(left_out)}")
        return files
    if not path.is_file():
        raise ValueError(f"{path} is a device, pipe or socket; a corpus is a file or a folder")
    if _suffix(path.name) is None:
        raise ValueError(f"{path} is no {READ}")
    return [path]


def own_splits(path: Path, files: list[Path], left_out: Counter[str]) -> dict[str, list[Path]] | None:
    """The files of "train" and of "validation", where the names of all files in the folder `path` say so.

    train.parquet, train-00001.parquet and train/one.txt belong to "train". A split called test is for validation if
    there is no other; else its files are counted in `left_out`.
    """
    names = [re.split(r"[-_.]", file.relative_to(path).parts[0].lower())[0] for file in files if file != path]
    kinds = [ALIASES.get(name, name) for name in names]
    if "validation" not in kinds:
        kinds = ["validation" if kind == "test" else kind for kind in kinds]
    if not set(SPLITS) <= set(kinds) <= {*SPLITS, "test"}:
        return None
    if "test" in kinds:
        left_out["files of the split test"] += kinds.count("test")
    return {split: [file for file, kind in zip(files, kinds) if kind == split] for split in SPLITS}


def _walk(root: Path, left_out: Counter[str]) -> Iterator[Path]:
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(folder))
        except PermissionError:
            if folder == root:
                raise
            left_out["folders without permission"] += 1
            continue
        for entry in entries:
            if entry.name.startswith("."):
                left_out["hidden files and folders"] += 1
            elif entry.is_symlink():
                left_out["links"] += 1
            elif entry.is_dir():
                folders.append(Path(entry.path))
            elif entry.is_file() and _suffix(entry.name):
                yield Path(entry.path)
            else:
                left_out["files of other kinds"] += 1


def _suffix(name: str) -> str | None:
    """The suffix that says how a file is read, without that of its compression; None for files of other kinds."""
    stem, suffix = os.path.splitext(name.lower())
    if suffix in COMPRESSED:
        suffix = os.path.splitext(stem)[1]
        return suffix if suffix in SUFFIXES and suffix != ".parquet" else None
    return suffix if suffix in SUFFIXES else None


def read_documents(file: Path, field: str, left_out: Counter[str]) -> Iterator[str]:
    """The documents of one file, in order; those without text are counted in `left_out`."""
    suffix = _suffix(file.name)
    if suffix == ".parquet":
        texts = _read_parquet(file, field)
    elif suffix == ".jsonl":
        texts = _read_json_lines(file, field)
    else:
        texts = _read_text(file)
    for text in texts:
        if text and not text.isspace():
            yield text
        else:
            left_out[WITHOUT_TEXT] += 1


def _read_text(file: Path) -> Iterator[str]:
    with _open(file) as stream:
        yield _decode(stream.read(), file)


def _read_json_lines(file: Path, field: str) -> Iterator[str | None]:
    lacking, complaint = 0, ""  # records before the first that has the field
    with _open(file) as stream:
        for number, data in enumerate(stream, start=1):
            line, where = _decode(data, file, number).strip(), f"{file}, line {number}"
            if not line:
                continue
            record = _parse(line, where)
            if not isinstance(record, dict):
                raise ValueError(f"{where}: expected a JSON object with a field {field!r}, not {line[:40]!r}")
            if lacking is not None and field in record:
                lacking = None
            elif lacking is not None:
                complaint = complaint or no_field(record, field, where)
                lacking += 1
                if lacking == NUM_WITHOUT_FIELD:
                    break
            yield field_text(record, field, where)
    if lacking:
        raise ValueError(complaint)


def _parse(line: str, where: str) -> Any:
    if len(line) > MAX_STRUCTURE:  # many small values take a hundred times the memory of their line
        end = outside = 0
        for string in _STRING.finditer(line):
            outside, end = outside + string.start() - end, string.end()
            if outside > MAX_STRUCTURE:
                break
        if outside + len(line) - end > MAX_STRUCTURE:
            raise ValueError(f"{where}: more than {MAX_STRUCTURE:,} characters outside strings; not a record of text")
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg} at character {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or deep nesting
        raise ValueError(f"{where}: JSON that cannot be read ({error})") from None


_STRING = re.compile(
    r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL
)  # also one that never ends, so that no text is read twice


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


def field_text(record: dict[str, Any], field: str, where: str) -> str | None:
    """The text in a field of a record, or None. ValueError, which names `where`, if the field holds anything else."""
    text = record.get(field)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{where}: the field {field!r} holds {type(text).__name__}, not text")
    return text


def no_field(record: dict[str, Any], field: str, where: str) -> str:
    """The complaint about a record without the field."""
    known = ", ".join(map(repr, record))[:200] or "none"
    return f"{where}: no field {field!r} (it has: {known}); name another with #field"


def _read_parquet(file: Path, field: str) -> Iterator[str | None]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError(f"{file}: reading Parquet needs pyarrow: pip install pyarrow") from error
    row = expanded = 0
    try:
        table = parquet.ParquetFile(file)
        columns = table.schema_arrow.names
        if field not in columns:
            raise ValueError(
                f"{file}: no column {field!r} (it has: {', '.join(columns)[:200]}); name another with #field"
            )
        for group in range(table.num_row_groups):
            chunks = table.metadata.row_group(group)
            size = max(1, chunks.total_byte_size)  # decompressed; a damaged `chunks.column` ends the process
            _check_expansion(file, max(size, chunks.num_rows))
            rows = min(1024, max(4, BATCH_BYTES // size))  # one value in a dictionary may stand for all of them
            for batch in table.iter_batches(rows, row_groups=[group], columns=[field]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    expanded += ROW_CHARACTERS + (len(value) if isinstance(value, str) else 0)
                    yield field_text({field: value}, field, f"{file}, row {row}")
                _check_expansion(file, expanded)
    except (arrow.ArrowException, OSError, OverflowError, UnicodeDecodeError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file}: not a Parquet file, or a damaged one ({reason[:200]})") from None


def _check_expansion(file: Path, characters: int) -> None:
    """ValueError if so many characters are too many for a file of this size: a decompression bomb."""
    size = file.stat().st_size
    if characters > max(SMALL_TEXT, MAX_EXPANSION * size):
        raise ValueError(
            f"{file}: {size:,} bytes expand to more than {MAX_EXPANSION} times their size; decompress the file first "
            "if it is meant to be so"
        )


def _open(file: Path) -> IO[bytes]:
    """The bytes of a text file, decompressed."""
    if file.suffix.lower() not in COMPRESSED:
        return file.open("rb")
    return io.BufferedReader(_Decompressed(file), 2**17)


class _Decompressed(io.RawIOBase):
    """The content of a compressed file. Reading raises ValueError that names it where it is damaged or a bomb."""

    def __init__(self, file: Path) -> None:
        self.file, self.count = file, 0
        if file.suffix.lower() == ".gz":
            self.stream: Any = gzip.GzipFile(file)
            return
        try:
            import pyarrow
        except ImportError as error:
            raise ImportError(f"{file}: reading .zst files needs pyarrow: pip install pyarrow") from error
        self.stream = pyarrow.input_stream(str(file), compression="zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.stream.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{self.file}: damaged, or not a {self.file.suffix} file ({error})") from None
        self.count += len(data)
        _check_expansion(self.file, self.count)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self.stream.close()
        super().close()
