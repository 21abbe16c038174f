"""The comparison: equal for all, resumable, and nobody is called ahead whom the intervals do not put there."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

import pytest
import torch

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install matplotlib")
from diffuapriel import assets
from diffuapriel.benchmark.learning import blocks_report, study
from diffuapriel.benchmark.learning.plan import STUDIES, StudyPlan
from diffuapriel.benchmark.learning.report import command as command_line
from diffuapriel.benchmark.learning.report import draw, past_best, sentences, table, text, write_report
from diffuapriel.benchmark.learning.study import curve, differences, run_study
from diffuapriel.cli import build_parser, main
from diffuapriel.commands import compare as command
from diffuapriel.config import ARCHITECTURES
from diffuapriel.training import loop
from tests.training.conftest import without_curves

STUDIES_SAVED_BEFORE = sorted((assets.root() / "results").glob("compare-*.json"))
QUICK: dict[str, Any] = {
    "corpus": "tales:1",
    "tokens": 3 * 64,
    "sweep_tokens": 2 * 64,
    "factors": (1.0, 2.0),
    "seeds": (0, 1),
    "length": 32,
    "batch_size": 2,
    "sequences": 4,
    "mc_samples": 1,
    "stories": 0,
    "device": "cpu",
}


def run(nats: list[float], seed: int = 0) -> dict[str, Any]:
    mean = sum(nats) / len(nats) / 10
    likelihood = {"nats_per_token": mean, "bits_per_byte": 1.0, "excess_nelbo": None}
    curve = {"tokens": [10, 20], "seconds": [1.0, 2.0], "nelbo": [3.0, mean]}
    return {
        "seed": seed,
        "tokens": 100,
        "seconds": 2.0,
        "curve": curve,
        "likelihood": likelihood,
        "nats": nats,
        "sequence_tokens": [10.0] * len(nats),
    }


def entry(name: str, *seeds: list[float], factor: float = 1.0) -> dict[str, Any]:
    return {
        "name": name,
        "parameters": 1_000,
        "learning_rate": 1e-3,
        "factor": factor,
        "rates": [{"factor": f, "nelbo": 1.0} for f in (0.5, 1.0, 2.0)],
        "runs": [run(nats, seed) for seed, nats in enumerate(seeds)],
    }


def result(*entries: dict[str, Any]) -> dict[str, Any]:
    return {
        "plan": asdict(StudyPlan(seeds=(0, 1))),
        "torch": "2.13.0",
        "machine": "cpu",
        "entries": list(entries),
        "differences": differences(list(entries)),
    }


HARD, EASY = [10.0, 30.0, 20.0, 40.0], [9.0, 28.9, 19.2, 38.9]  # always about one nat easier
MIXED = [9.0, 31.5, 19.0, 40.5]


def test_ahead_is_who_is_ahead_in_every_seed_window_by_window() -> None:
    (pair,) = differences([entry("a", EASY, EASY), entry("b", HARD, HARD)])
    assert pair["verdict"] == "a" and all(seed["ci95"][1] < 0 for seed in pair["seeds"])
    (pair,) = differences([entry("a", HARD, HARD), entry("b", EASY, EASY)])
    assert pair["verdict"] == "b"


def test_nothing_is_settled_by_one_seed_of_two_or_within_the_noise() -> None:
    assert differences([entry("a", EASY, HARD), entry("b", HARD, HARD)])[0]["verdict"] is None
    assert differences([entry("a", MIXED, MIXED), entry("b", HARD, HARD)])[0]["verdict"] is None
    (pair,) = differences([entry("a", HARD, HARD), entry("b", HARD, HARD)])
    assert pair["verdict"] is None and pair["seeds"][0]["ci95"] == [0, 0], "an end at zero does not decide"


def test_the_paper_s_claims_stand_beside_what_was_found() -> None:
    found = result(
        entry("diffuapriel", HARD, HARD),
        entry("diffuapriel-h", EASY, EASY),
        entry("diffutran", HARD, HARD, factor=2.0),
    )
    words = "\n".join(sentences(found))
    assert "DiffuApriel-H is ahead of DiffuTran. Here diffuapriel-h is ahead: agrees" in words
    assert "DiffuApriel is level with DiffuTran. Here no difference is settled: agrees" in words
    assert "(*) The best rate was at the end of those tried: diffutran" in words
    backwards = result(
        entry("diffuapriel", EASY, EASY),
        entry("diffuapriel-h", HARD, HARD),
        entry("diffutran", EASY, EASY),
    )
    assert "Here diffutran is ahead: does not agree" in "\n".join(sentences(backwards))


def test_parts_of_the_study_of_blocks_run_apart_and_are_collected(tmp_path, monkeypatch) -> None:
    without_curves(monkeypatch)
    quick = {**QUICK, "study": "blocks", "length": 64, "factors": (1.0,), "seeds": (0,), "sequences": 2}
    names = ("diffuapriel-h, mixed", "diffuapriel-h, S = 1", "diffuapriel-h, S = 16, n")
    parts = [run_study(StudyPlan(**quick, only=(name,)), tmp_path, progress=False) for name in names]
    assert [[entry["name"] for entry in part["entries"]] for part in parts] == [
        ["diffuapriel-h, mixed", "diffuapriel-h, mixed, no reverse scan"],
        ["diffuapriel-h, S = 1", "diffuapriel-h, S = 16", "diffuapriel-h, S = 16, noise level"],
        ["diffuapriel-h, S = 16, noise level"],
    ]
    monkeypatch.setattr(study, "measure", None)  # all scores are on disk
    whole = run_study(StudyPlan(**quick, only=names), tmp_path, progress=False)
    pairs = {(pair["first"], pair["second"], pair["block_length"]) for pair in whole["differences"]}
    mixed = "diffuapriel-h, mixed"
    assert pairs == {
        (mixed, "diffuapriel-h, S = 1", 1),
        (mixed, "diffuapriel-h, S = 16", 16),
        *((mixed, "diffuapriel-h, mixed, no reverse scan", length) for length in (1, 4, 16, 64, 0)),
        ("diffuapriel-h, S = 16", "diffuapriel-h, S = 16, noise level", 16),
    }
    written = text(whole)
    (alone,) = (row for row in written.splitlines() if row.startswith("| diffuapriel-h, S = 1 "))
    assert alone.count("(") == 4 and "excess NELBO" in written.lower().replace("nelbo", "NELBO")
    assert "and diffuapriel-h, S = 1 at S = 1:" in written and "--study blocks" in written
    assert write_report(whole, tmp_path / "out")[2].read_bytes().startswith(b"\x89PNG")
    json.dumps(whole)
    with pytest.raises(ValueError, match="which is in no entry's name; entries: diffuapriel, mixed;"):
        StudyPlan(**quick, only=("mamba",))


def test_the_report_is_a_table_curves_and_the_command_that_makes_it_again(tmp_path) -> None:
    found = result(*(entry(name, HARD, EASY) for name in ARCHITECTURES))
    rows = table(found).splitlines()
    assert len(rows) == 5 and len({row.count("|") for row in rows}) == 1
    assert draw(found).startswith(b"\x89PNG")
    paths = write_report(found, tmp_path / "deep" / "out")
    assert [path.name for path in paths] == ["out.json", "out.md", "out.png"]
    assert json.loads(paths[0].read_text())["differences"] == json.loads(json.dumps(found["differences"]))
    assert "(out.png)" in paths[1].read_text()


def test_who_ends_past_its_best_is_named() -> None:
    learning, worn = (entry(name, HARD, EASY) for name in ARCHITECTURES[:2])
    for each in worn["runs"]:
        each["curve"] = {"tokens": [10, 20, 30], "seconds": [1.0, 2.0, 3.0], "nelbo": [3.0, 2.0, 2.1]}
    assert past_best(learning) is None and past_best(worn) == 20
    found = result(learning, worn, entry(ARCHITECTURES[2], HARD, EASY))
    (line,) = [line for line in sentences(found) if "overfitting" in line]
    assert f"{worn['name']} (best at 20 tokens)" in line and f"{learning['name']} (" not in line


def test_a_curve_has_the_same_points_whether_its_run_was_interrupted_or_not(tmp_path) -> None:
    updates = 40  # validated every fourth
    plan = StudyPlan(**{**QUICK, "tokens": updates * QUICK["batch_size"] * QUICK["length"]})
    steps = {"whole": range(4, 41, 4), "interrupted": (4, 8, 8, 11, *range(12, 41, 4))}
    curves = {}
    for name, validated in steps.items():
        lines = [json.dumps({"step": step, "seconds": 1.0, "validation": 3.0}) for step in validated]
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text("\n".join(lines))
        curves[name] = curve(tmp_path / name, plan)
    assert curves["whole"] == curves["interrupted"]
    assert len(curves["whole"]["tokens"]) == 9  # the last is scored in another way


def test_the_command_in_the_report_asks_for_the_same_plan() -> None:
    plan = StudyPlan(**{**QUICK, "study": "placement", "compile": True})
    words = command_line(json.loads(json.dumps(asdict(plan)))).split()
    args = build_parser().parse_args(words[1:])
    assert command.plan_of(args) == plan
    assert command_line(asdict(StudyPlan())) == "diffuapriel compare"


@pytest.fixture(scope="session")
def studied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        without_curves(patch)
        found = run_study(StudyPlan(**QUICK), folder, progress=False)
    assert found is not None
    return folder, found


def test_a_study_tries_rates_and_trains_each_entry_for_each_seed(studied) -> None:
    folder, found = studied
    assert [one["name"] for one in found["entries"]] == list(ARCHITECTURES)
    for one in found["entries"]:
        tried = {rate["factor"]: rate["nelbo"] for rate in one["rates"]}
        assert set(tried) == {1.0, 2.0} and one["factor"] == min(tried, key=tried.__getitem__)
        assert [each["seed"] for each in one["runs"]] == [0, 1]
        assert {each["tokens"] for each in one["runs"]} == {192}
    parameters = [one["parameters"] for one in found["entries"]]
    assert max(parameters) / min(parameters) < 1.02
    assert len(found["differences"]) == 3
    assert "NELBO" in text(found)


def test_a_study_that_is_done_trains_and_measures_nothing_again(studied, monkeypatch) -> None:
    folder, found = studied
    monkeypatch.setattr(loop, "backward", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(study, "measure", lambda *_: pytest.fail("measured again"))
    without_curves(monkeypatch)
    assert json.dumps(run_study(StudyPlan(**QUICK), folder, progress=False)) == json.dumps(found)


def test_the_score_of_a_run_is_the_paired_difference_of_its_checkpoints(studied) -> None:
    folder, found = studied
    scores = [json.loads((folder / "run" / name / "0" / "score.json").read_text()) for name in ARCHITECTURES[:2]]
    nats = torch.tensor([score["nats"] for score in scores], dtype=torch.float64)
    tokens = torch.tensor(scores[0]["sequence_tokens"], dtype=torch.float64)
    assert scores[0]["sequence_tokens"] == scores[1]["sequence_tokens"], "the same windows"
    wanted = ((nats[0] - nats[1]).sum() / tokens.sum()).item()
    assert found["differences"][0]["seeds"][0]["nats_per_token"] == pytest.approx(wanted, abs=1e-12)


def test_a_diverging_rate_is_out_of_the_choice(monkeypatch, tmp_path) -> None:
    def train(config, *, progress):
        if config.learning_rate > 4e-3:
            raise FloatingPointError("the loss is nan")
        return type("Result", (), {"finished": True, "validation": type("V", (), {"nats_per_token": 1.0})})

    monkeypatch.setattr(study, "train", train)
    plan = StudyPlan(**QUICK)
    assert study.try_rates(plan, plan.entries[0], tmp_path, progress=False) == {
        1.0: 1.0,
        2.0: float("inf"),
    }
    plan = StudyPlan(**{**QUICK, "factors": (4.0, 2.0)})
    with pytest.raises(ValueError, match="diverged at every learning rate"):
        study.try_rates(plan, plan.entries[0], tmp_path, progress=False)


def test_an_interrupted_study_says_so(monkeypatch, tmp_path, capsys) -> None:
    unfinished = type("Result", (), {"finished": False})
    monkeypatch.setattr(study, "train", lambda config, *, progress: unfinished)
    assert run_study(StudyPlan(**QUICK), tmp_path, progress=False) is None
    assert main(["compare", "--out", str(tmp_path / "out"), "--folder", str(tmp_path)]) == 130
    assert "run the same command again to continue" in capsys.readouterr().out


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("preset", ["nano", "tiny"])
def test_every_study_has_different_entries(name: str, preset: str) -> None:
    entries = StudyPlan(study=name, preset=preset).entries
    assert len({one.name for one in entries}) == len({repr(one.model) for one in entries}) >= 3
    if name == "placement":
        kinds = [one.model.layer_kinds for one in entries]
        assert len(set(kinds)) == len(kinds) and sum("attention" in each for each in kinds) == len(kinds) - 1


def test_the_help_lists_the_studies(capsys) -> None:
    assert main(["compare", "--help"]) == 0
    assert "{" + ",".join(STUDIES) + "}" in capsys.readouterr().out


def test_older_spellings_of_options_go_on_working() -> None:
    args = build_parser().parse_args(["compare", "--windows", "8", "--draws", "2"])
    assert command.plan_of(args) == StudyPlan(sequences=8, mc_samples=2)


@pytest.mark.parametrize("file", STUDIES_SAVED_BEFORE, ids=lambda file: file.stem)
def test_a_study_saved_with_older_names_still_loads_and_is_written_again(file) -> None:
    found = study.load_study(file)
    written = file.with_suffix(".md").read_text(encoding="utf-8")
    if found["plan"]["study"] == "blocks":
        assert text(found, picture=f"{file.stem}.png") == written
        assert blocks_report.draw(found).startswith(b"\x89PNG")
        return
    for row in table(found).splitlines()[2:]:
        name, parameters, _, nelbo, *_ = (cell.strip() for cell in row.strip("|").split("|"))
        cells = (re.escape(name), parameters, ".*", nelbo)
        assert re.search(r"\|\s*" + r"\s*\|\s*".join(cells) + r"\s*\|", written)
    assert f"{found['plan']['sequences']:,} sequences" in text(found)
    assert draw(found).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("study", "size", "permitted: architectures, placement, conditioning"),
        ("preset", "huge", "permitted: nano"),
        ("tokens", 0, "tokens is 0; it must be a whole number, 1 or more"),
        ("sequences", 1, "sequences is 1; it must be a whole number, 2 or more"),
        ("factors", (), "give one or more"),
        ("factors", (1.0, -1.0), "above 0"),
        ("seeds", (1, 1), "all different"),
        ("length", 4_096, "context is 1024"),
        ("precision", "int8", "permitted: float32, bf16"),
    ],
)
def test_what_cannot_be_is_refused(field: str, value: object, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        StudyPlan(**{field: value})
