"""A corpus mixed from others by weight: `mix:FILE`, where FILE is YAML.

    parts:
      - corpus: tokens:stories    # any corpus but another mix; paths are relative to FILE
        weight: 50                # share of the rows, relative to the weights of the other parts
        final_weight: 80          # the same at the end of a run; by default `weight`
      - corpus: books/
        name: books               # in tables and logs; by default the end of `corpus`
        weight: 50
        final_weight: 20
    final_fraction: 0.1           # the last tenth of the steps of a run is read by final_weight

Every part keeps its own validation split. Validation rows are drawn by `weight`, whatever the step.

Rows are dealt to the parts in blocks, each of which holds the share of every part and is shuffled (`Deal`). The rows of
a part are numbered through: the first that is dealt to it is row 0 of its corpus, the next one row 1, and so on. So a
part that is a token cache is read window by window, each once per epoch, and a stream is read without gaps. Which
part a row belongs to, and its number there, is computed from (seed, split, step, row) alone.
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise, permutations
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from diffuapriel.data.base import Corpus, check_batch, check_split, digest_of, random_stream, stream_key
from diffuapriel.data.documents import DocumentCorpus
from diffuapriel.data.tales import TalesCorpus
from diffuapriel.data.token_cache import TokenCorpus
from diffuapriel.options import Option, shown
from diffuapriel.tokenizer import Tokenizer

BLOCK = 100  # rows; more if a part has less than 1 % of them
LEAST_SHARE = 1e-4  # of the rows, for a part that has any
MAX_BYTES = 100_000  # of a mix's file
MAX_BRACKETS = 1000  # [ and {: the time to read them grows with their square
WEIGHT = Option("weight", float, None, least=0, most=1e9)
FINAL_FRACTION = Option("final_fraction", float, None, least=0, most=0.99, above=True)
NAME = re.compile(r"[\w.:#-][\w .:#-]{,59}")


@dataclass(frozen=True)
class MixPart:
    """One part of a mix. `corpus` is a spec as `open_corpus` takes it, relative to the working directory."""

    name: str
    corpus: str
    weight: float
    final_weight: float


@dataclass(frozen=True)
class Mix:
    """The content of a mix's file. `final_fraction`: the last part of a run's steps, read by `final_weight`."""

    parts: tuple[MixPart, ...]
    final_fraction: float = 0.0

    @classmethod
    def from_dict(cls, document: Any, where: str, folder: str | Path = "") -> Mix:
        """The mix in a document as `to_dict` or a YAML file holds it.

        folder: what the paths are relative to. Raises ValueError that names `where`, the part and what is permitted.
        """
        _check_keys(document, {"parts"}, {"final_fraction"}, where)
        entries, fraction = document["parts"], document.get("final_fraction")
        if not isinstance(entries, (list, tuple)) or not entries:
            raise ValueError(f"{where}: parts is {shown(entries)}; it must be a list of one part or more")
        parts = []
        for number, entry in enumerate(entries, 1):
            what = f"{where}: part {number}"
            if isinstance(entry, dict) and isinstance(entry.get("corpus"), str):
                what += f" ({shown(entry['corpus'])})"
            parts.append(_part(entry, what, Path(folder)))
        _refuse_doubles(parts, where)
        for name in ("weight", "final_weight"):
            _check_shares(parts, name, where)
        changes = any(part.weight != part.final_weight for part in parts)
        if changes and fraction is None:
            raise ValueError(f"{where}: final_weight needs final_fraction, e.g. 0.1 for the last tenth of a run")
        if fraction is not None and not changes:
            raise ValueError(f"{where}: final_fraction needs a part with a final_weight that differs from its weight")
        return cls(tuple(parts), 0.0 if fraction is None else _number(FINAL_FRACTION, fraction, where))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and YAML."""
        parts = [asdict(part) for part in self.parts]
        return {"parts": parts, **({"final_fraction": self.final_fraction} if self.final_fraction else {})}


