"""The command line: help that teaches, errors in one line, exit codes, and every subcommand from end to end."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import diffuapriel
from diffuapriel import cli
from diffuapriel.checkpoint import save_checkpoint
from diffuapriel.commands import sample
from diffuapriel.commands.console import terminal
from diffuapriel.config import ARCHITECTURES, PRESETS, SCHEDULES, ModelConfig
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.model.denoiser import Denoiser
from diffuapriel.options import options_of
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig
from diffuapriel.sampling.sampler import Sampler
from diffuapriel.tokenizer import get_tokenizer
from diffuapriel.trace.trace import Trace
from diffuapriel.training.config import TrainConfig

TOKENIZER = get_tokenizer("gpt2-4k")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small untrained model on disk."""
    torch.manual_seed(0)
    shape = {"d_model": 32, "depth": 1, "d_state": 8, "headdim": 16, "attention_headdim": 16, "cond_dim": 8}
    config = ModelConfig("diffuapriel", vocab_size=4098, tokenizer="gpt2-4k", **shape)
    folder = tmp_path_factory.mktemp("model") / "small"
    save_checkpoint(folder, Denoiser(config), card="# small", extra={"recipe": {"corpus": "tales:1", "length": 64}})
    return str(folder)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process: (exit code, standard output, standard error)."""

    def call(*argv: str) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in argv])
        return (code, *capsys.readouterr())

    return call


# Help


def test_help_names_every_command_and_gives_examples(run: Run) -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert "examples:" in out
    for name in ("train", "sample", "evaluate", "race", "bench", "params", "tokenize"):
        assert re.search(rf"^    {name} +\S", out, re.M)


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_the_help_of_a_command_teaches(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    examples = out.partition("\nexamples:\n")[2].strip().splitlines()
    assert len(examples) >= 3
    for line in examples:
        words = re.split(r"\s{2,}", line.strip())[0]
        parts = [part.strip('"') for part in re.findall(r'"[^"]*"|\S+', words.partition(" > ")[0])]
        assert parts[0] == "diffuapriel"
        cli.build_parser().parse_args(parts[1:])


def test_defaults_are_shown_zero_included(run: Run) -> None:
    _, out, _ = run("sample", "--help")
    assert "(default: 128)" in out and "(default: 0)" in out
    assert "None" not in out


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"diffuapriel {diffuapriel.__version__}\n", "")


def test_the_names_in_the_help_are_the_package_s_own() -> None:
    assert [get_schedule(name).name for name in SCHEDULES] == list(SCHEDULES)


@pytest.mark.parametrize("command", ["train", "sample"])
def test_the_old_name_of_a_schedule_is_accepted(command: str) -> None:
    parser = cli.build_parser()
    assert parser.parse_args([command, "--schedule", "squared"]).schedule == "quadratic"


@pytest.mark.parametrize("command", ["sample", "evaluate", "race"])
@pytest.mark.parametrize("old, new", [("confidence", "low_confidence"), ("remask", "remdm")])
def test_the_old_name_of_a_strategy_is_accepted(command: str, old: str, new: str) -> None:
    given = [command, "tales-diffuapriel", "--strategy", old]
    assert cli.build_parser().parse_args(given).strategy in (new, [new])  # evaluate takes several


# Errors and exit codes


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "a command is missing: train, sample"),
        (["fly"], "invalid choice: 'fly'"),
        (["sample", "--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["sample", "--strategy", "magic"], "invalid choice: 'magic'"),
        (["params", "--wings"], "unrecognized arguments: --wings"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(run: Run, argv: list[str], said: str) -> None:
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("diffuapriel: error: ") and said in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["sample", "--checkpoint", "nowhere"], "nowhere"),
        (["sample", "--steps", "0"], "steps is 0; it must be a whole number from 1 to 65,536"),
        (["sample", "--samples", "0"], "samples is 0; it must be 1 or more"),
        (["sample", "--temperature", "nan"], "temperature is nan; it must be a number from 0 to 100"),
        (["sample", "--trace", "story.png"], "the name must end in .json, .html, .gif"),
        (["sample", "--trace", "story.json", "--samples", "2"], "a trace records one text, not 2"),
        (["evaluate", "--samples", "-1"], "samples is -1; it must be a whole number, 0 or more"),
        (["race", "random:nano"], "write random:PRESET:ARCHITECTURE"),
        (["race", "random:nano:lstm"], "permitted: diffuapriel, diffuapriel-h, diffutran"),
        (["bench", "speed"], "permitted: scan, forward, generation, training, blocks, memory"),
        (["bench", "--repeats", "0"], "repeats is 0; it must be 1 or more"),
        (["params", "huge"], "preset is 'huge'; permitted: nano"),
        (["tokenize", "tales", "--out", "nowhere"], "tales never ends: give a number of tokens"),
        (["tokenize", "nowhere", "--out", "nowhere"], "'nowhere' is not a corpus"),
        (["train"], "say how long to train in exactly one way"),
        (["train", "--steps", "1", "--clip", "-1"], "max_grad_norm is -1.0"),
        (["train", "--recipe", "soup"], "recipe is 'soup'; permitted: tales-laptop"),
    ],
)
def test_a_refused_action_is_one_line_and_exit_code_1(
    run: Run, argv: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*argv)
    assert (code, out) == (1, "")
    assert err.startswith("diffuapriel: error: ") and said in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "a refused action leaves nothing behind"


def test_an_error_nobody_foresaw_is_named_and_debug_shows_where(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(args: object) -> int:
        raise KeyError("missing")

    monkeypatch.setattr(cli.COMMANDS["params"], "run", break_down)
    code, _, err = run("params")
    assert (code, err) == (1, "diffuapriel: error: KeyError: 'missing' (--debug shows where)\n")
    for argv in (["params", "--debug"], ["--debug", "params"]):
        with pytest.raises(KeyError):
            cli.main(argv)


class Panic(BaseException):
    """What a library in Rust or torch's checkpoints raise is no Exception."""


