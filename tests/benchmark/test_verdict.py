"""What is said beside a sweep: its entries, what was fair, where DiffuTran wins, and the paper's figures."""

from __future__ import annotations

import pytest

from diffuapriel.benchmark.result import EntryFacts
from diffuapriel.benchmark.sweep import Point, SweepResult
from diffuapriel.benchmark.verdict import (
    baseline_of,
    baseline_wins,
    published_ratios,
    speed_ratios,
    sweep_fairness,
    verdicts,
)
from tests.benchmark.fakes import sleeping_entry


@pytest.fixture
def entries() -> list:
    return [
        sleeping_entry("mamba", lambda n: 0.0, architecture="diffuapriel", scan="chunked"),
        sleeping_entry("transformer", lambda n: 0.0, architecture="diffutran", attention="math"),
    ]


def measured(**curves: dict[int, float]) -> SweepResult:
    points = [
        Point(entry, n, ms, ms, ms, 1000 * n / ms, 1) for entry, curve in curves.items() for n, ms in curve.items()
    ]
    return SweepResult(tuple(curves), tuple(points), (), 1, 4, "a machine", 2, "counted")


def test_the_sentence_names_every_length_at_which_diffutran_wins(entries):
    facts = EntryFacts.of(entries)
    result = measured(mamba={256: 2.0, 512: 4.0, 1024: 8.0}, transformer={256: 1.0, 512: 3.0, 1024: 9.0})
    assert speed_ratios(result, "mamba", "transformer") == {256: 0.5, 512: 0.75, 1024: 1.125}
    assert baseline_wins(result, facts) == ["transformer wins against mamba at 256 and 512 tokens, by 2.00x at most."]


def test_it_is_said_too_when_diffutran_never_wins(entries):
    result = measured(mamba={256: 1.0}, transformer={256: 1.5})
    assert baseline_wins(result, EntryFacts.of(entries)) == ["transformer wins against mamba at no measured length."]


def test_of_three_entries_every_verdict_names_its_pair(entries):
    facts = EntryFacts.of(entries)
    two = measured(mamba={256: 1.0}, transformer={256: 2.0})
    assert verdicts(two, facts)[0].startswith("mamba is faster at every length measured")
    three = measured(mamba={256: 1.0}, transformer={256: 2.0}, third={256: 3.0})
    said = verdicts(three, facts)
    assert said[0].startswith("mamba against transformer: mamba is faster")
    assert said[2].startswith("transformer against third: transformer is faster")


def test_without_diffutran_nothing_is_said_of_it(entries):
    facts = EntryFacts.of(entries[:1])
    assert baseline_of(facts) is None
    assert baseline_wins(measured(mamba={256: 1.0}), facts) == []


def test_what_was_fair_names_work_order_parameters_kernels_and_machine(entries):
    said = " ".join(sweep_fairness(measured(mamba={256: 1.0}, transformer={256: 1.0}), EntryFacts.of(entries)))
    for words in (
        "one forward pass over 1 canvas",
        "one warm-up at each length, then 4 runs",
        "Parameters matched within 2 %: 1,000 against 1,000",
        "Attention kernel: transformer: math",
        "Scan: mamba: chunked",
        "float32 on cpu (a machine, 2 threads)",
    ):
        assert words in said


def test_entries_that_run_in_different_forms_are_said_to_be_unlike(entries):
    entries.append(sleeping_entry("third", lambda n: 0.0, form="compiled"))
    result = measured(mamba={1: 1.0}, transformer={1: 1.0}, third={1: 1.0})
    assert any("NOT treated alike" in line for line in sweep_fairness(result, EntryFacts.of(entries)))


def test_facts_go_by_the_names_of_the_result(entries):
    twice = EntryFacts.of([entries[0], entries[0]])
    assert [entry.name for entry in twice] == ["mamba", "mamba (2)"]


def test_the_papers_figures_are_those_of_its_versions():
    found = {(f.architecture, f.version): f.ratio for f in published_ratios({"diffuapriel", "diffuapriel-h"})}
    assert found == {
        ("diffuapriel", "v1"): 4.4,
        ("diffuapriel-h", "v1"): 2.6,
        ("diffuapriel", "v3"): 8.2,
        ("diffuapriel-h", "v3"): 4.3,
    }
    assert published_ratios({"diffutran"}) == []
