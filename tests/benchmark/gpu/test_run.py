"""The GPU bench, run from end to end on a CPU: every part, the JSON, merging, and what happens to what fails."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from diffuapriel.benchmark import run as bench_run
from diffuapriel.benchmark.entry import half_masked
from diffuapriel.benchmark.format import format_report
from diffuapriel.benchmark.gpu import blocks as gpu_blocks
from diffuapriel.benchmark.gpu import mixer as gpu_mixer
from diffuapriel.benchmark.gpu import mixer as gpu_mixers
from diffuapriel.benchmark.gpu import models as gpu_models
from diffuapriel.benchmark.gpu.models import named_kernels, strict_compilation, warm_up_all
from diffuapriel.benchmark.plan import (
    DIFFUTRAN,
    DIFFUTRAN_FLASH_2,
    ENTRIES,
    FULL,
    LENGTHS,
    PARTS,
    PURE,
    Bench,
    BenchPlan,
)
from diffuapriel.benchmark.report import DERIVED, ROWS, BenchReport, Problem
from diffuapriel.benchmark.run import run_bench
from diffuapriel.config import preset
from diffuapriel.ops import cached_attention
from diffuapriel.ops.ssd import unsupported_reason
from diffuapriel.sampling.generate import plan_generation

TOY = BenchPlan.on(
    "gpu",
    preset="nano",
    lengths=(16, 32),
    tokens=32,
    repeats=2,
    seconds=0.1,
    dtype="float32",
    steps=2,
    matrix=64,
    copy_bytes=2**18,
    training_lengths=(16,),
    training_tokens=32,
    backends=("chunked", "absent"),
    block_length=8,
    block_batch=2,
    block_calls=3,
    folded_preset="nano",
    folded_length=8,
    folded_batch=2,
    folded_blocks=(1, 4),
)
BENCH = Bench(TOY, torch.device("cpu"), lambda line: None)


@pytest.fixture(scope="session")
def kept() -> list[BenchReport]:
    """What was kept along the way of a whole run, the last being the result.

    Attention over a cache is PyTorch's: Triton's interpreter would take most of a minute.
    """
    reports: list[BenchReport] = []
    heard: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cached_attention, "takes", lambda q: False)
        reports.append(run_bench(TOY, "cpu", keep=reports.append, say=heard.append))
    assert any("generation: 2 x 16 tokens in 2 steps" in line for line in heard)
    return reports


@pytest.fixture(scope="session")
def report(kept) -> BenchReport:
    return kept[-1]


# What is measured


def test_every_part_is_measured_and_kept_as_soon_as_a_shape_is_done(kept, report):
    assert set(report.measured) == set(PARTS["gpu"])
    assert len(kept) > len(PARTS["gpu"])
    lengths = [len(now.forward) for now in kept if now.forward]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]


def test_every_entry_runs_at_every_shape(report):
    few = ENTRIES[:3]  # FlashAttention-2 runs at batch 1 alone
    shapes = {(16, 1): ENTRIES, (16, 2): few, (32, 1): ENTRIES}
    assert [(r.entry, (r.length, r.batch)) for r in report.forward] == [
        (name, shape) for shape, names in shapes.items() for name in names
    ]
    for row in report.forward:
        assert len(row.ms) == 2
        assert row.min_ms <= row.median_ms <= row.max_ms
        assert row.roofline_share > 0
        assert row.peak_bytes > 10**6
    assert {r.entry for r in report.generation} == {PURE, DIFFUTRAN}
    assert {r.length for r in report.sampler} == {16, 32}
    assert [r.entry for r in report.memory] == [n for n in ENTRIES if n != DIFFUTRAN_FLASH_2]


def test_models_of_blocks_run_at_every_context_beside_full_sequences(report):
    three = [n for n in ENTRIES if n != DIFFUTRAN_FLASH_2]
    shapes = {(16, 1): three + [n + FULL for n in three], (16, 2): three}
    shapes |= {(32, batch): names for (_, batch), names in shapes.items()}
    found = {shape: [r.entry for r in report.block_passes if (r.length, r.batch) == shape] for shape in shapes}
    assert found == shapes
    for row in report.block_passes:
        assert row.roofline_share > 0 and row.block_length == (row.length if row.entry.endswith(FULL) else 8)
    sizes = {r.entry: {} for r in report.block_passes}
    for row in report.block_passes:
        if row.batch == 1:
            sizes[row.entry][row.length] = row.cache_bytes
    assert sizes[PURE][16] == sizes[PURE][32] > 0
    assert sizes[DIFFUTRAN][32] * 24 == sizes[DIFFUTRAN][16] * 40, "the block itself has room in the cache"
    assert [(r.entry, r.length, r.steps, r.passes) for r in report.block_generations] == [
        (name, length, length // 8 * 3, length // 8 * 4 - 1) for length in (16, 32) for name in three
    ]
    shown = format_report(report)
    assert "One pass over a block of 8 tokens" in shown and "equal tokens per pass" in shown


def test_the_longest_generation_in_blocks_can_be_started():
    plan, S = BenchPlan.on("gpu"), 256
    longest, calls = plan.contexts[-1], plan.calls_of(plan.contexts[-1])
    entry = gpu_models.build_entry(PURE, BENCH, block_lengths=(S,))
    run = gpu_blocks._BlockGeneration(entry, longest, S, calls, BENCH)
    planned = plan_generation(run.sampler, run.sampler.start(run.canvas)).tables["num_transfer_tokens"]
    assert len(planned) == longest // S * calls and planned.sum() == longest == 262_144


def test_the_kernels_are_read_off_the_run(report):
    seen = {row.entry: row.kernels for row in report.forward}
    assert seen[PURE] == ("plain scan (chunked)",)
    assert seen[DIFFUTRAN] == ("CPU flash attention",)
    assert seen["diffuapriel-h"] == ("CPU flash attention", "plain scan (chunked)")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7", "cuDNN attention"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 64>>", "FlashAttention-2"),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80", "memory-efficient attention"),
        ("_chunk_scan_fwd_kernel", "mamba_ssm scan"),
        ("void causal_conv1d_fwd_kernel<Causal_conv1d_fwd_kernel_traits<128>>", "causal_conv1d"),
        ("scan_kernel", "triton scan"),
    ],
)
def test_a_kernel_is_known_by_its_name(name, label):
    assert named_kernels([name, "triton_poi_fused_add_0", "sm90_xmma_gemm_bf16"]) == (label,)


def test_a_backend_that_cannot_run_is_a_problem_and_takes_nothing_with_it(report):
    assert {(row.entry, row.gradient) for row in report.mixer} == {("chunked", False), ("chunked", True)}
    assert [row.entry for row in report.training] == ["chunked"]
    assert {(p.part, p.entry) for p in report.problems} == {("mixer", "absent"), ("training", "absent")}
    assert all("SSD backend is 'absent'" in p.message for p in report.problems)


def test_folded_passes_stand_beside_the_plain_one_of_their_architecture(report):
    assert [row.entry for row in report.blocks[:3]] == [f"diffuapriel nano, {S}" for S in ("plain", "S = 1", "S = 4")]
    assert {(row.length, row.batch) for row in report.blocks} == {(8, 2)} and len(report.blocks) == 9


@pytest.mark.parametrize("backend", ["chunked", "triton"])
def test_a_timed_mixer_computes_the_model_s_own_mixer(backend):
    config = preset("nano", PURE, d_state=16, d_model=32)
    projected = gpu_mixer._projection(config, 20, 2, 0, BENCH)
    assert projected.std() == pytest.approx(3**-0.5, rel=0.05)
    if backend == "triton" and (problem := unsupported_reason("triton", projected, config.headdim, config.d_state)):
        pytest.skip(problem)
    mixer = gpu_mixers.make_mixer(backend, config, (2, 20), torch.float32, "cpu")
    y = mixer.y(mixer.run(projected))
    module = gpu_mixers.bare_module(config, "chunked", "cpu")
    torch.testing.assert_close(y, module(projected), atol=1e-4, rtol=1e-4)


def test_our_mixer_pays_for_the_division_that_it_leaves_until_after_out_proj():
    config = preset("nano", PURE)
    halves, g = torch.randn(2, 1, 4, config.d_model), torch.randn(2, 1, 4, config.d_inner)
    squares = g.square().sum(-1)
    expected = (halves / (g.square().mean(-1, keepdim=True) + 1e-5).sqrt()).sum(0)
    torch.testing.assert_close(gpu_mixers._scaled(halves, squares, config.d_inner), expected)


def test_a_mixer_that_computes_something_else_is_not_timed(monkeypatch):
    true = gpu_mixer.make_mixer

    def doubled(*about):
        mixer = true(*about)
        return dataclasses.replace(mixer, y=lambda outputs: 2 * mixer.y(outputs))

    monkeypatch.setattr(gpu_mixer, "make_mixer", doubled)
    plan = dataclasses.replace(TOY, parts=("mixer",), lengths=(16,), tokens=16, backends=("chunked",))
    result = run_bench(plan, "cpu")
    assert not result.mixer
    assert "differs from the plain float32 one by 1.0e+00" in result.problems[0].message


def test_nothing_is_timed_on_zeros(report):
    ids, sigma, positions = half_masked(preset("nano", PURE), 32, 2, "cpu")
    assert (positions.float().mean(), sigma[0]) == (0.5, pytest.approx(0.693, abs=1e-3))
    assert len(ids[~positions].unique()) > 16
    model = gpu_models.build_entry(PURE, BENCH).engine.model
    c = model.time_embedding(sigma)
    gates = model.modulation(c)[2]
    assert gates.abs().mean() > 0.05


# What fails


def test_an_entry_that_fails_is_told_with_its_reason():
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken():
        raise KeyError("no such\nkernel")

    warm_ups = {"a": lambda: None, "b": full, "c": broken}
    names, problems = warm_up_all(warm_ups, Problem("forward", 8, 1), torch.device("cpu"))
    assert names == ["a"]
    assert problems[0].message.startswith("it ran out of memory;")
    assert problems[1].message == "KeyError: 'no such\\nkernel'"
    assert [p.entry for p in problems] == ["b", "c"]


def test_a_block_that_would_run_uncompiled_is_an_error_meanwhile():
    import torch._dynamo.config as settings

    before = settings.recompile_limit, settings.fail_on_recompile_limit_hit
    with strict_compilation():
        assert settings.fail_on_recompile_limit_hit and settings.recompile_limit > before[0]
    assert (settings.recompile_limit, settings.fail_on_recompile_limit_hit) == before


# The plan


def test_the_plan_is_what_was_promised():
    plan = BenchPlan.on("gpu")
    assert (plan.preset, plan.dtype, plan.lengths) == ("1.3b", "bfloat16", LENGTHS)
    assert LENGTHS == (1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
    assert plan.batches(1024) == (1, 64) and plan.batches(65_536) == (1,)
    assert [plan.steps_of(n, 1) for n in LENGTHS] == [64, 64, 64, 32, 16, 8, 8]
    assert plan.steps_of(1024, 64) == 8
    assert {(n, 1) for n in LENGTHS} <= set(plan.generation_shapes())
    assert plan.generation_shapes() == [(1024, 1), (1024, 64), *((n, 1) for n in LENGTHS[1:])]
    assert plan.quick().lengths == plan.few_lengths() == (1024, 8192, 65_536)
    assert plan.contexts == (1024, 4096, 16_384, 65_536, 262_144) and plan.block_length == 256
    assert [plan.calls_of(n) for n in plan.contexts] == [16, 16, 16, 4, 2]
    assert plan.block_shapes()[-3:] == [(n, 16) for n in (1024, 4096, 16_384)]
    assert BenchPlan.on("gpu", lengths=(512, 64)).contexts == (64, 512)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"parts": ("scan",)}, "permitted with --gpu: peaks, forward"),
        ({"parts": ()}, "permitted with --gpu"),
        ({"lengths": (0,)}, "lengths are"),
        ({"lengths": ()}, "lengths are"),
        ({"repeats": 0}, "repeats is 0"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        BenchPlan.on("gpu", **options)


# The figures


def test_the_json_holds_everything_and_what_follows_from_it(report, tmp_path):
    file = tmp_path / "deep" / "gpu.json"
    report.save(file)
    assert BenchReport.load(file) == report
    assert [p.name for p in file.parent.iterdir()] == ["gpu.json"], "nothing is left beside it"
    values = json.loads(file.read_text())
    assert (values["schema"], values["version"]) == ("diffuapriel-gpu-bench", 2)
    for part, kind in ROWS.items():
        if part in ("scan", "blocks"):  # of a CPU
            continue
        derived = {name for name in DERIVED if hasattr(kind, name) and part != "memory"}  # which has no times
        assert derived <= set(values[part][0]) and (derived or part == "memory")
    row = values["forward"][0]
    assert row["tokens_per_second"] == pytest.approx(1000 * row["length"] * row["batch"] / row["median_ms"])


@pytest.mark.parametrize("text", ['{"schema": "other"}', '{"schema": "diffuapriel-gpu-bench", "version": 1}', "[]"])
def test_a_file_of_something_else_is_refused_by_name(tmp_path, text):
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json"):
        BenchReport.load(file)


def test_a_later_run_adds_to_the_figures(report):
    plan = dataclasses.replace(TOY, parts=("forward",), lengths=(16, 64), tokens=16)
    later = run_bench(plan, "cpu", report)
    assert {row.length for row in later.forward} == {16, 32, 64}
    assert later.generation == report.generation
    old, new = (r.find("forward", PURE, 16, 1) for r in (report, later))
    assert old != new, "what was measured again is the newer figure"
    assert later.find("forward", PURE, 16, 2) == report.find("forward", PURE, 16, 2)


def test_a_problem_takes_the_place_of_the_older_figure_and_the_other_way_round(report):
    bad = report.with_rows("forward", [Problem("forward", 16, 1, PURE, "broken")])
    assert bad.find("forward", PURE, 16, 1) is None
    assert bad.problems[-1].message == "broken"
    good = bad.with_rows("forward", [report.find("forward", PURE, 16, 1)])
    assert set(good.forward) == set(report.forward)
    assert good.problems == report.problems


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"preset": "tiny"}, "preset 'nano', this run 'tiny'"),
        ({"dtype": "bfloat16"}, "dtype 'float32', this run"),
    ],
)
def test_figures_of_another_kind_are_not_mixed(report, changes, said):
    with pytest.raises(ValueError, match=said):
        run_bench(dataclasses.replace(TOY, **changes), "cpu", report)


def test_figures_of_another_machine_are_not_mixed(report):
    other = dataclasses.replace(report, machine=dataclasses.replace(report.machine, torch="2.0"))
    with pytest.raises(ValueError, match=r"have torch '2\.0', this run"):
        run_bench(TOY, "cpu", other)


def test_without_a_gpu_one_line_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="no NVIDIA GPU answers here") as caught:
        bench_run.require_gpu()
    assert "\n" not in str(caught.value)


def test_figures_know_which_code_they_come_from(report, monkeypatch, tmp_path):
    assert len({done.code for done in report.measured.values()}) == 1
    monkeypatch.setattr(bench_run.diffuapriel, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "config.py").write_text("")
    (tmp_path / "model").mkdir()
    digests = []
    for text in ("one", "two", "one"):
        (tmp_path / "model" / "denoiser.py").write_text(text)
        digests.append(bench_run.code_digest())
    assert digests[0] == digests[2] != digests[1]