def read_mix(file: Path) -> Mix:
    """The mix in a YAML file. Raises FileNotFoundError, or ValueError that names the file, the part and the fault."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file; a mix is written mix:FILE.yaml (docs/cli.md has an example)")
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file} has {file.stat().st_size:,} bytes; the YAML of a mix has at most {MAX_BYTES:,}")
    try:
        text = file.read_text(encoding="utf-8-sig")
        if sum(map(text.count, "[{")) > MAX_BRACKETS:
            raise ValueError(f"more than {MAX_BRACKETS:,} brackets")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):  # can expand without end
            raise ValueError("aliases (*name) are not read")
        document = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ValueError(f"{file}{line}: not YAML ({error.problem})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not the YAML of a mix ({str(error).splitlines()[0][:200]})") from None
    return Mix.from_dict(document, str(file), file.parent)


def write_mix(file: Path, mix: Mix) -> None:
    """Write the YAML of a mix, whose paths are relative to `file`."""
    file.write_text(yaml.safe_dump(mix.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")


@contextmanager
def naming_part(spec: str, part: MixPart) -> Iterator[None]:
    """Errors within the block name the part of the mix `spec`."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        kind = ImportError if isinstance(error, ImportError) else ValueError
        raise kind(f"{spec}, part {part.name!r}: {error}") from None


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} occurs twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


def _part(entry: Any, where: str, folder: Path) -> MixPart:
    _check_keys(entry, {"corpus", "weight"}, {"name", "final_weight"}, where)
    corpus = entry["corpus"]
    if not isinstance(corpus, str) or not corpus.strip():
        raise ValueError(f"{where}: corpus is {shown(corpus)}; it must be text such as 'tokens:FOLDER' or a path")
    if corpus.startswith("mix:"):
        raise ValueError(f"{where}: a mix holds no other mix; list its parts here")
    name = entry.get("name", re.split(r"[/\\]", corpus.rstrip("/\\"))[-1].removeprefix("tokens:"))
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(
            f"{where}: name is {shown(name)}; it must have up to 60 letters, digits, spaces and '_.:#-': "
            "give the part a `name`"
        )
    weight = _number(WEIGHT, entry["weight"], where)
    final = _number(WEIGHT, entry.get("final_weight", weight), f"{where}: final_weight")
    if not weight and not final:
        raise ValueError(
            f"{where}: weight is {weight:g}, so the part is never read; it must be above 0: remove the part"
        )
    return MixPart(name, _beside(corpus, folder), weight, final)


def _beside(spec: str, folder: Path) -> str:
    """A corpus whose path is relative to `folder`, as a spec relative to the working directory."""
    kind, _, rest = spec.partition(":")
    if kind == "tales" or spec == "stdlib" or (kind == "hf" and not (folder / rest).is_dir()):
        return spec
    prefix = f"{kind}:" if kind in ("tokens", "hf") else ""
    return prefix + str(folder / spec.removeprefix(prefix))


def _check_keys(document: Any, needed: set[str], others: set[str], where: str) -> None:
    known = f"permitted: {', '.join(sorted(needed | others))}"
    if not isinstance(document, dict):
        raise ValueError(f"{where}: {shown(document)} is not a set of keys; {known}")
    if missing := needed - document.keys():
        raise ValueError(f"{where}: {' and '.join(sorted(missing))} is missing; {known}")
    if unknown := document.keys() - needed - others:
        raise ValueError(f"{where}: unknown key {shown(min(map(str, unknown)))}; {known}")