@pytest.mark.parametrize("error", [Panic("deep\n  inside"), ValueError("x\x1b[2J" + "y" * 100_000), RecursionError()])
def test_whatever_is_raised_ends_in_one_line_that_a_terminal_can_show(run: Run, monkeypatch, error) -> None:
    def break_down(args: object) -> int:
        raise error

    monkeypatch.setattr(cli.COMMANDS["params"], "run", break_down)
    code, out, err = run("params")
    assert (code, out) == (1, "") and err.startswith("diffuapriel: error: ")
    assert err.count("\n") == 1 and len(err) < 2100 and "\x1b" not in err


def test_an_interrupted_action_ends_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.COMMANDS["params"], "run", interrupt)
    assert run("params") == (130, "", "diffuapriel: interrupted\n")


def test_a_second_ctrl_c_while_the_first_is_reported_shows_no_traceback(run: Run, monkeypatch) -> None:
    def interrupted_twice(words: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted_twice)
    assert run("params") == (130, "", "")


def test_a_program_that_has_run_ends_at_once_on_ctrl_c() -> None:
    code = (
        "import signal, sys; from diffuapriel import cli; sys.argv = ['diffuapriel', '--version']; cli.main();"
        "sys.exit(signal.getsignal(signal.SIGINT) != signal.SIG_DFL)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_a_reader_that_leaves_early_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m diffuapriel params nano --json | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[" and done.stderr == ""


# params


def test_params_prints_every_preset_and_its_spread(run: Run) -> None:
    _, out, _ = run("params")
    for name in PRESETS:
        assert len(re.findall(rf"^\| {re.escape(name)} ", out, re.M)) == 3
    spreads = [float(figure) for figure in re.findall(r"([\d.]+)% \|$", out, re.M)]
    assert len(spreads) == 3 * len(PRESETS)
    assert max(spreads) <= 2


def test_params_as_json(run: Run) -> None:
    rows = json.loads(run("params", "nano", "--json")[1])
    assert [row["architecture"] for row in rows] == list(ARCHITECTURES)
    assert all(row["parameters"] > 0 for row in rows)


# sample


def test_a_pipe_gets_the_plain_text(run: Run, checkpoint: str) -> None:
    code, out, err = run("sample", "Mia found a [MASK:4].", "--checkpoint", checkpoint, "--steps", "2")
    assert (code, err) == (0, "")
    assert out.startswith("Mia found a") and out.rstrip("\n").endswith(".")
    assert "\x1b" not in out and "[MASK]" not in out


def test_same_seed_same_texts_and_each_sample_is_another(run: Run, checkpoint: str) -> None:
    argv = [
        "sample",
        "--checkpoint",
        checkpoint,
        "--length",
        "12",
        "--steps",
        "4",
        "--samples",
        "2",
        "--seed",
        "3",
    ]
    first, second = run(*argv)[1], run(*argv)[1]
    assert first == second
    one, two = first.split("\n\n", 1)
    assert one.strip() != two.strip()


def test_every_option_reaches_the_sampler(run: Run, checkpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    given = {
        "strategy": "threshold",
        "steps": 3,
        "block_length": 4,
        "block_start": "zero",
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.9,
        "repetition_penalty": 1.2,
        "confidence": "drawn",
        "alg_temp": 0.4,
        "threshold": 0.7,
        "factor": 1.5,
        "entropy_bound": 0.6,
        "remask_below": 0.3,
        "remask_cap": 0.2,
        "remask_rescale": 0.3,
        "t_on": 0.6,
        "t_off": 0.1,
        "alpha_on": 0.8,
        "draft_behind": "tokens",
        "drafts": 3,
        "seed": 5,
        "stop_at_eos": True,
    }
    flags = {name: f"--{name.replace('_', '-')}" for name in given}
    options = [
        w for name, value in given.items() for w in ([flags[name]] if value is True else [flags[name], str(value)])
    ]
    code, out, _ = run("sample", "--checkpoint", checkpoint, "--length", "8", "--trace", str(path), *options)
    assert code == 0
    trace = Trace.from_json(path.read_text())
    assert {name: trace.meta[name] for name in given} == given
    assert trace.meta["architecture"] == "diffuapriel"
    assert set(given) == {name for name in SamplerConfig.__dataclass_fields__}


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ((), 16),
        (("--block-length", "0"), None),
        (("--block-length", "3"), 3),
        (("--strategy", "random"), None),
    ],
    ids=str,
)
def test_the_surest_tokens_are_sought_block_by_block(
    run: Run, checkpoint: str, tmp_path: Path, options: tuple[str, ...], length: int | None
) -> None:
    path = tmp_path / "trace.json"
    argv = ["sample", "--checkpoint", checkpoint, "--length", "4", "--steps", "2", "--trace", str(path)]
    assert run(*argv, *options)[0] == 0
    assert Trace.from_json(path.read_text()).meta["block_length"] == length


