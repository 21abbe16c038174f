"""Items come from held-out text, their answers are right, and the harness reads them."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from diffuapriel.cli import main
from diffuapriel.data.documents import DocumentCorpus
from diffuapriel.evaluation.text.tasks import (
    CONTEXT_WORDS,
    ENDING_WORDS,
    Passage,
    endings,
    last_words,
    make_items,
    passages_of,
    write_tasks,
)
from diffuapriel.tokenizer import get_tokenizer
from tests.evaluation.known_models import Knows

TOKENIZER = get_tokenizer("gpt2-4k")
RNG = random.Random(0)
FREQUENT = [f"{a}{b}" for a in "bdfgklmnpr" for b in ("a", "e", "i", "o", "u", "ab", "ed", "in", "on", "ut")]


def sentence(words: int, last: str) -> str:
    said = " ".join(RNG.choices(FREQUENT, k=words - 1))
    return f"{said} {last}.".capitalize()


def story(name: str) -> str:
    """Six sentences of 12 words, which name something, and one that ends with its name; then the same again."""
    return " ".join(f"{' '.join(sentence(12, name) for _ in range(6))} {sentence(9, name)}" for _ in range(2))


def names(letter: str) -> list[str]:
    return [f"{letter}{a}{b}z" for a in "aeiou" for b in "klmn"]


CORPUS = DocumentCorpus(
    "stories", TOKENIZER, train=[story(name) for name in names("t")], validation=[story(name) for name in names("v")]
)


def test_a_passage_is_whole_sentences_and_the_one_that_follows():
    text = CORPUS.document(3, split="validation")
    passages = list(passages_of(3, text))
    assert len(passages) == 2
    for passage in passages:
        assert f"{passage.context} {passage.ending}" in text and passage.context.endswith(".")
        assert len(passage.context.split()) in CONTEXT_WORDS and len(passage.ending.split()) in ENDING_WORDS
    assert text.startswith(passages[0].context) and passages[1].context not in passages[0].context


def test_quotes_titles_and_initials_do_not_end_a_sentence():
    context = "So we went on and on until it was late. " * 3 + '"Stop!" cried the old toad of the hall to me.'
    ending = "Then Mr. Toad of J. B. Hall ran away."
    assert list(passages_of(7, f"{context} {ending} The end.")) == [Passage(7, context, ending)]
    assert not list(passages_of(0, f"{context}\n\n{ending} The end.")), "a new paragraph"
    assert not list(passages_of(0, "no end of a sentence")) and not list(passages_of(0, ""))


def test_the_last_word_stands_in_the_context_and_not_earlier_in_its_sentence():
    def asked(context: str, ending: str, frequent: tuple[str, ...] = ()) -> list[str]:
        return [item["text"] for item in last_words([Passage(0, context, ending)], {*frequent}, 1, random.Random(0))]

    context = "Mia saw the Moon."
    assert asked(context, 'She said, "I love the moon!"') == [f'{context} She said, "I love the moon']
    assert asked(context, "She loves the moon.", ("moon",)) == [], "a frequent word"
    assert asked(context, "This moon is the moon.") == [], "stands earlier in the sentence"
    assert asked(context, "She loves the sun.") == [], "does not stand in the context"
    assert asked("It is 5 now.", "It is 5.") == [], "is no word"


def test_wrong_endings_are_near_in_length_and_of_other_documents():
    def wrong(*others: tuple[int, str]) -> set[str]:
        true = Passage(0, "true", "e" * 50)
        passages = [true, *(Passage(document, "other", ending) for document, ending in others)]
        found = {item["question"]: item for item in endings(passages, 9, random.Random(0))}
        return {*found["true"]["choices"]["text"]} - {true.ending} if "true" in found else set()

    near = [(1, "a" * 40), (2, "b" * 50), (3, "c" * 60)]
    assert wrong(*near) == {text for _, text in near}
    assert wrong(*near, (0, "d" * 50), (4, "f" * 39), (4, "g" * 61), (5, "e" * 50)) == {text for _, text in near}
    assert wrong(*near[:2], (4, "a" * 40)) == set(), "two different ones are too few"
    assert wrong((0, "a" * 50), (0, "b" * 50), (0, "c" * 50)), "of one document, if there is no other"


def test_every_item_is_from_the_validation_split_and_right():
    found = make_items(CORPUS, items=20, seed=1)
    held = CORPUS.splits["validation"]
    for item in found["last_word"]:
        text, word = item["text"], item["text"].split(" ")[-1]
        assert f"{text}." in held[item["document"]]
        *_, before, last = re.split(r"(?<=\.) ", text)
        assert word in text.removesuffix(last) and word not in last.removesuffix(word) and before.endswith(".")
        assert word in names("v"), "the frequent words are never asked for"
    for item in found["endings"]:
        texts, labels = item["choices"]["text"], item["choices"]["label"]
        true = texts[labels.index(item["answerKey"])]
        assert f"{item['question']} {true}" in held[item["document"]]
        wrong = [text for text in texts if text != true]
        assert len(set(texts)) == 4 and labels == ["A", "B", "C", "D"]
        for text in wrong:
            assert text not in held[item["document"]] and any(text in other for other in held)
            assert abs(len(text) - len(true)) <= 0.2 * len(true)
    assert len({item["answerKey"] for item in found["endings"]}) == 4


def test_the_seed_decides_which_items_and_nothing_else_does():
    assert make_items(CORPUS, items=10, seed=5) == make_items(CORPUS, items=10, seed=5)
    assert make_items(CORPUS, items=10, seed=5) != make_items(CORPUS, items=10, seed=6)


def test_a_quotation_that_is_open_gives_no_ending_away():
    texts = [f'"{text}"' for text in CORPUS.splits["validation"]]
    found = make_items(DocumentCorpus("quoted", TOKENIZER, train=["x"], validation=texts), items=20)
    assert any('"' in item["text"] for item in found["last_word"])
    for item in found["endings"]:
        assert '"' not in item["question"] + "".join(item["choices"]["text"])


def test_too_little_text_is_refused_with_what_is_missing():
    with pytest.raises(ValueError, match=r"20 documents with 40 passages .* gives only 40 items of last_word and 40 "):
        make_items(CORPUS, items=41)
    with pytest.raises(ValueError, match="ask for fewer: --items 40"):
        make_items(CORPUS, items=41)
    with pytest.raises(ValueError, match=r"0 items of last_word and 0 items of endings instead of 1; give more text$"):
        make_items(DocumentCorpus("a", TOKENIZER, train=["a"], validation=["Short."]), items=1)
    with pytest.raises(ValueError, match="items is 0"):
        make_items(CORPUS, items=0)


def test_the_command_writes_what_the_harness_is_told_to_read(tmp_path, capsys):
    lines = [json.dumps({"text": text}) for text in CORPUS.splits["train"] * 9 + CORPUS.splits["validation"]]
    (tmp_path / "stories.jsonl").write_text("\n".join(lines))
    command = ["tasks", str(tmp_path / "stories.jsonl"), "--out", str(tmp_path / "held-out"), "--items", "5"]
    assert main(command) == 0
    assert "--tasks held_out_last_word,held_out_endings --include_path" in capsys.readouterr().out
    for kind in ("last_word", "endings"):
        items = [json.loads(line) for line in (tmp_path / "held-out" / f"{kind}.jsonl").read_text().splitlines()]
        assert items == make_items(CORPUS, items=5)[kind]
    assert main(command) == 1
    assert "held-out exists already" in capsys.readouterr().err


def test_the_harness_gives_a_model_that_knows_the_text_full_marks(tmp_path: Path):
    pytest.importorskip("lm_eval", reason="pip install 'lm-eval>=0.4.13,<0.5'", exc_type=ImportError)
    import lm_eval
    from lm_eval.tasks import TaskManager

    from diffuapriel.evaluation.harness import DiffuAprielLM

    tasks = write_tasks(CORPUS, tmp_path / "mine", items=6)
    made = make_items(CORPUS, items=6)
    known = [item["text"] for item in made["last_word"]]
    for item in made["endings"]:
        known.append(f"{item['question']} {item['choices']['text']['ABCD'.index(item['answerKey'])]}")
    model = DiffuAprielLM((Knows(known, TOKENIZER), TOKENIZER), batch_size=8, device="cpu", mc_num=4)
    manager = TaskManager(include_path=str(tmp_path / "mine"), include_defaults=False)
    report = lm_eval.simple_evaluate(model, tasks=tasks, task_manager=manager, bootstrap_iters=0)
    assert report is not None
    last_word, chosen = (report["results"][task] for task in tasks)
    assert last_word["acc,none"] == 1 and last_word["perplexity,none"] < 1.01
    assert chosen["acc,none"] == chosen["acc_norm,none"] == 1
