"""Opens a corpus by name.

tales, tales:1, tales:2, tales:3      stories from the grammar ("tales" is "tales:3")
stdlib                                the Python standard library of this machine
book.txt  data.jsonl  data.parquet    your own file, or a folder of such files (also .md, .txt.gz, .jsonl.zst ...)
data.jsonl#content                    ... with the text in another field than "text"
hf:owner/name  hf:owner/name:config   a dataset of the Hugging Face Hub, streamed (also ...#field)
tokens:FOLDER                         any of these, tokenized once by `diffuapriel tokenize`
mix:FILE.yaml                         several of these, mixed by weight (mixed.py)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffuapriel.data.base import Corpus
from diffuapriel.options import check_utf8
from diffuapriel.tokenizer import Tokenizer


def open_corpus(spec: str, tokenizer: Tokenizer, *, mix: dict[str, Any] | None = None) -> Corpus:
    """The corpus that `spec` names, in one of the forms above.

    mix: what the file of `mix:FILE` held when a model was trained (`Mix.to_dict`); the file is then not read.

    Raises:
        ValueError: for a spec of unknown form, or a file that is empty, binary or malformed (the message
            names the file and the line, and the part of a mix).
        FileNotFoundError: for a path that does not exist.
        ImportError: if Parquet or the Hub needs a package that is not installed; the message has the command.
    """
    check_spec(spec)
    kind, _, rest = spec.partition(":")
    if kind == "tales":
        from diffuapriel.data.tales import TalesCorpus

        if rest not in ("", "1", "2", "3"):
            raise ValueError(f"tales have the levels 1, 2 and 3: 'tales:1' to 'tales:3', not {spec!r}")
        return TalesCorpus(tokenizer, level=int(rest or 3))
    if spec == "stdlib":
        from diffuapriel.data.stdlib import stdlib_corpus

        return stdlib_corpus(tokenizer)
    if kind == "tokens":
        from diffuapriel.data.token_cache import TokenCorpus

        return TokenCorpus(rest, tokenizer)
    if kind == "mix":
        return _open_mix(spec, tokenizer, mix)
    path, _, field = spec.partition("#")
    if kind == "hf":
        from diffuapriel.data.huggingface import HubCorpus

        return HubCorpus(path.removeprefix("hf:"), tokenizer, field=field or "text")
    if not Path(path).exists():
        raise FileNotFoundError(
            f"{path!r} is not a corpus: no such file or folder. Known names are tales:1, tales:2, tales:3 and "
            "stdlib; a dataset of the Hugging Face Hub is written hf:owner/name"
        )
    from diffuapriel.data.files import file_corpus

    return file_corpus(Path(path), tokenizer, field=field or "text")


def _open_mix(spec: str, tokenizer: Tokenizer, recorded: dict[str, Any] | None) -> Corpus:
    from diffuapriel.data.mixed import Mix, MixedCorpus, naming_part, read_mix

    mix = Mix.from_dict(recorded, spec) if recorded else read_mix(Path(spec.removeprefix("mix:")))
    corpora = []
    for part in mix.parts:
        with naming_part(spec, part):
            corpora.append(open_corpus(part.corpus, tokenizer))
    return MixedCorpus(spec, tokenizer, mix, corpora)


def check_spec(spec: str) -> None:
    """Raises ValueError for the name of a corpus that is no text, or that no file can hold because it is not UTF-8."""
    if not isinstance(spec, str) or not spec.strip():
        raise ValueError(f"a corpus is given as text such as 'tales:3', 'stdlib' or a path, not {spec!r}")
    check_utf8("the corpus", spec)