def test_a_corpus_is_tokenized_once_for_training(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    argv = ["tokenize", "tales:1", "--tokens", "3000", "--tokenizer", "gpt2-4k", "--out", str(folder)]
    code, out, _ = run(*argv)
    assert code == 0
    assert re.search(r"^train +\d+ documents +[\d,]+ characters +3,0\d\d tokens$", out, re.M)
    assert f"diffuapriel train --corpus tokens:{folder} ..." in out
    code, out, err = run(*argv)
    assert (code, out) == (1, "") and "exists already" in err


@pytest.mark.parametrize("ending", ["json", "html", "gif"])
def test_a_trace_is_written_as_its_name_says(run: Run, checkpoint: str, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"story.{ending}"
    code, _, err = run("sample", "--checkpoint", checkpoint, "--length", "6", "--steps", "2", "--trace", str(path))
    assert (code, err) == (0, "")
    start = {"json": b"{", "html": b"<!doctype html>", "gif": b"GIF89a"}[ending]
    assert path.read_bytes().lower().startswith(start.lower())


def test_on_a_terminal_the_text_is_drawn_in_place(checkpoint: str) -> None:
    pty = pytest.importorskip("pty", reason="there is no pseudo-terminal on Windows")
    controller, worker = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "diffuapriel",
        "sample",
        "--checkpoint",
        checkpoint,
        "--length",
        "8",
        "--steps",
        "4",
    ]
    child = subprocess.Popen(command, stdout=worker, stderr=subprocess.PIPE)
    os.close(worker)
    seen = b""
    while True:
        try:
            chunk = os.read(controller, 4096)
        except OSError:  # Linux says so when the other side has closed
            break
        if not chunk:
            break
        seen += chunk
    os.close(controller)
    assert child.wait() == 0
    text = seen.decode()
    assert text.count("░░░") > 8 and "\x1b[2F\x1b[J" in text
    assert "4 masks left" in text and "░" not in text.rpartition("\x1b[J")[2]


# The terminal


def frames_of(text: str, steps: int = 2) -> tuple[list, int]:
    canvas = Canvas.from_text(text, TOKENIZER)
    sampler = Sampler(SamplerConfig(steps=steps), get_schedule("log-linear"), TOKENIZER.mask_id)
    flat = lambda ids, sigma, positions: torch.zeros(int(positions.sum()), TOKENIZER.vocab_size)  # noqa: E731
    return list(sampler.stream(flat, canvas)), TOKENIZER.eos_id


def test_a_live_canvas_draws_over_what_it_drew() -> None:
    frames, _ = frames_of("Mia [MASK:3]")
    out = io.StringIO()
    live = terminal.LiveCanvas(TOKENIZER, out)
    for frame in frames:
        live.show(frame)
    live.finish(frames[-1].ids)
    drawn = out.getvalue()
    assert drawn.count("\x1b[J") == len(frames)
    assert drawn.endswith(terminal.final_text(frames[-1].ids, TOKENIZER) + "\n")


def test_control_characters_of_a_model_are_shown_not_obeyed() -> None:
    assert terminal.printable("a\x1b[2Jb\nc\x07") == "a\\x1b[2Jb\nc\\x07"


def test_ends_of_text_in_a_row_are_counted() -> None:
    ids = [*TOKENIZER.encode("Hi"), *[TOKENIZER.eos_id] * 3, *TOKENIZER.encode("Yo"), TOKENIZER.eos_id]
    assert terminal.final_text(ids, TOKENIZER) == "Hi<|endoftext|> x3Yo<|endoftext|>"


def test_lines_are_broken_between_tokens_and_never_too_wide() -> None:
    styled = [(" word", ""), (" longer", terminal.BRIGHT), ("\n", ""), ("x" * 25, ""), ("日本語", "")]
    lines = terminal.wrap(styled, 10)
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]
    assert plain[:2] == [" word", "longer"]
    assert all(terminal.width(line) <= 10 for line in plain)
    assert "".join(plain).replace(" ", "") == "wordlonger" + "x" * 25 + "日本語"


