"""Zero-shot tasks from held-out text, for lm-evaluation-harness: the last word of a passage, and its true ending.

A document is cut into passages that do not overlap: whole sentences of 40 words or more, the context, and the sentence
that follows. Both kinds of items are made from them.

    last_word   LAMBADA's shape (arXiv:1606.06031): a passage without its final punctuation, whose last word is asked
                for. The word stands in the context but not earlier in the last sentence, and is not among the 100 most
                frequent words of the text. LAMBADA's own criterion, that people guess the word from the passage and
                not from its last sentence alone, cannot be met without people
    endings     ARC's shape (arXiv:1803.05457): the context and four sentences, one of which follows it. The others
                follow other passages, of other documents if there are any, and are at most 20 % longer or shorter. No
                item has quotation marks that open or close within it only: they would give endings away

All text is from the validation split. The items are a function of the text and the seed, in random order, so the
harness's --limit takes a random part of them. A figure is comparable between models, not with LAMBADA or ARC.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffuapriel.data.base import Corpus, random_stream
from diffuapriel.evaluation.text.copying import words_of
from diffuapriel.options import check_least
from diffuapriel.storage import replace_folder

CONTEXT_WORDS = range(40, 91)
ENDING_WORDS = range(5, 31)
FREQUENT = 100  # words that are never asked for: "the", "said", ...
CHOICES = 4
NEAR = 0.2  # how much longer or shorter a wrong ending may be, in characters
MOST_CHARACTERS = 20_000_000  # of validation text that is read
LABELS = "ABCD"

# The end of a sentence, quotes included; not after a title or an initial, nor before a small letter ("Stop!" he said).
_END = re.compile(r"""(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\b[A-Z])[.!?]+["'”’)]*(?=\s+[^\sa-z]|\s*$)""")
_LAST_WORD = re.compile(r"""^(.+ )([^\W\d_]+)[.!?]+["'”’)]*$""", re.S)

Item = dict[str, Any]

LAST_WORD = """\
output_type: loglikelihood
doc_to_text: "{{text.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{' '+text.split(' ')[-1]}}"
metric_list:
  - metric: perplexity
    aggregation: perplexity
    higher_is_better: false
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
ENDINGS = """\
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{choices.label.index(answerKey)}}"
doc_to_choice: "{{choices.text}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""
TASKS = {"last_word": LAST_WORD, "endings": ENDINGS}


@dataclass(frozen=True)
class Passage:
    """A context and the sentence that follows it after one space. document: its number in the split."""

    document: int
    context: str
    ending: str


def write_tasks(corpus: Corpus, folder: str | Path, *, items: int = 300, seed: int = 0) -> list[str]:
    """Write `items` items of each kind and their task files; returns the names of the tasks, FOLDER_KIND.

    The task files hold the absolute path of the folder, which must not exist yet.

    Raises FileExistsError if it does, and as `make_items`.
    """
    folder = Path(folder).resolve()
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; remove it, or choose another folder")
    made = make_items(corpus, items=items, seed=seed)
    names = {kind: re.sub(r"\W+", "_", f"{folder.name}_{kind}") for kind in made}

    def write(into: Path) -> None:
        for kind, found in made.items():
            lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in found)
            (into / f"{kind}.jsonl").write_text(lines, encoding="utf-8")
            data = {"data_files": {"test": str(folder / f"{kind}.jsonl")}}
            head = f"task: {names[kind]}\ndataset_path: json\ndataset_kwargs: {json.dumps(data)}\ntest_split: test\n"
            source = json.dumps({"version": 1.0, "corpus": corpus.name, "seed": seed})
            task = f"{head}{TASKS[kind]}metadata: {source}\n"
            (into / f"{kind}.yaml").write_text(task, encoding="utf-8")

    replace_folder(folder, write)
    return list(names.values())