def _number(option: Option, value: Any, where: str) -> float:
    try:
        return option.check(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _refuse_doubles(parts: Sequence[MixPart], where: str) -> None:
    for first, other in permutations(parts, 2):
        (kind, path, field), (other_kind, other_path, other_field) = map(_place, (first.corpus, other.corpus))
        if (kind, path, field) == (other_kind, other_path, other_field):
            raise ValueError(f"{where}: {first.corpus!r} occurs twice; give it once, with the sum of the weights")
        if first.name == other.name:
            raise ValueError(f"{where}: two parts are called {first.name!r}; give one of them another `name`")
        if kind == other_kind == "file" and Path(path) in Path(other_path).parents:
            raise ValueError(
                f"{where}: part {other.name!r} lies in the folder of part {first.name!r}, so that validation text of "
                "one is training text of the other; move it out of that folder"
            )


def _place(spec: str) -> tuple[str, str, str]:
    """Kind, place and field of a corpus: equal for two spellings of the same."""
    kind, _, rest = spec.partition(":")
    if kind in ("tales", "hf") or spec == "stdlib":
        return kind, rest or "3", ""
    path, _, field = (rest, "", "") if kind == "tokens" else spec.partition("#")
    return "tokens" if kind == "tokens" else "file", os.path.realpath(path), field or "text"


def _check_shares(parts: Sequence[MixPart], name: str, where: str) -> None:
    total = math.fsum(getattr(part, name) for part in parts)
    if not total:
        raise ValueError(f"{where}: {name} is 0 in every part; at least one must be above 0")
    for part in parts:
        if 0 < getattr(part, name) < LEAST_SHARE * total:
            raise ValueError(
                f"{where}: part {part.name!r} has {getattr(part, name) / total:.2g} of the rows by its {name}; "
                f"it must have {LEAST_SHARE:g} or more: raise it, or remove the part"
            )


@dataclass(frozen=True)
class Deal:
    """Deals rows 0, 1, 2 ... to parts: in blocks that hold the share of every part, each block in a random order.

    Among the first n rows a part has its share of n: exactly after every block, up to rounding to whole rows.
    """

    weights: tuple[float, ...]
    key: tuple[int | str, ...]  # of the random order

    @cached_property
    def size(self) -> int:
        """Rows of a block: so many that the rounded count of a part never falls from one block to the next."""
        smallest = min(weight for weight in self.weights if weight)
        return max(BLOCK, math.ceil(math.fsum(self.weights) / smallest) + 1)

    def counts(self, rows: int) -> list[int]:
        """The number of rows of each part among the first `rows`."""
        block, rest = divmod(rows, self.size)
        counts = self._counts_of_blocks(block)
        for part in _block(self, block)[:rest]:
            counts[part] += 1
        return counts

    def part(self, row: int) -> int:
        """The part of one row."""
        block, place = divmod(row, self.size)
        return _block(self, block)[place]

    @cached_property
    def _edges(self) -> list[float]:
        sums = list(accumulate(self.weights))
        return [edge / sums[-1] for edge in sums]

    def _counts_of_blocks(self, blocks: int) -> list[int]:
        edges = [0, *(int(blocks * self.size * edge) for edge in self._edges)]
        return [end - start for start, end in pairwise(edges)]


@lru_cache(maxsize=64)
def _block(deal: Deal, number: int) -> list[int]:
    """The parts of the rows of a block."""
    before, after = deal._counts_of_blocks(number), deal._counts_of_blocks(number + 1)
    parts = [part for part, (start, end) in enumerate(zip(before, after)) for _ in range(end - start)]
    random_stream(*deal.key, "block", number).shuffle(parts)
    return parts


@dataclass(frozen=True)
class PartUse:
    """What a run has read of a part. `epochs` is None where the length of the part is unknown or without end."""

    name: str
    share: float  # of all tokens
    tokens: int
    epochs: float | None


class MixedCorpus:
    """The corpora of a mix, by name of the part in `parts`.

    Without a change of weights it is a corpus like any other. With one, training rows need `for_steps` first.
    """

    def __init__(self, name: str, tokenizer: Tokenizer, mix: Mix, corpora: Sequence[Corpus]) -> None:
        self.name, self.tokenizer, self.mix = name, tokenizer, mix
        self.parts = {part.name: corpus for part, corpus in zip(mix.parts, corpora, strict=True)}
        self._weights = tuple(part.weight for part in mix.parts)
        self._final_weights = tuple(part.final_weight for part in mix.parts)
        self._final_step: int | None = None if mix.final_fraction else 2**63

    def __repr__(self) -> str:
        return f"MixedCorpus({self.name!r}, {', '.join(map(repr, self.parts.values()))})"

    def for_steps(self, total_steps: int | None) -> MixedCorpus:
        """The corpus for a run of so many steps. ValueError if weights change and the number is not known."""
        if not self.mix.final_fraction:
            return self
        if total_steps is None:
            raise ValueError(
                f"the weights of {self.name} change in the last {self.mix.final_fraction:.0%} of a run: give its "
                "length in steps or tokens, not in minutes (--steps or --tokens), or remove final_weight"
            )
        corpus = copy.copy(self)
        corpus._final_step = total_steps - round(total_steps * self.mix.final_fraction)
        return corpus

    @property
    def description(self) -> str:
        total, final = math.fsum(self._weights), math.fsum(self._final_weights)
        return "; ".join(
            f"{part.name}, {part.weight / total:.1%} of the rows"
            + f", {part.final_weight / final:.1%} at the end" * bool(self.mix.final_fraction)
            + f": {corpus.description}"
            for part, corpus in zip(self.mix.parts, self.parts.values())
        )

    def fingerprint(self) -> str:
        weights = json.dumps([self._weights, self._final_weights, self.mix.final_fraction])
        return digest_of(["mix", weights, *(corpus.fingerprint() for corpus in self.parts.values())])

    def document(self, index: int, *, split: str, seed: int) -> str:
        """Document number `index` of a split: documents are dealt to the parts like rows, by `weight`.

        ValueError where a part has no more documents.
        """
        split = check_split(split)
        deal = self._deal(split, seed, "document")
        part = deal.part(index)
        corpus = list(self.parts.values())[part]
        return corpus.document(deal.counts(index)[part], split=split, seed=seed)

    def texts(self, split: str) -> Iterator[str]:
        """The documents of a split, part after part, without those of tales, which have no end."""
        ended = (corpus for corpus in self.parts.values() if not isinstance(corpus, TalesCorpus))
        return (text for corpus in ended for text in corpus.texts(split))

    def batch(
        self, step: int, *, split: str, batch_size: int, length: int, seed: int, rows: range | None = None
    ) -> Tensor:
        split, rows = check_batch(step, split, batch_size, length, rows)
        ids = torch.empty((len(rows), length), dtype=torch.int64)
        dealt = [*self._dealt(step, split, batch_size, seed, rows)]
        for part, corpus in enumerate(self.parts.values()):
            own = [i for i, (of, _) in enumerate(dealt) if of == part]
            if own:
                numbers = range(dealt[own[0]][1], dealt[own[-1]][1] + 1)
                which = {"split": split, "length": length, "seed": seed}
                ids[own] = corpus.batch(0, batch_size=numbers.stop, rows=numbers, **which)
        return ids

    def _dealt(self, step: int, split: str, batch_size: int, seed: int, rows: range) -> Iterator[tuple[int, int]]:
        """(part, number of the row among those of the part) for rows of a step."""
        start, deal, counts = 0, self._deal(split, seed), [0] * len(self.parts)
        if split == "train":
            start = self._checked_final_step() * batch_size  # the first row of the final weights
        if split == "train" and step * batch_size >= start:
            counts = deal.counts(start)
            deal = self._deal(split, seed, "final", weights=self._final_weights)
        else:
            start = 0
        first = step * batch_size + rows.start - start
        counts = [before + count for before, count in zip(counts, deal.counts(first))]
        for row in range(first, first + len(rows)):
            part = deal.part(row)
            yield part, counts[part]
            counts[part] += 1

    def use(self, steps: int, *, batch_size: int, length: int, seed: int) -> list[PartUse]:
        """What the first `steps` steps of training read of each part."""
        final = min(steps, self._checked_final_step())
        counts = self._deal("train", seed).counts(final * batch_size)
        after = self._deal("train", seed, "final", weights=self._final_weights)
        counts = [a + b for a, b in zip(counts, after.counts((steps - final) * batch_size))]
        return [
            PartUse(name, count / max(1, steps * batch_size), count * length, _epochs(corpus, count * length))
            for (name, corpus), count in zip(self.parts.items(), counts)
        ]

    def _checked_final_step(self) -> int:
        if self._final_step is None:
            raise ValueError(f"the weights of {self.name} change during a run: call for_steps with its length first")
        return self._final_step

    def _deal(self, split: str, seed: int, *what: str, weights: tuple[float, ...] | None = None) -> Deal:
        return Deal(weights or self._weights, ("mix", seed, stream_key(split), *what))


def _epochs(corpus: Corpus, tokens: int) -> float | None:
    """How often so many tokens read a part's training split, to a few percent for text that is not tokenized yet."""
    if isinstance(corpus, (DocumentCorpus, TokenCorpus)):
        return tokens / corpus.tokens("train")
    return None


def use_table(uses: Sequence[PartUse]) -> str:
    """Lines for a terminal."""
    width = max(len(use.name) for use in uses)
    times = ["" if use.epochs is None else f", read {use.epochs:,.3g} times" for use in uses]
    return "\n".join(
        f"{use.name:{width}}  {use.share:6.1%} {use.tokens:>16,} tokens{read}" for use, read in zip(uses, times)
    )
