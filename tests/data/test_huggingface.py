"""Streamed datasets, offline: a local folder in the place of a name on the Hub."""

import json
import sys
from collections import Counter

import pytest
import torch

from diffuapriel.data import huggingface
from diffuapriel.data.huggingface import HubCorpus
from diffuapriel.data.registry import open_corpus
from diffuapriel.tokenizer import get_tokenizer

TOKENIZER = get_tokenizer("gpt2-4k")
HOW = {"split": "train", "batch_size": 2, "length": 16, "seed": 0}


class FakeDatasets:
    """The one function of the `datasets` package that is used."""

    def __init__(self, splits):
        self.splits, self.calls = splits, []

    def load_dataset(self, name, config, *, streaming):
        self.calls.append((name, config, streaming))
        if isinstance(self.splits, Exception):
            raise self.splits
        return self.splits


@pytest.fixture
def fake(monkeypatch):
    def install(splits):
        module = FakeDatasets(splits)
        monkeypatch.setitem(sys.modules, "datasets", module)
        return module

    return install


def records(n, word="document"):
    return [{"text": f"{word} {i} has some words in it"} for i in range(n)]


def text_of(corpus, steps, **how):
    return TOKENIZER.decode(torch.cat([corpus.batch(step, **HOW | how) for step in range(steps)]).flatten().tolist())


def test_a_dataset_is_opened_for_streaming_by_name_and_configuration(fake):
    module = fake({"train": records(30)})
    corpus = open_corpus("hf:owner/name:small", TOKENIZER)
    assert module.calls == []  # nothing is asked of the network before text is needed
    corpus.batch(0, **HOW)
    assert module.calls == [("owner/name", "small", True)]


def test_documents_are_packed_one_after_the_other(fake):
    fake({"train": records(30)})
    text = text_of(HubCorpus("owner/name", TOKENIZER), 8)
    pieces = text.split("<|endoftext|>")
    assert len(pieces) > 5
    assert set(pieces[:-1]) <= {record["text"] for record in records(30)}
    assert len(set(pieces[:-1])) == len(pieces) - 1


def test_every_tenth_document_is_held_out_where_nothing_else_is(fake):
    fake({"train": records(40)})
    corpus = HubCorpus("owner/name", TOKENIZER)
    train, validation = text_of(corpus, 60), text_of(corpus, 10, split="validation")
    assert all(f"document {i} has" in validation and f"document {i} has" not in train for i in (9, 19, 29, 39))
    assert "document 0 has" in train and "document 0 has" not in validation


def test_a_split_of_its_own_is_the_held_out_part(fake):
    fake({"train": records(20), "validation": records(5, "other")})
    corpus = HubCorpus("owner/name", TOKENIZER)
    assert "other" in text_of(corpus, 3, split="validation") and "other" not in text_of(corpus, 3)
    assert corpus.document(9, split="train", seed=0).startswith("document 9")
    assert corpus.document(2, split="validation", seed=0).startswith("other 2")


def test_some_rows_of_a_batch_are_those_rows_of_the_whole(fake):
    """As a rank asks for them: its own rows, step after step; and as a worker does, skipping steps."""
    fake({"train": records(60)})
    how = HOW | {"batch_size": 4}
    whole = HubCorpus("owner/name", TOKENIZER)
    batches = [whole.batch(step, **how) for step in range(6)]
    for rows in (range(0, 2), range(2, 4), range(1, 2)):
        for steps in ((0, 1, 2), (1, 3, 5)):
            own = HubCorpus("owner/name", TOKENIZER)
            for step in steps:
                assert torch.equal(own.batch(step, **how, rows=rows), batches[step][rows.start : rows.stop])


def test_a_step_ahead_is_reached_by_reading_on_and_not_from_the_start(fake, monkeypatch):
    fake({"train": records(60)})
    corpus, starts = HubCorpus("owner/name", TOKENIZER), []
    windows = corpus._windows
    monkeypatch.setattr(corpus, "_windows", lambda *which: starts.append(which) or windows(*which))
    for step in (0, 2, 5):
        corpus.batch(step, **HOW)
    corpus.batch(1, **HOW)  # the first windows are kept
    assert len(starts) == 1
    monkeypatch.setattr(huggingface, "KEPT_TOKENS", 0)
    for step in (0, 2, 1):
        corpus.batch(step, **HOW | {"seed": 1})
    assert len(starts) == 3


def counted(corpus, monkeypatch):
    """How many records of each split of the dataset are read."""
    read, texts = Counter(), corpus._texts

    def count(split):
        for item in texts(split):
            read[split] += 1
            yield item

    monkeypatch.setattr(corpus, "_texts", count)
    return read


