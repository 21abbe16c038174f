"""A study for readers: a table, sentences that follow from the intervals, and the learning curves.

    NAME.json   everything, as returned by `run_study`
    NAME.md     the written result
    NAME.png    validation NELBO against tokens and against seconds

All conclusions are computed: an entry is called ahead only if the paired interval of every seed says so. The paper's
claims are listed beside what was found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffuapriel.benchmark.format import Column, columns_table
from diffuapriel.benchmark.learning import blocks, blocks_report
from diffuapriel.benchmark.learning.plan import CURVE_SEQUENCES, StudyPlan
from diffuapriel.charts.matplotlib import dress, legend, new_figure, to_png
from diffuapriel.charts.palette import series_styles
from diffuapriel.storage import write_json

OVERFIT = 0.01  # share by which a curve must rise above its lowest point to be called overfitting
# arXiv:2511.15927, at 1.3B on DCLM: perplexity 22.89 (hybrid) against 25.01 (DiffuTran), pure Mamba level with it.
CLAIMS = (
    ("diffuapriel-h", "diffutran", "diffuapriel-h", "DiffuApriel-H is ahead of DiffuTran"),
    ("diffuapriel", "diffutran", None, "DiffuApriel is level with DiffuTran"),
)


def write_report(result: dict[str, Any], out: str | Path) -> list[Path]:
    """Write OUT.json, OUT.md and OUT.png; returns the paths."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    paths = [out.with_name(f"{out.name}.{kind}") for kind in ("json", "md", "png")]
    write_json(paths[0], result)
    paths[1].write_text(text(result, picture=paths[2].name), encoding="utf-8")
    paths[2].write_bytes(blocks_report.draw(result) if result["plan"]["study"] == "blocks" else draw(result))
    return paths


def text(result: dict[str, Any], picture: str = "") -> str:
    """The written result, in Markdown."""
    plan, of_blocks = result["plan"], result["plan"]["study"] == "blocks"
    if len(plan["factors"]) == 1:
        times = "" if plan["factors"][0] == 1 else f"{plan['factors'][0]:g} times "
        rates = f"Each at {times}its architecture's default learning rate."
    else:
        factors = ", ".join(f"{factor:g}" for factor in plan["factors"])
        rates = f"Learning rates chosen with {plan['sweep_tokens']:,} tokens from {factors} times the default."
    estimators = sorted(
        {
            scores["likelihood"].get("estimator", "mdlm")
            for entry in result["entries"]
            for run in entry["runs"]
            for scores in run.get("by_block_length", [run])
        }
    )
    paragraphs = [
        f"# {plan['study'].capitalize()} on {plan['corpus']}, {plan['preset']}",
        f"{plan['tokens']:,} tokens per run, sequences of {plan['length']}, batches of {plan['batch_size']}, seeds "
        f"{', '.join(map(str, plan['seeds']))}; the same data, order and noise for all. {rates} "
        f"Validation: {plan['sequences']:,} sequences, {plan['mc_samples']} random masks each "
        f"(estimator: {', '.join(estimators)}). "
        f"Trained on {result['machine']} with PyTorch {result['torch']}.",
        blocks_report.table(result) if of_blocks else table(result),
        *sentences(result),
    ]
    if picture and of_blocks:
        paragraphs.append(f"![{blocks_report.measure_of(result)} by block length]({picture})")
    elif picture:
        paragraphs += [
            f"![Validation NELBO against tokens and seconds]({picture})",
            f"The curves are of {min(CURVE_SEQUENCES, plan['sequences'])} sequences under one mask each and count "
            "all tokens, padding included; the table counts the text's own tokens, of all sequences.",
        ]
    return "\n\n".join([*paragraphs, "Made by", f"    {command(plan)}"]) + "\n"


def command(plan: dict[str, Any]) -> str:
    """The command line that makes this study again: all that differs from the defaults of `StudyPlan`."""
    words = ["diffuapriel", "compare"]
    for name, default in dataclasses.asdict(StudyPlan()).items():
        saved = plan.get(name, default)  # a study saved before the option existed
        values, defaults = (list(v) if isinstance(v, (list, tuple)) else [v] for v in (saved, default))
        if values != defaults:
            words += [f"--{name.replace('_', '-')}", *(str(one) for one in values if one is not True)]
    return " ".join(words)


def table(result: dict[str, Any]) -> str:
    """One row per entry: means over seeds, and the NELBO of each seed."""
    runs = [run for entry in result["entries"] for run in entry["runs"]]
    columns = [
        Column("entry", lambda entry: entry["name"]),
        Column("parameters", lambda entry: f"{entry['parameters']:,}"),
        Column("learning rate", lambda entry: f"{entry['learning_rate']:.2g}{_edge(entry)}"),
        _mean("NELBO, nats/token", "likelihood", "nats_per_token"),
        Column("each seed", _each_seed),
        _mean("bits/byte", "likelihood", "bits_per_byte"),
    ]
    if all(run["likelihood"]["excess_nelbo"] is not None for run in runs):
        columns.append(_mean("excess NELBO", "likelihood", "excess_nelbo"))
    if all("samples" in run for run in runs):
        columns += [
            _mean("grammatical", "samples", "grammatical", lambda share: f"{100 * share:.1f} %"),
            _mean("consistent", "samples", "consistent", lambda share: f"{100 * share:.1f} %"),
            _mean("token entropy", "samples", "token_entropy", lambda nats: f"{nats:.2f}"),
        ]
    return columns_table([*columns, Column("tokens/s", _tokens_per_second)], result["entries"])


