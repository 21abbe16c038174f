"""README, docs/ and examples/: commands exist, links lead somewhere, code runs, figures come from results."""

from __future__ import annotations

import ast
import json
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import diffuapriel
from diffuapriel.checkpoint import bundled, inspect_checkpoint, with_frontier
from diffuapriel.cli import build_parser
from diffuapriel.config import ARCHITECTURES
from diffuapriel.model_card import write_card
from diffuapriel.sampling.frontier import Frontier
from diffuapriel.training.flops import PEAKS, utilization
from diffuapriel.training.recipes import RECIPES, recipe_config
from tools import continuations

ROOT = Path(diffuapriel.__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "docs" / "results.md"
PAGES = sorted([README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
MOST_README_LINES = 122
SERVED = "Client("  # a block that needs the app running is compiled, not run


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


def commands() -> list[tuple[str, str]]:
    """(page, line) of every command in a shell block, without comments."""
    found = []
    for page in PAGES:
        for block in blocks(page, "(?:bash|sh|console)"):
            lines = [line.removeprefix("$ ").strip() for line in block.splitlines()]
            found += [(name(page), line) for line in lines if line and not line.startswith("#")]
    return found


def test_the_readme_is_short_and_shows_python_early() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_README_LINES
    assert lines.index("```python") < 40


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_exists(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    while "=" in words[0]:
        words = words[1:]  # NAME=value before a command
    program = Path(words[0]).name
    if program == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif program == "diffuapriel":
        build_parser().parse_args(words[1:])
    elif program == "torchrun":
        build_parser().parse_args(words[words.index("diffuapriel") + 1 :])
    elif program == "python" and words[1] == "-m" and words[2].split(".")[0] in ("diffuapriel", "tools"):
        if words[2] == "diffuapriel":
            build_parser().parse_args(words[3:])
        else:
            assert (ROOT / words[2].replace(".", "/")).with_suffix(".py").is_file()
    elif program == "python" and words[1] == "start.py":
        text = (ROOT / "start.py").read_text(encoding="utf-8")
        assert f'"{words[2]}"' in text
    elif program == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file()
    elif program == "python":
        assert words[1:3] == ["-m", "pip"] or words[1:3] == ["-m", "pytest"], line
    else:
        assert program in ("git", "cd", "pip", "pre-commit"), line


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = set(re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text))
    assert [link for link in sorted(links) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("block", [b for page in PAGES if page.name != "api.md" for b in blocks(page, "python")])
def test_the_python_of_the_pages_runs(block: str, tmp_path: Path, monkeypatch, capsys) -> None:
    code = compile(block, "page", "exec")
    if SERVED in block:
        return
    monkeypatch.chdir(tmp_path)
    exec(code, {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert printed.strip() and "[MASK]" not in printed.splitlines()[-1]


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=name)
def test_every_example_is_short_and_runs(example: Path, tmp_path: Path) -> None:
    text = example.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40 and ast.get_docstring(ast.parse(text))
    arguments = ["2"] if "sys.argv" in text else []
    code = f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); sys.argv = [{str(example)!r}, *{arguments!r}]; "
    code += f"runpy.run_path({str(example)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def where_is() -> list[tuple[str, str]]:
    """(file, name) of every row of the table "Where is ...?"."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return re.findall(r"^\| [^|]+ \| `([\w/.]+)` \| `(\w+)` \|$", text, re.M)


def test_the_table_of_places_has_rows() -> None:
    assert len(where_is()) > 12


@pytest.mark.parametrize(("file", "defined"), where_is())
def test_what_the_architecture_page_names_is_there(file: str, defined: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^(?:export )?(?:class|def|function) {defined}\b", text, re.M), f"{file}: {defined}"


def test_the_readme_s_figures_are_those_of_the_results() -> None:
    text = README.read_text(encoding="utf-8")
    report = json.loads((ROOT / "assets" / "results" / "gpu-nvidia-h200.json").read_text(encoding="utf-8"))
    ms = {(r["entry"], r["length"], r["batch"]): r["median_ms"] for r in report["forward"]}
    assert f"**{ms['diffutran', 65_536, 1] / ms['diffuapriel', 65_536, 1]:.2f}x**" in text
    mixer = {(r["entry"], r["length"], r["batch"]): r["median_ms"] for r in report["mixer"] if not r["gradient"]}
    ratios = [mixer["mamba_ssm", n, b] / ms for (who, n, b), ms in mixer.items() if who == "triton" and n >= 8192]
    assert f"**{min(ratios):.2f}x**" in text
    blocks = json.loads((ROOT / "assets" / "results" / "gpu-nvidia-h200-blocks.json").read_text(encoding="utf-8"))
    ms = {r["entry"]: r["median_ms"] for r in blocks["block_generations"] if r["length"] == 262_144}
    cache = {r["entry"]: r["cache_bytes"] for r in blocks["block_passes"] if (r["length"], r["batch"]) == (262_144, 1)}
    assert f"**{ms['diffutran'] / ms['diffuapriel']:.2f}x** | as fast as DiffuTran writing 262,144 tokens" in text
    assert f"{cache['diffuapriel'] / 1e6:.0f} MB against {cache['diffutran'] / 1e9:.0f} GB" in text
    drafts = json.loads((ROOT / "assets" / "results" / "speculative.json").read_text(encoding="utf-8"))["runs"]
    assert f"**{max(run['tokens_per_pass'] for run in drafts):.2f}** | tokens per pass" in text
    row = re.search(
        r"^\| `small` \| tinystories \| ([\d.]+) .* \| ([\d.]+) \|$", RESULTS.read_text(encoding="utf-8"), re.M
    )
    assert row and f"**{row[1]}**" in text and f"needs {row[2]} (" in text


def test_the_likelihoods_on_the_results_page_are_those_of_the_file() -> None:
    text = RESULTS.read_text(encoding="utf-8")
    file = ROOT / "assets" / "results" / "likelihood.json"
    models = json.loads(file.read_text(encoding="utf-8"))["models"]
    rows = {"| NELBO, nats/token |": ("counts", "nats_per_token", "ci95")}
    rows["| excess |"] = ("counts", "excess_nelbo", "excess_nelbo_ci95")
    rows["| excess by MDLM's estimator |"] = ("mdlm", "excess_nelbo", "excess_nelbo_ci95")
    for start, (estimator, value, interval) in rows.items():
        cells = []
        for model in ("tales-diffuapriel", "tales-diffuapriel-h", "tales-diffutran"):
            found = models[model][estimator]
            low, high = found[interval]
            cells.append(f"{found[value]:.3f} ({low:.3f} to {high:.3f})")
        assert f"{start} {' | '.join(cells)} |" in text
    small = json.loads((file.parent / "tales-small.json").read_text(encoding="utf-8"))["evaluation"]
    low, high = small["excess_nelbo_ci95"]
    assert f"{small['excess_nelbo']:.3f} nats/token ({low:.3f} to {high:.3f})" in text


def test_the_zero_shot_table_is_that_of_the_file() -> None:
    text = RESULTS.read_text(encoding="utf-8")
    models = json.loads((ROOT / "assets" / "results" / "zeroshot.json").read_text(encoding="utf-8"))["models"]
    rows = {"last word": "last_word_acc", "endings, per byte": "endings_acc_norm", "endings": "endings_acc"}
    for label, name in rows.items():
        cells = []
        for model in ("stories-diffuapriel", "stories-diffuapriel-h", "stories-diffutran"):
            found = models[model][name]
            low, high = (100 * bound for bound in found["ci95"])
            cells.append(f"{100 * found['accuracy']:.1f} % ({low:.1f} to {high:.1f})")
        assert f"| {label} | {' | '.join(cells)} |" in text


def test_the_tables_of_edges_and_tokenizers_are_those_of_the_files() -> None:
    text = RESULTS.read_text(encoding="utf-8")
    for name in ("edges", "tokenizers"):
        runs = json.loads((ROOT / "assets" / "results" / f"{name}.json").read_text(encoding="utf-8"))["runs"]
        rows = []
        for run in runs:
            figures = [(1, run["excess_per_story"], run["excess_per_story_ci95"])]
            for strategy, rate in (
                ("low_confidence", "grammatical"),
                ("low_confidence", "consistent"),
                ("ancestral", "grammatical"),
            ):
                figures.append((100, run[strategy][rate], run[strategy][f"{rate}_ci95"]))
            rows.append(" | ".join(f"{s * v:.1f} ({s * low:.1f} to {s * high:.1f})" for s, v, (low, high) in figures))
        written = [
            line for line in text.splitlines() if line.startswith("| Diffu") and any(row in line for row in rows)
        ]
        assert len(written) >= len(rows), name
    quarter = {run["tokenizer"]: run["excess_per_story"] for run in runs if run["tokens"] == 344_064_000}
    assert f"{quarter['tales-words'] - quarter['gpt2-4k']:.1f} nats per story behind" in text


@pytest.mark.parametrize("model", bundled())
def test_the_card_of_a_bundled_model_holds_the_figures_of_its_config_and_its_likelihood_is_that_of_the_file(model):
    info = inspect_checkpoint(model)
    file = ROOT / "assets" / "results" / "likelihood.json"
    assert info.extra["evaluation"] == json.loads(file.read_text(encoding="utf-8"))["models"][model]["counts"]
    card = (info.folder / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^Made by\n\n    (.*)$", card, re.M)
    build_parser().parse_args(command.partition("diffuapriel ")[2].split())
    optional = ("samples", "ancestral", "blocks", "parts", "sources")
    figures = {name: info.extra[name] for name in ("recipe", "evaluation", *optional) if name in info.extra}
    written = write_card(
        name=model,
        config=info.config,
        parameters=info.config.parameters,
        command=command,
        limits=RECIPES[info.extra["recipe"]["recipe"]].limits,
        picture="loss.png",
        **figures,
    )
    assert card == (with_frontier(written, info.frontier) if info.frontier else written)


def test_the_tables_of_the_models_of_blocks_are_those_of_their_cards() -> None:
    text = RESULTS.read_text(encoding="utf-8")
    models = [inspect_checkpoint(f"tales-blocks-{architecture}").extra["blocks"] for architecture in ARCHITECTURES]
    for blocks_of in zip(*models, strict=True):
        label = str(blocks_of[0]["block_length"] or "whole canvas")
        cells: dict[str, list[str]] = {"excess": [], "random": [], "threshold": []}
        for block in blocks_of:
            bound, samples = block["evaluation"], block["samples"]
            low, high = bound["excess_per_story_ci95"]
            cells["excess"].append(f"{bound['excess_per_story']:.2f} ({low:.2f} to {high:.2f})")
            for strategy in cells.keys() & samples.keys():
                found = samples[strategy]
                rates = f"{100 * found['grammatical']:.0f} %, {100 * found['consistent']:.0f} %"
                cells[strategy].append(rates + (f", {found['tokens_per_pass']:.1f}" if strategy == "threshold" else ""))
        for row in filter(None, cells.values()):
            assert f"| {label} | {' | '.join(row)} |" in text
    recipes = [inspect_checkpoint(f"tales-blocks-{architecture}").extra["recipe"] for architecture in ARCHITECTURES]
    assert f"{recipes[0]['tokens'] / 1e6:.0f} million tokens" in text
    assert ", ".join(
        f"{recipe['seconds']:.0f}" for recipe in recipes[:2]
    ) + f" and {recipes[2]['seconds']:.0f}" in " ".join(text.split())


def test_the_api_page_is_made_from_the_docstrings() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.api_reference", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_table_of_the_stories_is_that_of_the_file() -> None:
    text = RESULTS.read_text(encoding="utf-8")
    found = json.loads((ROOT / "assets" / "results" / "stories.json").read_text(encoding="utf-8"))
    runs = {(run["preset"], run["architecture"]): run for run in found["runs"] if run["seed"] == 0}

    def row(preset: str, label: str, measured: Callable[[dict[str, Any]], dict[str, Any]], xz: str) -> str:
        cells = []
        for architecture in ARCHITECTURES:
            of = measured(runs[preset, architecture])
            low, high = of["bits_per_byte_ci95"]
            cells.append(f"{of['bits_per_byte']:.3f} ({low:.3f} to {high:.3f})")
        return f"| `{preset}` | {label} | {' | '.join(cells)} | {xz} |"

    for preset in ("small", "tiny"):
        for part, xz in found["xz"].items():
            line = row(
                preset,
                part.replace("_", " "),
                lambda run, part=part: run["parts"][part],
                f"{xz['after_training_text']:.3f}",
            )
            assert line in text, line
            assert min(r["parts"][part]["bits_per_byte_ci95"][1] for r in runs.values()) < xz["after_training_text"]
        best = [
            min(ARCHITECTURES, key=lambda a: runs[preset, a]["parts"][part]["bits_per_byte"]) for part in found["xz"]
        ]
        assert set(best) == {"diffuapriel-h"}
        assert row(preset, "WikiText-2, test", lambda run: run["wikitext2_test"], "2.139") in text
    pure, transformer = (runs["small", name]["parts"] for name in ("diffuapriel", "diffutran"))
    assert sum(pure[part]["bits_per_byte"] < transformer[part]["bits_per_byte"] for part in pure) == 3
    for architecture in ARCHITECTURES:
        seeds = [r for r in found["runs"] if (r["preset"], r["architecture"]) == ("tiny", architecture)]
        last = runs["small", architecture]["validation"][-1]["parts"]
        assert [round(part["epochs"]) for part in last.values()] == [63, 73, 17, 5]
        for part in last:
            curve = [(v["step"], v["parts"][part]["nats_per_token"]) for v in runs["small", architecture]["validation"]]
            (before,) = (nats for step, nats in curve if step == 9000)
            assert before == min(nats for step, nats in curve if step <= 9000), "a curve turns up"
            change = {"tinystories": (-0.06, -0.035), "storybooks": (-0.01, 0.01)}.get(part, (0.025, 0.055))
            assert change[0] < last[part]["nats_per_token"] - before < change[1], (architecture, part)
        assert " and ".join(f"{run['validation'][-1]['nats_per_token']:.3f}" for run in seeds) in text
        samples = runs["small", architecture]["samples"]["generated"]
        low, high = samples["copied_words_ci95"]
        assert f"{samples['copied_words']:g} ({low:g} to {high:g})" in text and high < 12


def test_the_page_of_continuations_is_that_of_its_tool() -> None:
    text = (ROOT / "docs" / "continuations.md").read_text(encoding="utf-8")
    given = re.findall(r"^\d+\. \*\*(.*?)\*\* \S", text, re.M)
    assert given == list(continuations.SENTENCES) and len(given) == 20
    assert text.startswith(continuations.page_of(continuations.MODEL, given).partition("1. **")[0])


def test_drafted_stories_are_those_of_one_token_per_pass_and_the_page_has_their_figures() -> None:
    """The same texts have the same counts and the same entropy."""
    text = RESULTS.read_text(encoding="utf-8")
    found = json.loads((ROOT / "assets" / "results" / "speculative.json").read_text(encoding="utf-8"))["runs"]
    for run in found:
        of_one = inspect_checkpoint(run["model"]).extra["blocks"][0]
        one = of_one["samples"]["threshold" if run["temperature"] == 0.5 else "random"]
        assert of_one["block_length"] == 1 and one["temperature"] == run["temperature"]
        assert all(run[name] == one[name] for name in ("grammatical", "consistent"))
        assert all(run[name] == pytest.approx(one[name], rel=1e-14) for name in ("token_entropy", "surprisal"))
        drafts = f"drafts of {run['block_length']}" + ", behind each token" * (run.get("draft_behind") == "tokens")
        for how, of in ((drafts, run), ("one token per pass", one)):
            low, high = of["tokens_per_pass_ci95"]
            rates = f"{100 * of['grammatical']:.1f} % | {100 * of['consistent']:.1f} % | {of['token_entropy']:.4f}"
            line = (
                f"| {run['temperature']:g} | {how} | {rates} | {of['tokens_per_pass']:.2f} ({low:.2f} to {high:.2f}) |"
            )
            assert line in text, line
    blocks = " ".join((ROOT / "docs" / "blocks.md").read_text(encoding="utf-8").split())
    speed = {run["block_length"]: run["tokens_per_pass"] for run in found if run["temperature"] == 0.5}
    assert all(f"{speed[length]:.1f} tokens per pass with drafts of {length}" in blocks for length in (16, 12))


def test_what_is_said_of_the_english_model_adapted_to_blocks_is_in_its_file() -> None:
    text = RESULTS.read_text(encoding="utf-8").partition("### Adapted to blocks\n")[2].partition("\n## ")[0]
    said = " ".join(text.split())
    found = json.loads((ROOT / "assets" / "results" / "english_blocks.json").read_text(encoding="utf-8"))
    recipe, begun, bounds = found["recipe"], found["before_training"], found["bounds"]
    for name, declared in recipe_config("stories-blocks", "diffuapriel").to_dict().items():
        assert recipe.get(name, declared) == declared or name == "steps", name
    assert recipe["steps"] * 128 * 256 == recipe["tokens"]
    assert f"{recipe['steps']} steps of 128 rows (24 million tokens), {recipe['seconds']:.0f} seconds" in said
    assert f"whole row is {begun['0']} nats/token on {begun['num_sequences']} sequences" in said
    assert f"source has {begun['source']}, and {begun['16']} in blocks of 16" in said and f"seen, {begun['1']}." in said
    adapted, source = bounds["adapted"], bounds["source"]["None"]
    names = {"adapted, whole row": "0", **{f"adapted, blocks of {S}": str(S) for S in (16, 4, 1)}}
    for name, bound in {"source": source, **{name: adapted[S] for name, S in names.items()}}.items():
        cells = []
        for part in ("mix", "tinystories", "fairytales", "childrens_books"):
            low, high = bound[part]["ci95"]
            cells.append(f"{bound[part]['nats_per_token']:.3f} ({low:.3f} to {high:.3f})")
        assert f"| {' | '.join([name, *cells])} |" in text
    above = adapted["0"]["mix"]["nats_per_token"] / source["mix"]["nats_per_token"] - 1
    assert f"{100 * above:.1f} % above its source" in said
    for of in (each for each in found["drafts"] if each["temperature"] < 1):
        how = f"drafts of {of['draft']}" + ", behind each token" * (of["behind"] == "tokens")
        how += f", {of['drafts']} side by side" * (of["drafts"] > 1)
        low, high = of["ci95"]
        speed = f"{of['tokens_per_pass']:.2f} ({low:.2f} to {high:.2f})"
        line = [how if of["draft"] > 1 else "one token per pass", speed, f"{100 * of['distinct_3']:.1f} %"]
        assert f"| temperature {of['temperature']:g}, {' | '.join(line)} |" in text
        assert of["same_text"] * of["texts"] == (127 if of["draft"] > 1 and of["drafts"] == 1 else 128)
    best = {of["temperature"]: of["tokens_per_pass"] for of in found["drafts"] if of["drafts"] == 4}
    assert f"English gains {best[0.7]:.1f} times as many tokens per pass at no loss at temperature 0.7" in said
    assert f"and {best[0.5]:.1f} times at 0.5, less than the tales do" in said
    one = {(of["draft"], of["behind"], of["drafts"]): of["tokens_per_pass"] for of in found["drafts"]}[4, "tokens", 1]
    blocks = " ".join((ROOT / "docs" / "blocks.md").read_text(encoding="utf-8").split())
    assert f"{best[0.7]:.2f} tokens per pass with four drafts of 4, {one:.2f} with one" in blocks


def test_the_card_of_distilled_models_is_that_of_the_file() -> None:
    text = RESULTS.read_text(encoding="utf-8")
    card = " ".join(text.partition("### Distilled to few passes\n")[2].partition("\n## ")[0].split())
    found = json.loads((ROOT / "assets" / "results" / "distilled.json").read_text(encoding="utf-8"))
    teacher, students = found["teacher"], found["students"]
    for name, model in {"teacher": teacher, **students}.items():
        assert ("choice" in model) == (model["frontier"]["choice"] is not None)
        for of in (model[kind] for kind in ("one", "choice") if kind in model):
            how = f"`threshold` {of['threshold']:g}" if "threshold" in of else "one token per pass"
            low, high = of["tokens_per_pass_ci95"]
            cells = [f"{of['tokens_per_pass']:.2f} ({low:.2f} to {high:.2f})"]
            for rate in ("consistent", "grammatical"):
                low, high = (100 * end for end in of[f"{rate}_ci95"])
                cells.append(f"{100 * of[rate]:.1f} % ({low:.1f} to {high:.1f})")
            plots = 1000 * of["plots_chi2"] / of["stories"]
            line = " | ".join(
                [name, how, *cells, f"{of['token_entropy']:.2f}", f"{of['names_p']:.1g}", f"{plots:,.0f}"]
            )
            assert f"| {line} |" in text, line
            assert (of["block_length"], of["temperature"]) == (16, 0.5)
    chosen = [model["choice"] for model in students.values() if "choice" in model]
    fastest = max(of["tokens_per_pass"] for of in chosen)
    assert f"{fastest:.2f} at best, {fastest / teacher['choice']['tokens_per_pass']:.2f} times as many" in card
    assert len(students) == 6 and len(chosen) == 3, "three of the six lose already at the most cautious value"
    for model in students.values():
        if "choice" not in model:
            assert [(p["value"], p["loses"]) for p in model["frontier"]["points"]] == [(0.99, True)]
    one, sure = teacher["one"], students["certainty, weight 1"]["one"]
    some = students["certainty, weight 0.3"]["choice"]
    assert f"At weight 0.3 the rule writes {100 * some['consistent']:.1f} % consistent" in card
    assert f"teacher's writes {100 * teacher['choice']['consistent']:.1f} %, at an entropy within 3 %" in card
    assert some["token_entropy"] > 0.97 * teacher["choice"]["token_entropy"]
    assert f"at weight 1 one token per pass writes {100 * sure['consistent']:.1f} %" in card
    assert f"where the teacher has {100 * one['consistent']:.1f} %" in card
    assert f"from {one['token_entropy']:.2f} to {sure['token_entropy']:.2f} nats" in card
    apart = [of["plots_chi2"] / of["stories"] for of in (sure, one)]
    assert f"{apart[0] / apart[1]:.1f} times as far" in card and sure["names_p"] < 1e-6 < one["names_p"]
    sdtt = students["sdtt"]
    assert sdtt["one"]["consistent_ci95"][1] < one["consistent_ci95"][0]
    for name, model in students.items():
        steps = (500, 64) if name == "sdtt" else (1000, 128)
        assert (model["recipe"]["steps"], model["recipe"]["batch_size"]) == steps and model["recipe"][
            "sequences"
        ] == 8192
    counts = [of["stories"] for model in students.values() for of in (model["one"], model.get("choice", model["one"]))]
    assert f"students have {min(counts):,} to {max(counts):,} stories" in card
    assert f"the teacher's {one['stories']:,} and {teacher['choice']['stories']:,}." in card
    drafts = json.loads((ROOT / "assets" / "results" / "speculative.json").read_text(encoding="utf-8"))["runs"]
    speeds = [run["tokens_per_pass"] for run in drafts]
    assert f"write {min(speeds):.1f} to {max(speeds):.1f} tokens per pass" in card and fastest < min(speeds) / 2


def test_students_and_teacher_on_texts_that_stop_are_those_of_the_file() -> None:
    text = RESULTS.read_text(encoding="utf-8").partition("### Distilled to few passes\n")[2].partition("\n## ")[0]
    said = " ".join(text.split())
    found = json.loads((ROOT / "assets" / "results" / "distilled.json").read_text(encoding="utf-8"))["stopped"]
    best = {}
    for name, values in found["frontiers"].items():
        frontier = Frontier.from_dict(values, (1, 16))
        assert frontier.samples == 512 and frontier.stop_at_eos and frontier.temperature == 0.5
        best[name] = frontier.choice
        for point in (frontier.reference, frontier.choice):
            low, high = point.tokens_per_pass_ci95
            how = "one token per pass" if point.value is None else f"`threshold` {point.value:g}"
            cells = [name, how, f"{point.tokens_per_pass:.2f} ({low:.2f} to {high:.2f})"]
            for measure in point.quality[:2]:
                low, high = (100 * end for end in measure.ci95)
                cells.append(f"{100 * measure.value:.1f} % ({low:.1f} to {high:.1f})")
            assert f"| {' | '.join(cells)} |" in text
    teacher = best.pop("teacher")
    gain = max(point.tokens_per_pass for point in best.values()) / teacher.tokens_per_pass
    assert f"up to {gain:.2f} times as many tokens per pass" in said
    assert all(point.quality[0].value > teacher.quality[0].value for point in best.values())
    assert f"wrote {found['recipe']['sequences']:,} texts for them" in said and found["recipe"]["temperature"] == 0.5


def test_what_is_said_of_the_recorded_frontiers_is_on_the_cards() -> None:
    said = " ".join(RESULTS.read_text(encoding="utf-8").split())
    for model in ("tales-blocks-diffuapriel", "tales-blocks-diffuapriel-h"):
        frontier = inspect_checkpoint(model).frontier
        assert frontier.stop_at_eos and frontier.samples == 512
        drafts, one = frontier.fastest("speculative").tokens_per_pass, frontier.reference.tokens_per_pass
        assert f"{drafts:.1f} tokens per pass for both models" in said and f"{one:.1f} for one token per pass" in said


def test_the_speed_of_folded_training_is_that_of_its_runs() -> None:
    found = json.loads((ROOT / "assets" / "results" / "folded.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "blocks.md").read_text(encoding="utf-8")
    for run in found.values():
        shares = {name: [ms["plain"] / ms[S] for S in ("1", "4", "16", "64")] for name, ms in run["median_ms"].items()}
        said = {name: f"{min(of):.2f} to {max(of):.2f}" for name, of in shares.items()}
        diffutran = said["diffutran"].replace("0.50 to 0.50", "0.50 at every block length")
        line = f"DiffuApriel {said['diffuapriel']}, DiffuApriel-H {said['diffuapriel-h']}, DiffuTran {diffutran} |"
        assert f"`{run['command']}" in text and line in text, line


def test_the_speed_of_training_on_short_texts_is_that_of_its_runs() -> None:
    found = json.loads((ROOT / "assets" / "results" / "short.json").read_text(encoding="utf-8"))
    text = " ".join((ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").split())
    config = recipe_config("small-tales-long", "diffuapriel")
    assert (config.batch_size, config.length) == (found["rows"], found["length"])
    said = []
    for run in (found["after"], found["before"]):
        speed = run["tokens_per_second"]
        mfu = utilization(config.model_config, found["length"], speed, PEAKS["H200"], 1)
        said.append(f"{run['step_ms']:.1f} ms, {speed / 1e6:.2f} million tokens/s, an MFU of {100 * mfu:.1f} %")
        said.append(f"{sum(run['mixer_us'].values()) / 1e3:.2f} ms")
    assert all(part in text for part in said), said


def test_the_study_of_block_lengths_says_what_its_runs_show() -> None:
    text = " ".join(RESULTS.read_text(encoding="utf-8").split())
    lengths, shown = (1, 4, 16, 64, 0), {"diffuapriel": "DiffuApriel", "diffuapriel-h": "DiffuApriel-H"}
    apart: dict[tuple[str, str, str], list[float]] = {}  # nats/token of the seeds, by corpus, architecture and question
    verdicts: dict[tuple[str, str, str], list[str | None]] = {}
    for corpus, measure in (("tales", "excess_nelbo"), ("stories", "bits_per_byte")):
        study = json.loads((ROOT / "assets" / "results" / f"compare-blocks-{corpus}.json").read_text(encoding="utf-8"))
        entries = {entry["name"]: entry["runs"] for entry in study["entries"]}
        means = {
            (name, S): statistics.mean(run["by_block_length"][i]["likelihood"][measure] for run in runs)
            for name, runs in entries.items()
            for i, S in enumerate(lengths)
        }
        for architecture in ARCHITECTURES:
            title = shown.get(architecture, "DiffuTran")
            for kind in ("mixed", "each S alone", "mixed, no reverse scan"):
                names = [kind if kind != "each S alone" else f"S = {S or 'whole'}" for S in lengths]
                if f"{architecture}, {names[0]}" in entries:
                    cells = (f"{means[f'{architecture}, {name}', S]:.3f}" for name, S in zip(names, lengths))
                    assert f"| {corpus} | {title}, {kind} | {' | '.join(cells)} |" in text
        if corpus == "tales":
            for trained, S in (("S = 1", 16), ("S = whole", 1)):
                there, mixed = means[f"diffuapriel, {trained}", S], means["diffuapriel, mixed", S]
                assert re.search(rf"{there:.2f}( nats/token)? at S = {S} \(mixed: {mixed:.2f}\)", text)
        for pair in study["differences"]:
            architecture, _, second = pair["second"].partition(", ")
            question = "alone" if second.startswith("S = ") and "noise" not in second else second
            key = corpus, architecture, question
            if question == "mixed, no reverse scan" and pair["block_length"] == 1:
                key = corpus, architecture, "no reverse scan, S = 1"
            apart.setdefault(key, []).extend(seed["nats_per_token"] for seed in pair["seeds"])
            verdict = pair["verdict"] and ("first" if pair["verdict"] == pair["first"] else "second")
            verdicts.setdefault(key, []).append(verdict)

    def span(*keys: tuple[str, str, str]) -> str:
        values = [abs(value) for key in keys for value in apart[key]]
        return f"{min(values):.2f} to {max(values):.2f}"

    for architecture in shown:
        assert verdicts["tales", architecture, "alone"] == ["second"] * 5
        assert verdicts["stories", architecture, "alone"] == ["second"] * 3 + [None] * 2
        for corpus in ("tales", "stories"):
            assert verdicts[corpus, architecture, "mixed, no reverse scan"] == ["first"] * 4
        assert verdicts["tales", architecture, "no reverse scan, S = 1"] == [None]
        assert verdicts["stories", architecture, "no reverse scan, S = 1"] == ["second"]
    for corpus in ("tales", "stories"):
        assert verdicts[corpus, "diffutran", "alone"] == ["second"] * 4 + ["first"]
    alone = span(*(("tales", architecture, "alone") for architecture in shown))
    assert f"are {alone} nats/token worse at each length" in text
    pure, hybrid = (span(("tales", architecture, "mixed, no reverse scan")) for architecture in shown)
    assert f"grows by {pure} nats/token from S = 4 on for DiffuApriel, and by {hybrid} for the hybrid" in text
    ahead = span(*(("stories", architecture, "no reverse scan, S = 1") for architecture in shown))
    assert f"the models without it are ahead by {ahead}" in text
    noise = {
        corpus: max(abs(v) for a in shown for v in apart[corpus, a, "S = 16, noise level"])
        for corpus in ("tales", "stories")
    }
    assert (
        f"{noise['tales']:.3f} nats/token at most for the two with Mamba on tales and {noise['stories']:.3f} on" in text
    )


def test_the_figures_of_the_web_page_are_those_of_the_file() -> None:
    found = json.loads((ROOT / "assets" / "results" / "page.json").read_text(encoding="utf-8"))
    text = " ".join((ROOT / "docs" / "page.md").read_text(encoding="utf-8").split())
    (model, page), seconds = next(iter(found["page"].items())), next(iter(found["page"].values()))["seconds"]
    first, last = page["tab_megabytes"]
    assert f"one file of {page['megabytes']:.0f} MB" in text
    for line in (
        f"`{model}`",
        f"opening moves after {page['first_movement']:.1f} s, the live model's first token comes after "
        f"{page['first_token']:.1f} s",
        f"{page['length']} tokens takes {seconds['page']:.2f} s in the page, {seconds['app']:.2f} s in the app and "
        f"{seconds['package']:.2f} s in the package: {page['times_the_app']:.2f} times the app",
        f"{first} MB after one story, {last} MB after {page['stories']}",
    ):
        assert line in text, line
    for name, texts in found.get("texts", {}).items():
        line = f"{texts['texts'] - texts['different']} of {texts['texts']} texts of {texts['length']} tokens (`{name}`)"
        assert line in text, line
    for name, rates in found["quality"].items():
        exact, coarse = rates["float32"], rates["int8"]
        line = (
            f"Of {coarse['stories']} stories with weights in 8 bits {coarse['grammatical']:.1%} are grammatical and "
            f"{coarse['consistent']:.1%} consistent, of {exact['stories']} in float32 {exact['grammatical']:.1%} and "
            f"{exact['consistent']:.1%} (temperature {exact['temperature']:g}, top-p {rates['top_p']:g})"
        )
        assert name == model and line.replace("%", " %") in text, line
    for name, logits in found["logits"].items():
        errors = (logits[key] for key in ("largest_difference", "graph_to_float64", "torch_to_float64"))
        row = " | ".join([f"| `{name}`", *(f"{error:.1e}" for error in errors)])
        assert row in text, row
        difference, *exact = (logits[key] for key in ("largest_difference", "graph_to_float64", "torch_to_float64"))
        assert difference <= 1e-4 or min(exact) > 1e-4, "the page says so"
