"""Mixes: shares, rows and their order, the change of weights, validation splits, and what is refused."""

import json
import math
import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from diffuapriel.data.build import build_mix
from diffuapriel.data.mixed import BLOCK, Deal, Mix, MixedCorpus, read_mix, use_table
from diffuapriel.data.registry import open_corpus
from diffuapriel.data.token_cache import TokenCorpus
from diffuapriel.tokenizer import get_tokenizer

TOKENIZER = get_tokenizer("gpt2-4k")
NAMES = ("red", "green", "blue")
HOW = {"split": "train", "batch_size": 16, "length": 8, "seed": 5}
WEIGHTS = st.lists(st.floats(0.01, 1000), min_size=1, max_size=6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files whose every document says which file and which document it is."""
    for name in NAMES:
        lines = [json.dumps({"text": " ".join([f"{name} {i}"] * 6)}) for i in range(100)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def mixed(folder: Path):
    """Makes the mix of the three files with given weights, final weights and final fraction."""

    def make(weights=(50, 30, 20), final=None, fraction=None, file: str = "mix.yaml") -> MixedCorpus:
        parts = [{"corpus": f"{name}.jsonl", "name": name, "weight": w} for name, w in zip(NAMES, weights)]
        document = {"parts": parts}
        if final:
            parts[:] = [{**part, "final_weight": w} for part, w in zip(parts, final)]
            document["final_fraction"] = fraction
        (folder / file).write_text(yaml.safe_dump(document))
        corpus = open_corpus(f"mix:{folder / file}", TOKENIZER)
        assert isinstance(corpus, MixedCorpus)
        return corpus

    return make


def all_of(rows: list[list[str]]) -> Counter[str]:
    return Counter(part for step in rows for part in step)


def parts_of(ids: torch.Tensor) -> list[str]:
    """The part that each row comes from."""
    texts = [TOKENIZER.decode(row.tolist()) for row in ids]
    found = [{name for name in NAMES if name in text} for text in texts]
    assert all(len(names) == 1 for names in found), "a row holds text of one part only"
    return [names.pop() for names in found]


# ---- shares ----------------------------------------------------------------------------------------


@given(WEIGHTS, st.integers(0, 5000), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_the_counts_are_those_of_the_rows_one_by_one(weights, first, rows):
    deal = Deal(tuple(weights), ("test", 0))
    before, after = deal.counts(first), deal.counts(first + rows)
    dealt = Counter(deal.part(row) for row in range(first, first + rows))
    assert [b - a for a, b in zip(before, after)] == [dealt[part] for part in range(len(weights))]
    assert sum(after) == first + rows


@given(WEIGHTS, st.integers(1, 10**6))
@settings(max_examples=60, deadline=None)
def test_after_every_block_each_part_has_its_share_to_a_row(weights, block):
    deal = Deal(tuple(weights), ("test", 0))
    counts = deal.counts(block * deal.size)
    for count, weight in zip(counts, weights):
        assert abs(count - block * deal.size * weight / math.fsum(weights)) <= 1
    assert all(a <= b for a, b in zip(deal.counts((block - 1) * deal.size), counts))


def test_a_part_comes_at_any_place_of_a_block_as_often_as_its_weight_says():
    """A chi-square test over 3,000 blocks at two places; each bound is passed by chance once in 10,000 times."""
    weights = (0.5, 0.3, 0.2)
    for place in (0, 57):
        found = Counter(Deal(weights, ("test", seed)).part(place) for seed in range(3000))
        chi_square = sum((found[i] - 3000 * w) ** 2 / (3000 * w) for i, w in enumerate(weights))
        assert chi_square < 18.4  # two degrees of freedom


def test_the_rows_of_training_and_of_validation_have_the_shares(mixed):
    corpus = mixed((50, 30, 20))
    for split in ("train", "validation"):
        rows = [part for step in range(25) for part in parts_of(corpus.batch(step, **{**HOW, "split": split}))]
        assert Counter(rows) == {"red": 200, "green": 120, "blue": 80}
        assert rows[:BLOCK] != rows[BLOCK : 2 * BLOCK], "every block has an order of its own"


def test_weights_are_relative(mixed):
    assert torch.equal(mixed((5, 3, 2)).batch(3, **HOW), mixed((0.5, 0.3, 0.2)).batch(3, **HOW))


# ---- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 6, 7, 90])
def test_every_row_is_made_alone_whatever_was_made_before(mixed, step):
    """Block borders lie within the steps 6 and 93; 90 is after the change of weights."""
    corpus = mixed((50, 30, 20), final=(10, 0, 90), fraction=0.1).for_steps(100)
    whole = corpus.batch(step, **HOW)
    again = pickle.loads(pickle.dumps(mixed((50, 30, 20), final=(10, 0, 90), fraction=0.1).for_steps(100)))
    for row in reversed(range(16)):
        assert torch.equal(again.batch(step, rows=range(row, row + 1), **HOW)[0], whole[row])
    halves = [corpus.batch(step, rows=range(start, start + 8), **HOW) for start in (0, 8)]
    assert torch.equal(torch.cat(halves), whole)


def test_another_seed_or_split_has_other_rows(mixed):
    corpus = mixed()
    rows = [corpus.batch(0, **{**HOW, **changes}) for changes in ({}, {"seed": 6}, {"split": "validation"})]
    assert not any(torch.equal(a, b) for a, b in ((rows[0], rows[1]), (rows[0], rows[2]), (rows[1], rows[2])))


def test_a_token_cache_is_read_window_by_window_across_the_change_of_weights(mixed, folder):
    mixed((40, 40, 20), final=(60, 0, 40), fraction=0.25)
    corpus = build_mix(f"mix:{folder / 'mix.yaml'}", folder / "out", TOKENIZER).for_steps(40)
    rows = torch.cat([corpus.batch(step, **HOW) for step in range(40)])
    dealt = parts_of(rows)
    for name, cache in corpus.parts.items():
        own = torch.stack([row for row, part in zip(rows, dealt) if part == name])
        assert torch.equal(own, cache.batch(0, **{**HOW, "batch_size": len(own)})), "the first windows of its order"


# ---- the change of weights -------------------------------------------------------------------------


def test_the_last_steps_are_read_by_the_final_weights(mixed):
    corpus = mixed((50, 30, 20), final=(75, 25, 0), fraction=0.25).for_steps(100)
    rows = [parts_of(corpus.batch(step, **HOW)) for step in range(100)]
    assert all_of(rows[:75]) == {"red": 600, "green": 360, "blue": 240}
    assert all_of(rows[75:]) == {"red": 300, "green": 100}
    assert "blue" in parts_of(corpus.batch(99, **{**HOW, "split": "validation"})), "validation keeps its weights"


def test_a_part_may_come_at_the_end_only(mixed):
    corpus = mixed((50, 50, 0), final=(0, 0, 1), fraction=0.5).for_steps(10)
    rows = [parts_of(corpus.batch(step, **HOW)) for step in range(10)]
    assert "blue" not in all_of(rows[:5]) and set(all_of(rows[5:])) == {"blue"}


def test_a_change_of_weights_needs_the_length_of_the_run(mixed):
    corpus = mixed((1, 1, 1), final=(1, 0, 0), fraction=0.1)
    with pytest.raises(ValueError, match=r"mix\.yaml change in the last 10% of a run: give its length in steps"):
        corpus.for_steps(None)
    with pytest.raises(ValueError, match="call for_steps with its length first"):
        corpus.batch(0, **HOW)
    corpus.batch(0, **{**HOW, "split": "validation"})
    assert mixed().for_steps(None)


def test_what_was_read_of_each_part_is_counted(mixed, folder):
    mixed((50, 30, 20), final=(100, 0, 0), fraction=0.5)
    corpus = build_mix(f"mix:{folder / 'mix.yaml'}", folder / "out", TOKENIZER).for_steps(20)
    for steps in (7, 20):
        rows = Counter(part for step in range(steps) for part in parts_of(corpus.batch(step, **HOW)))
        uses = corpus.use(steps, batch_size=16, length=8, seed=5)
        assert {use.name: use.tokens for use in uses} == {name: 8 * rows[name] for name in NAMES}
        for use, cache in zip(uses, corpus.parts.values()):
            assert isinstance(cache, TokenCorpus)
            assert use.share == rows[use.name] / (16 * steps)
            assert use.epochs == use.tokens / cache.tokens("train")
    assert f"red    {uses[0].share:6.1%}" in use_table(uses)


def test_the_epochs_of_text_in_memory_are_close_and_those_of_tales_unknown(mixed, folder):
    plain = mixed()
    cached = build_mix(f"mix:{folder / 'mix.yaml'}", folder / "out", TOKENIZER)
    for a, b in zip(*(corpus.use(20, batch_size=16, length=8, seed=5) for corpus in (plain, cached))):
        assert a.epochs == pytest.approx(b.epochs, rel=0.1)
    (folder / "tales.yaml").write_text("parts: [{corpus: tales, weight: 1}]")
    use = open_corpus(f"mix:{folder / 'tales.yaml'}", TOKENIZER).use(1, batch_size=2, length=64, seed=0)
    assert use[0].epochs is None and use_table(use).endswith("128 tokens")


# ---- splits ----------------------------------------------------------------------------------------


def test_no_text_is_in_both_splits_of_any_part(mixed):
    corpus = mixed((50, 30, 20))
    seen = {
        split: {
            tuple(TOKENIZER.decode(row.tolist()).split("<|endoftext|>")[0].split()[:2])
            for step in range(200)
            for row in corpus.batch(step, **{**HOW, "split": split})
        }
        for split in ("train", "validation")
    }
    for name, part in corpus.parts.items():
        train, held_out = (set(part.splits[split]) for split in ("train", "validation"))
        assert not train & held_out and len(held_out) == 10, name
        assert {text.split()[0] for text in held_out} == {name}
    numbers = {split: {pair for pair in pairs if len(pair) == 2 and pair[0] in NAMES} for split, pairs in seen.items()}
    assert numbers["train"] and not numbers["train"] & numbers["validation"]


def test_documents_are_dealt_like_rows(mixed):
    corpus = mixed((50, 30, 20))
    texts = [corpus.document(i, split="train", seed=0) for i in range(100)]
    assert Counter(text.split()[0] for text in texts) == {"red": 50, "green": 30, "blue": 20}
    assert len(set(texts)) == 100


# ---- what is the same ------------------------------------------------------------------------------


def test_the_fingerprint_is_of_the_text_and_the_weights_not_of_names_and_places(mixed, folder):
    first = mixed().fingerprint()
    assert mixed(file="other.yaml").fingerprint() == first
    assert mixed((50, 30, 21)).fingerprint() != first
    assert mixed((50, 30, 20), final=(1, 1, 1), fraction=0.1).fingerprint() != first
    file = folder / "blue.jsonl"
    file.write_text(file.read_text().replace("blue 7", "Blue 7"))
    assert mixed().fingerprint() != first


def test_the_recorded_content_stands_for_the_file(mixed, folder, monkeypatch):
    corpus = mixed((50, 30, 20), final=(1, 1, 1), fraction=0.1)
    (folder / "mix.yaml").unlink()
    recorded = json.loads(json.dumps(corpus.mix.to_dict()))
    again = open_corpus(corpus.name, TOKENIZER, mix=recorded)
    assert again.fingerprint() == corpus.fingerprint()


def test_paths_are_relative_to_the_file(mixed, folder, monkeypatch, tmp_path_factory):
    spec = mixed().name
    monkeypatch.chdir(folder.parent)
    assert read_mix(Path(folder.name) / "mix.yaml").parts[0].corpus == f"{folder.name}/red.jsonl"
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert set(open_corpus(spec, TOKENIZER).parts) == set(NAMES)


def test_names_are_the_ends_of_the_specs():
    specs = ("tokens:a/stories", "books/", "tales:2", "x/data.jsonl#content", "hf:owner/set:config")
    mix = Mix.from_dict({"parts": [{"corpus": spec, "weight": 1} for spec in specs]}, "here")
    assert [part.name for part in mix.parts] == ["stories", "books", "tales:2", "data.jsonl#content", "set:config"]


def test_a_mix_is_tokenized_part_by_part_and_can_be_moved(mixed, folder):
    plain = mixed((50, 30, 20), final=(1, 0, 1), fraction=0.1)
    build_mix(plain.name, folder / "out", TOKENIZER)
    (folder / "out").rename(folder / "moved")
    corpus = open_corpus(f"mix:{folder / 'moved' / 'mix.yaml'}", TOKENIZER)
    assert [(p.name, p.weight, p.final_weight) for p in corpus.mix.parts] == [
        (p.name, p.weight, p.final_weight) for p in plain.mix.parts
    ]
    assert corpus.mix.final_fraction == 0.1
    for name, cache in corpus.parts.items():
        assert cache.document(3, split="train") == plain.parts[name].document(3, split="train")


def test_caches_and_tales_stay_as_they_are_when_a_mix_is_tokenized(mixed, folder):
    build_mix(mixed().name, folder / "one", TOKENIZER)
    (folder / "two.yaml").write_text(
        "\n- ".join(
            ["parts:", *(f"{{corpus: '{spec}', weight: 1}}" for spec in ("tokens:one/1-red", "tales:1", "blue.jsonl"))]
        )
    )
    corpus = build_mix(f"mix:{folder / 'two.yaml'}", folder / "two", TOKENIZER)
    assert [repr(part).split("(")[0] for part in corpus.parts.values()] == ["TokenCorpus", "TalesCorpus", "TokenCorpus"]
    assert sorted(path.name for path in (folder / "two").iterdir()) == ["3-blue-jsonl", "mix.yaml"]


def test_a_part_that_cannot_be_tokenized_leaves_nothing_behind(mixed, folder):
    mixed()
    (folder / "blue.jsonl").write_text("not JSON")
    with pytest.raises(ValueError, match=r"part 'blue': .*blue\.jsonl, line 1: not JSON"):
        build_mix(f"mix:{folder / 'mix.yaml'}", folder / "out", TOKENIZER)
    assert not (folder / "out").exists() and not list(folder.glob(".*"))


# ---- what is refused -------------------------------------------------------------------------------

RED, GREEN = "{corpus: red.jsonl, weight: 1}", "{corpus: green.jsonl, weight: 1}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "None is not a set of keys; permitted: final_fraction, parts"),
        ("- 1", r"\[1\] is not a set of keys"),
        ("parts: []", "parts is \\[\\]; it must be a list of one part or more"),
        ("parts: red.jsonl", "parts is 'red.jsonl'; it must be a list"),
        ("weights: []", "parts is missing"),
        (f"parts: [{RED}]\nepochs: 2", "unknown key 'epochs'; permitted: final_fraction, parts"),
        (
            "parts: [red.jsonl]",
            "part 1: 'red.jsonl' is not a set of keys; permitted: corpus, final_weight, name, weight",
        ),
        ("parts: [{corpus: red.jsonl}]", r"part 1 \('red.jsonl'\): weight is missing"),
        ("parts: [{weight: 1}]", "part 1: corpus is missing"),
        ("parts: [{corpus: 7, weight: 1}]", "part 1: corpus is 7; it must be text"),
        ("parts: [{corpus: red.jsonl, weight: 1, wieght: 2}]", "unknown key 'wieght'"),
        (
            f"parts: [{GREEN}, {{corpus: red.jsonl, weight: 0}}]",
            r"part 2 \('red.jsonl'\): weight is 0, .* remove the part",
        ),
        ("parts: [{corpus: red.jsonl, weight: -1}]", "weight is -1.0; it must be a number from 0 to"),
        ("parts: [{corpus: red.jsonl, weight: .nan}]", "weight is nan; it must be a number from 0"),
        ("parts: [{corpus: red.jsonl, weight: .inf}]", "weight is inf; it must be a number from 0"),
        ("parts: [{corpus: red.jsonl, weight: half}]", "weight is 'half'; it must be a number"),
        ("parts: [{corpus: red.jsonl, weight: true}]", "weight is True; it must be a number"),
        ("parts: [{corpus: red.jsonl, weight: 1, final_weight: -2}]", "final_weight: weight is -2.0"),
        (f"parts: [{RED}, {RED}]", "red.jsonl' occurs twice; give it once, with the sum of the weights"),
        ("parts: [{corpus: tales, weight: 1}, {corpus: 'tales:3', weight: 1}]", "'tales' occurs twice"),
        (
            f"parts: [{RED}, {{corpus: green.jsonl, weight: 1, name: red.jsonl}}]",
            "two parts are called 'red.jsonl'; give one of them another `name`",
        ),
        (f"parts: [{RED}, {{corpus: ../PLACE, weight: 1}}]", "part 'red.jsonl' lies in the folder of part 'PLACE'"),
        ("parts: [{corpus: 'mix:other.yaml', weight: 1}]", "a mix holds no other mix; list its parts here"),
        (f"parts: [{RED}, {{corpus: green.jsonl, weight: 0.00001}}]", "part 'green.jsonl' has 1e-05 of the rows"),
        (f"parts: [{RED}]\nfinal_fraction: 0.1", "final_fraction needs a part with a final_weight"),
        ("parts: [{corpus: red.jsonl, weight: 1, final_weight: 2}]", "final_weight needs final_fraction, e.g. 0.1"),
        (
            "parts: [{corpus: red.jsonl, weight: 1, final_weight: 0}]\nfinal_fraction: 0.1",
            "final_weight is 0 in every part",
        ),
        (
            "parts: [{corpus: red.jsonl, weight: 1, final_weight: 2}]\nfinal_fraction: 1.5",
            "final_fraction is 1.5; it must be a number above 0",
        ),
        ("parts: [{corpus: missing.jsonl, weight: 1}]", r"mix\.yaml, part 'missing\.jsonl': .* no such file or folder"),
        ("parts: [{corpus: 'tokens:nothing', weight: 1}]", r"part 'nothing': .*nothing holds no tokens"),
        ("parts: [{corpus: 'tales:7', weight: 1}]", r"part 'tales:7': tales have the levels 1, 2 and 3"),
        ("parts: [{corpus: red.jsonl, weight: 1, name: 'a/b|c'}]", r"name is 'a/b\|c'; it must have"),
        ("parts: [{corpus: red.jsonl, weight: 1, weight: 2}]", "line 1: not YAML .the key 'weight' occurs twice"),
        ("parts:\n  - {corpus: red.jsonl\n  - x", "line 3: not YAML"),
        ("parts: &a [*a]", r"aliases \(\*name\) are not read"),
        ("[" * 5000, "more than 1,000 brackets"),
        ("- " * 5000, "not the YAML of a mix"),
        ("parts: !!python/object:os.system {}", "not YAML"),
        ("# " + "x" * 100_000, "has 100,002 bytes; the YAML of a mix has at most 100,000"),
    ],
)
def test_a_bad_mix_is_refused_by_name(folder, text, said):
    file = folder / "mix.yaml"
    file.write_text(text.replace("PLACE", folder.name))
    with pytest.raises(ValueError, match=said.replace("PLACE", folder.name)) as caught:
        open_corpus(f"mix:{file}", TOKENIZER)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["mix:", "mix:no.yaml", "mix:."])
def test_a_mix_without_its_file_is_refused(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"a mix is written mix:FILE\.yaml"):
        open_corpus(spec, TOKENIZER)


def test_a_file_of_bytes_is_refused(tmp_path):
    (tmp_path / "mix.yaml").write_bytes(b"\xff\xfe\x00parts")
    with pytest.raises(ValueError, match=r"mix\.yaml: not the YAML of a mix"):
        open_corpus(f"mix:{tmp_path / 'mix.yaml'}", TOKENIZER)