def _mean(title: str, part: str, name: str, shown: Callable[[float], str] = lambda value: f"{value:.4f}") -> Column:
    """The column of a figure's mean over seeds."""
    return Column(title, lambda entry: shown(sum(run[part][name] for run in entry["runs"]) / len(entry["runs"])))


def _each_seed(entry: dict[str, Any]) -> str:
    return ", ".join(f"{run['likelihood']['nats_per_token']:.4f}" for run in entry["runs"])


def _tokens_per_second(entry: dict[str, Any]) -> str:
    tokens, seconds = (sum(run[name] for run in entry["runs"]) for name in ("tokens", "seconds"))
    return f"{tokens / seconds:,.0f}"


def sentences(result: dict[str, Any]) -> list[str]:
    """Paragraphs: what follows from the paired intervals, pair by pair, and what the paper says of it."""
    lines = []
    for pair in result["differences"]:
        seeds = "; ".join(
            f"{seed['nats_per_token']:+.4f} ({seed['ci95'][0]:+.4f} to {seed['ci95'][1]:+.4f})"
            for seed in pair["seeds"]
        )
        verdict = f"**{pair['verdict']}** is ahead" if pair["verdict"] else "not settled"
        where = f" at {blocks.name_of(pair['block_length'])}" if "block_length" in pair else ""
        lines.append(f"- {pair['first']} and {pair['second']}{where}: {seeds}: {verdict}")
    paragraphs = [
        "Difference of the first to the second, nats/token, seed by seed with the paired 95 % interval over validation "
        "sequences. The interval does not cover run-to-run variance; the seeds give an idea of it:",
        "\n".join(lines),
    ]
    best = {entry["name"]: past_best(entry) for entry in result["entries"]}
    if worn := [f"{name} (best at {at:,} tokens)" for name, at in best.items() if at]:
        paragraphs.append(f"Past their best at the end, by overfitting: {', '.join(worn)}.")
    if edges := [entry["name"] for entry in result["entries"] if _edge(entry)]:
        paragraphs.append(f"(*) The best rate was at the end of those tried: {', '.join(edges)}. More might change it.")
    if result["plan"]["study"] == "architectures":
        paragraphs += [
            "The paper (arXiv:2511.15927, 1.3B parameters, DCLM) against this run:",
            "\n".join(f"- {claim}" for claim in claims(result)),
        ]
    return paragraphs


def claims(result: dict[str, Any]) -> list[str]:
    """The paper's order of the architectures beside the one found."""
    verdicts = {(pair["first"], pair["second"]): pair["verdict"] for pair in result["differences"]}
    lines = []
    for first, second, claimed, words in CLAIMS:
        found = verdicts[first, second]
        here = f"{found} is ahead" if found else "no difference is settled"
        word = "agrees" if found == claimed else "not settled" if found is None else "does not agree"
        lines.append(f"the paper: {words}. Here {here}: {word}.")
    return lines


def past_best(entry: dict[str, Any]) -> int | None:
    """The tokens at which an entry was best, on average over seeds; None if it ended within 1 % of that."""
    curves = [run["curve"] for run in entry["runs"]]
    means = [sum(each) / len(each) for each in zip(*(curve["nelbo"] for curve in curves), strict=True)]
    best = min(range(len(means)), key=means.__getitem__)
    return curves[0]["tokens"][best] if means[-1] > (1 + OVERFIT) * means[best] else None


def draw(result: dict[str, Any]) -> bytes:
    """The learning curves as a PNG: one color per entry, one line per seed."""
    figure = new_figure(10, 4, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    entries = result["entries"]
    for entry, style in zip(entries, series_styles([entry["name"] for entry in entries])):
        for run in entry["runs"]:
            label = entry["name"] if run is entry["runs"][0] else None
            for axes, x in ((left, "tokens"), (right, "seconds")):
                axes.plot(run["curve"][x], run["curve"]["nelbo"], color=style.color, label=label, marker=".")
    left.set(xlabel="tokens", ylabel="validation NELBO, nats/token, padding included", yscale="log")
    right.set(xlabel="seconds of training, validation included")
    for axes in (left, right):
        dress(axes)
    legend(left)
    return to_png(figure)


def _edge(entry: dict[str, Any]) -> str:
    """A star if the best learning rate is the smallest or largest of those tried."""
    factors = [rate["factor"] for rate in entry["rates"]]
    return " (*)" if len(factors) > 1 and entry["factor"] in (min(factors), max(factors)) else ""