def make_items(corpus: Corpus, *, items: int = 300, seed: int = 0) -> dict[str, list[Item]]:
    """The items of each kind, from the validation split. Raises ValueError if its text is too little for so many."""
    check_least(items=items)
    texts = list(_first(corpus.texts("validation"), MOST_CHARACTERS))
    passages = [passage for number, text in enumerate(texts) for passage in passages_of(number, text)]
    frequent = {word for word, _ in Counter(w for text in texts for w in words_of(text)).most_common(FREQUENT)}
    found = {
        "last_word": last_words(passages, frequent, items, random_stream(seed, "last_word")),
        "endings": endings(passages, items, random_stream(seed, "endings")),
    }
    if lacking := [f"{len(made)} items of {kind}" for kind, made in found.items() if len(made) < items]:
        fewest = min(map(len, found.values()))
        raise ValueError(
            f"{corpus.name}: the validation split, {len(texts):,} documents with {len(passages):,} passages of "
            f"{CONTEXT_WORDS[0]} words or more, gives only {' and '.join(lacking)} instead of {items}; give more "
            f"text" + (f", or ask for fewer: --items {fewest}" if fewest else "")
        )
    return found


def passages_of(number: int, text: str) -> Iterator[Passage]:
    """The passages of document `number`, in order. Text and line feeds within them are as they were."""
    ends = [match.end() for match in _END.finditer(text)]
    starts = [len(text) - len(text[end:].lstrip()) for end in [0, *ends[:-1]]]
    counts = [len(text[start:end].split()) for start, end in zip(starts, ends)]
    first = 0
    while first < len(ends):
        after, words = first + 1, counts[first]  # the context is sentences first to after - 1
        while words < CONTEXT_WORDS[0] and after < len(ends):
            words, after = words + counts[after], after + 1
        if after == len(ends):
            return
        fits = words in CONTEXT_WORDS and counts[after] in ENDING_WORDS
        if fits and text[ends[after - 1] : starts[after]] == " ":
            yield Passage(number, text[starts[first] : ends[after - 1]], text[starts[after] : ends[after]])
            first = after + 1
        else:
            first += 1


def last_words(passages: Iterable[Passage], frequent: set[str], items: int, rng: random.Random) -> list[Item]:
    """At most `items` items whose last word is asked for; see the module's docstring."""
    candidates = []
    for passage in passages:
        if found := _LAST_WORD.match(passage.ending):
            before, word = found[1], found[2].lower()
            if word not in frequent and word in words_of(passage.context) and word not in words_of(before):
                candidates.append({"text": f"{passage.context} {before}{found[2]}", "document": passage.document})
    return rng.sample(candidates, min(items, len(candidates)))


def endings(passages: Sequence[Passage], items: int, rng: random.Random) -> list[Item]:
    """At most `items` items with four endings, one true; see the module's docstring."""
    passages = [passage for passage in passages if '"' not in passage.ending and passage.context.count('"') % 2 == 0]
    one_document = len({passage.document for passage in passages}) == 1
    made: list[Item] = []
    for true in rng.sample(passages, len(passages)):
        if len(made) == items:
            break
        others = {
            other.ending
            for other in passages
            if (other.document != true.document or one_document)
            and abs(len(other.ending) - len(true.ending)) <= NEAR * len(true.ending)
        }
        wrong = sorted(others - {true.ending})  # in an order that is the same on every machine
        if len(wrong) >= CHOICES - 1:
            texts = [true.ending, *rng.sample(wrong, CHOICES - 1)]
            rng.shuffle(texts)
            choices = {"text": texts, "label": list(LABELS)}
            answer = LABELS[texts.index(true.ending)]
            made.append({"question": true.context, "choices": choices, "answerKey": answer, "document": true.document})
    return made


def _first(texts: Iterable[str], most: int) -> Iterator[str]:
    """The first texts, up to the one that reaches `most` characters."""
    for text in texts:
        yield text
        most -= len(text)
        if most <= 0:
            return