@pytest.mark.parametrize("splits", [{"train": 2000}, {"train": 2000, "test": 50}])
def test_validation_and_other_seeds_do_not_throw_the_training_stream_away(fake, monkeypatch, splits):
    fake({split: records(n) for split, n in splits.items()})
    plain, corpus = HubCorpus("owner/name", TOKENIZER), HubCorpus("owner/name", TOKENIZER)
    alone, read = counted(plain, monkeypatch), counted(corpus, monkeypatch)
    others = [{"split": "validation"}, {"seed": 1}, {"length": 20}]
    for step in range(40):
        assert torch.equal(corpus.batch(step, **HOW), plain.batch(step, **HOW))
        if step == 0:
            wanted = [corpus.batch(0, **HOW | other) for other in others]
            first = read.copy()
        elif step % 5 == 0:
            assert all(torch.equal(corpus.batch(0, **HOW | o), w) for o, w in zip(others, wanted))
    assert 0 < read["train"] - first["train"] <= alone["train"]
    assert read["test"] == first["test"], "validation reads nothing again"


def test_the_number_of_open_streams_is_bounded(fake):
    fake({"train": records(300)})
    corpus = HubCorpus("owner/name", TOKENIZER)
    for seed in range(20):
        corpus.batch(0, **HOW | {"seed": seed})
    assert len(corpus._streams) == huggingface.MAX_STREAMS


def test_records_without_text_are_passed_over_and_counted_once(fake):
    gaps = records(20)
    gaps[4], gaps[7], gaps[11] = {"text": None}, {"text": " \n"}, {}
    fake({"train": gaps})
    corpus = HubCorpus("owner/name", TOKENIZER)
    assert corpus.document(4, split="train").startswith("document 5 ")
    assert text_of(corpus, 60).count("document 5 has") > 2
    assert corpus.description == "streamed from the Hugging Face Hub; left out: documents without text: 3"


def test_the_fingerprint_is_of_the_first_documents(fake):
    fake({"train": records(700)})
    print_of = HubCorpus("owner/name", TOKENIZER).fingerprint()
    fake({"train": [*records(690), *records(50, "later")]})
    assert HubCorpus("owner/name:other", TOKENIZER).fingerprint() == print_of
    for changed in ({"train": records(30)}, {"train": records(700)[1:]}, {"train": records(700), "test": records(700)}):
        fake(changed)
        assert HubCorpus("owner/name", TOKENIZER).fingerprint() != print_of


def test_a_batch_is_the_same_in_whatever_order_it_is_asked_for(fake):
    fake({"train": records(50)})
    in_order = HubCorpus("owner/name", TOKENIZER)
    batches = [in_order.batch(step, **HOW) for step in range(6)]
    resumed = HubCorpus("owner/name", TOKENIZER)
    assert torch.equal(resumed.batch(4, **HOW), batches[4])
    assert torch.equal(resumed.batch(5, **HOW), batches[5])
    assert torch.equal(resumed.batch(1, **HOW), batches[1])
    assert not torch.equal(batches[0], HubCorpus("owner/name", TOKENIZER).batch(0, **HOW | {"seed": 1}))


def test_at_the_end_the_next_pass_begins(fake):
    fake({"train": records(5)})
    text = text_of(HubCorpus("owner/name", TOKENIZER), 30)
    assert text.count("document 3 has") > 5


def test_a_dataset_without_the_field_is_refused_with_its_fields(fake):
    fake({"train": [{"content": "a"}]})
    with pytest.raises(ValueError, match=r"hf:owner/name, record 0: no field 'text' \(it has: 'content'\)"):
        HubCorpus("owner/name", TOKENIZER).batch(0, **HOW)
    assert "a" in text_of(open_corpus("hf:owner/name#content", TOKENIZER), 1)


def test_a_part_without_text_is_refused(fake):
    fake({"train": records(3)})
    with pytest.raises(ValueError, match="no text in the split 'validation'"):
        HubCorpus("owner/name", TOKENIZER).batch(0, **HOW | {"split": "validation"})


def test_a_dataset_that_cannot_be_opened_is_refused_by_name(fake):
    fake(ConnectionError("Couldn't reach the Hub\nmore"))
    with pytest.raises(ValueError, match=r"'owner/name' cannot be opened: Couldn't reach the Hub\. Check the name"):
        HubCorpus("owner/name", TOKENIZER).batch(0, **HOW)


@pytest.mark.parametrize("name", ["", "owner", "owner/name/more", "../up", "own er/name"])
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(ValueError, match="hf:owner/name"):
        open_corpus(f"hf:{name}", TOKENIZER)


def test_a_missing_package_is_told_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        HubCorpus("owner/name", TOKENIZER).batch(0, **HOW)


def test_the_real_library_streams_a_local_folder(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    lines = "\n".join(json.dumps(record) for record in records(20))
    (folder / "train.jsonl").write_text(lines)
    corpus = open_corpus(f"hf:{folder}", TOKENIZER)
    assert corpus.document(3, split="train", seed=0) == records(20)[3]["text"]
    assert corpus.batch(0, **HOW).shape == (2, 16)