def test_progress_stays_out_of_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress("windows", 4) as advance:
        advance(2)
    assert capsys.readouterr().err == ""


def test_a_trace_s_endings_are_those_the_command_promises() -> None:
    assert sample.TRACE_KINDS == (".json", ".html", ".gif")


# evaluate, race, bench, train


def test_evaluate_prints_likelihood_entropy_excess_and_rates(run: Run, checkpoint: str) -> None:
    quick = ["--sequences", "4", "--mc-samples", "1", "--samples", "2", "--steps", "4", "--batch-size", "4"]
    code, out, _ = run("evaluate", checkpoint, *quick)
    assert code == 0
    for name in ("NELBO", "entropy", "excess", "grammatical", "consistent", "perplexity"):
        assert re.search(rf"^{name} ", out, re.M), name
    report = json.loads(run("evaluate", checkpoint, *quick, "--json")[1])
    assert report["corpus"] == "tales:1", "the corpus and length that the model was trained on"
    assert report["likelihood"]["length"] == 64
    assert report["likelihood"]["excess_nelbo"] > 0
    assert report["samples"]["stories"] >= 2


def test_evaluate_on_another_text_measures_likelihood_and_samples(run: Run, checkpoint: str, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("The cat sat on the mat and looked at the moon. " * 200)
    argv = ["--corpus", str(tmp_path / "book.txt"), "--length", "16", "--windows", "2", "--draws", "1"]
    report = json.loads(run("evaluate", checkpoint, *argv, "--samples", "3", "--steps", "2", "--json")[1])
    assert report["samples"]["num_samples"] == 3 and "stories" not in report["samples"]
    assert json.loads(run("evaluate", checkpoint, *argv, "--samples", "0", "--json")[1])["samples"] is None
    assert report["likelihood"]["entropy"] is None
    assert report["likelihood"]["bits_per_byte"] > 0


def test_race_prints_the_lanes_and_what_was_fair(run: Run, checkpoint: str, tmp_path: Path) -> None:
    kept = tmp_path / "race.json"
    argv = [
        checkpoint,
        "random:nano:diffutran",
        "--length",
        "8",
        "--steps",
        "2",
        "--repeats",
        "1",
        "--json",
        str(kept),
    ]
    code, out, _ = run("race", *argv)
    assert code == 0
    assert "tokens/s" in out and "random weights" in out
    assert "one after the other" in out and "NOT matched" in out
    assert len(json.loads(kept.read_text())["entries"]) == 2


def test_bench_prints_its_tables_and_keeps_the_figures(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffuapriel.benchmark.run.time_generations", lambda entry, **_: _two_generations())
    kept = tmp_path / "bench.json"
    code, out, err = run("bench", "generation", "--quick", "--json", str(kept))
    assert code == 0
    assert "outside the denoiser" in out and "generation" in err
    assert json.loads(kept.read_text())["schema"] == "diffuapriel-bench"


def _two_generations() -> list:
    from diffuapriel.benchmark.report import SamplerRow

    return [SamplerRow("model", 256, 1, (1000.0,), steps, (950.0,)) for steps in (32, 64)]


def test_a_model_is_trained_kept_and_sampled(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--corpus", "tales:1", "--length", "32", "--batch-size", "2", "--steps", "2"]
    code, out, _ = run(*argv)
    assert code == 0
    folder = tmp_path / "runs" / "diffuapriel-nano-tales_1"
    assert (folder / "checkpoint" / "model.safetensors").is_file()
    assert "2 steps, 128 tokens" in out and "NELBO" in out
    code, text, _ = run("sample", "--checkpoint", str(folder / "checkpoint"), "--length", "8", "--steps", "2")
    assert code == 0 and text.strip()


def test_a_recipe_takes_single_options_in_place_of_its_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict = {}
    monkeypatch.setattr("diffuapriel.training.recipes.run_recipe", lambda *a, **k: seen.update(a=a, k=k))
    assert run("train", "--recipe", "tales-laptop", "--steps", "5")[0] == 130, "not finished, and nobody asked to stop"
    assert seen["a"] == ("tales-laptop", "diffuapriel", "runs/checkpoints/tales-laptop-diffuapriel")
    assert seen["k"] == {"steps": 5, "tokens": None, "progress": True}
    assert run("train", "--recipe", "tales-laptop", "--stop-after-minutes", "1")[0] == 0


def test_older_spellings_of_train_s_options_go_on_working(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict = {}
    monkeypatch.setattr("diffuapriel.training.recipes.run_recipe", lambda *a, **k: seen.update(k))
    older = ["--accumulate", "3", "--final-rate", "0.2", "--clip", "0.5"]
    assert run("train", "--recipe", "tales-laptop", "--quiet", *older)[0] == 130
    assert seen == {
        "gradient_accumulation_steps": 3,
        "min_lr_ratio": 0.2,
        "max_grad_norm": 0.5,
        "progress": False,
    }
    assert "--accumulate" not in run("train", "--help")[1]


def test_train_has_a_flag_for_every_option_and_shows_its_default(run: Run) -> None:
    out = " ".join(run("train", "--help")[1].split())
    for name, declared in options_of(TrainConfig).items():
        if name == "folder":  # --out, whose default depends on the model
            continue
        assert f"--{name.replace('_', '-')}" in out
        shown = declared.default is not None and declared.default is not False
        assert not shown or f"(default: {declared.default})" in out, name


def test_help_imports_no_pytorch() -> None:
    code = "import sys; from diffuapriel import cli; cli.main(['train', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
