"""`diffuapriel evaluate` on code: the likelihood beside xz, and infilling."""

from __future__ import annotations

import argparse
import json
import sys

import pytest
import torch

from diffuapriel.checkpoint import save_checkpoint
from diffuapriel.cli import main
from diffuapriel.commands import evaluate
from diffuapriel.config import ModelConfig
from diffuapriel.data.documents import DocumentCorpus
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.tokenizer import get_tokenizer
from tests.sampling.models import block_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    model = Denoiser(ModelConfig("diffuapriel", 16, 2, 4098, "gpt2-4k", d_state=4, headdim=8, cond_dim=8))
    folder = tmp_path_factory.mktemp("models") / "model"
    save_checkpoint(folder, model, card="", extra={"recipe": {"corpus": "stdlib", "length": 48}})
    return str(folder)


@pytest.fixture
def books(tmp_path) -> str:
    rows = [{"text": f"Chapter {i}. The cat sat on mat {i % 3} and looked at the moon. " * 9} for i in range(40)]
    (tmp_path / "books.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "books.jsonl")


def scored(checkpoint: str, books: str) -> list[str]:
    return ["evaluate", checkpoint, "--corpus", books, "--sequences", "4", "--mc-samples", "2"]


def test_documents_are_compressed_by_xz_beside_the_model(checkpoint, books, capsys):
    command = [*scored(checkpoint, books), "--samples", "0"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "bits/byte" in printed and "xz -9" in printed and "the model is above xz" in printed
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["text"].startswith("40 documents, ") and report["text"] in printed
    assert report["xz"]["model"] == "above xz"  # its weights are random: about 3 bits per byte and more
    assert report["xz"]["text_bytes"] == sum(len(r) for r in heldout(books))
    low, high = report["likelihood"]["bits_per_byte_ci95"]
    assert report["xz"]["bits_per_byte"] < low < report["likelihood"]["bits_per_byte"] < high


@pytest.fixture
def code(monkeypatch) -> None:
    """A standard library of a dozen functions."""
    modules = [f"def f{i}(a, b):\n    c = a + b * {i}\n    return c - a\n" for i in range(12)]
    corpus = DocumentCorpus("stdlib", get_tokenizer("gpt2-4k"), train=modules, validation=modules)
    monkeypatch.setattr("diffuapriel.data.stdlib.stdlib_corpus", lambda tokenizer: corpus)


def heldout(books: str) -> list[str]:
    """The last tenth of the documents."""
    with open(books) as stream:
        return [json.loads(line)["text"] for line in stream][-4:]


def test_the_estimator_is_an_option_and_named_in_the_report(checkpoint, books, capsys):
    command = [*scored(checkpoint, books), "--samples", "0"]

    def likelihood(*options: str) -> dict:
        assert main([*command, "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)["likelihood"]

    counts, mdlm = likelihood(), likelihood("--estimator", "mdlm")
    assert (counts["estimator"], mdlm["estimator"]) == ("counts", "mdlm")
    assert counts["nats_per_token"] != mdlm["nats_per_token"]
    assert likelihood("--estimator", "counts") == counts


def test_samples_of_free_text_stand_beside_validation_text_and_judges(checkpoint, books, capsys):
    command = [*scored(checkpoint, books), "--samples", "4", "--steps", "4", "--judge", checkpoint]
    command += ["--judge", f"{checkpoint}/../model"]  # another checkpoint of the same name
    assert main(command) == 0
    printed = capsys.readouterr().out
    for text in (
        "distinct-3",
        "repeats",
        "copied",
        "judge model",
        "4 samples of 48 tokens, low_confidence",
        "searched",
    ):
        assert text in printed
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["samples"]
    assert report["num_samples"] == 4 and len(report["examples"]) == 3
    assert report["generated"]["copied_words"] < 8 < report["validation"]["copied_words"]  # the books are much alike
    same, again = report["generated"]["judges"].values()
    assert same == again and same["bits_per_byte"] > 1


def test_what_cannot_be_judged_is_refused_before_it_is_measured(checkpoint, books, capsys, monkeypatch):
    monkeypatch.setattr("diffuapriel.evaluation.nelbo.evaluate_nelbo", None)
    assert main(["evaluate", checkpoint, "--corpus", "tales:1", "--judge", checkpoint]) == 1
    assert "--judge scores samples of free text, not of tales:1 with --samples 200" in capsys.readouterr().err
    assert main([*scored(checkpoint, books), "--samples", "0", "--judge", checkpoint]) == 1
    assert "with --samples 0" in capsys.readouterr().err
    assert main([*scored(checkpoint, books), "--samples", "2"]) == 1
    assert "samples is 2; free text needs 3 or more, or 0 for none" in capsys.readouterr().err
    assert main([*scored(checkpoint, books), "--judge", "no/such/folder"]) == 1
    assert "no/such/folder" in capsys.readouterr().err


def test_tales_have_no_xz(checkpoint, capsys):
    command = [
        "evaluate",
        checkpoint,
        "--corpus",
        "tales:1",
        "--windows",
        "2",
        "--draws",
        "1",
        "--samples",
        "0",
    ]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["xz"] is None
    assert main(command) == 0
    assert "xz" not in capsys.readouterr().out


def test_a_model_of_blocks_is_measured_at_every_block_length_and_with_every_sampler(tmp_path, capsys):
    model = block_model("diffuapriel", 4098, (1, 8, 0), tokenizer="gpt2-4k").float()
    save_checkpoint(tmp_path / "m", model, card="", extra={"recipe": {"corpus": "tales:1", "length": 16}})
    asked = ["evaluate", str(tmp_path / "m"), "--sequences", "2", "--mc-samples", "1", "--samples", "2", "--json"]
    assert main([*asked, "--batch-size", "2"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [each["block_length"] for each in report["by_block_length"]] == [1, 8, None]
    assert report["samples"]["block_length"] == 8 and "by_sampler" not in report
    low, high = report["samples"]["tokens_per_pass_ci95"]
    assert low <= report["samples"]["tokens_per_pass"] <= high
    pairs = ["--strategy", "threshold", "--strategy", "entropy", "--block-length", "1", "--block-length", "0"]
    assert main([*asked, *pairs, "--batch-size", "2", "--stop-at-eos"]) == 1
    assert "stop_at_eos is True, but without block_length" in capsys.readouterr().err
    assert main([*asked, *pairs, "--batch-size", "2", "--remask-below", "0.5"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = [(each["strategy"], each["block_length"]) for each in report["by_sampler"]]
    assert found == [("threshold", 1), ("threshold", None), ("entropy", 1), ("entropy", None)]
    assert len(report["by_block_length"]) == 2 and report["samples"] == report["by_sampler"][0]


def test_infilling_reports_tokens_spans_and_what_parses(checkpoint, code, capsys):
    command = ["evaluate", checkpoint, "--infilling", "--spans", "6", "--span", "2", "--batch-size", "6"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    for text in ("exact token", "exact span", "parses", "6 spans of 2 tokens in sequences of 48", " -> "):
        assert text in printed
    assert "temperature 0" in printed and "2 steps" in printed
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["infilling"]
    assert report["exact_span"] == 0 and len(report["examples"]) == 5  # its weights are random


def test_infilling_refuses_what_cannot_be(checkpoint, code, capsys):
    assert main(["evaluate", checkpoint, "--infilling", "--span", "0"]) == 1
    assert "span is 0; it must be a whole number, 1 or more" in capsys.readouterr().err
    assert main(["evaluate", checkpoint, "--infilling", "--spans", "0"]) == 1
    assert "spans is 0; it must be a whole number, 1 or more" in capsys.readouterr().err


def test_without_the_harness_its_command_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["harness", "tales-diffuapriel", "--tasks", "piqa"]) == 1
    assert "needs lm-evaluation-harness: pip install 'lm-eval>=0.4.13,<0.5'" in capsys.readouterr().err


def test_older_spellings_of_options_work():
    parser = argparse.ArgumentParser()
    evaluate.add(parser)
    for argv in (["--sequences", "3", "--mc-samples", "2"], ["--windows", "3", "--draws", "2"]):
        args = parser.parse_args(argv)
        assert (args.sequences, args.mc_samples) == (3, 2)
