"""What a comparison found, for people: a table, sentences that follow from the intervals, and the learning curves.

    NAME.json   everything, as `run_study` returned it
    NAME.md     the written result
    NAME.png    held-out NELBO against tokens and against seconds

Nothing here is a judgement typed by hand: a contestant is called ahead only where the paired interval of every seed
says so, and what the paper claims is put beside what was found.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffuapriel.benchmark.learning.plan import CURVE_WINDOWS, Plan
from diffuapriel.charts.matplotlib import dress, legend, new_figure, to_png
from diffuapriel.charts.palette import series_styles
from diffuapriel.storage import write_json

WORN = 0.01  # share by which a curve rises above its lowest point before that is called overfitting
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
    paths[2].write_bytes(draw(result))
    return paths


def text(result: dict[str, Any], picture: str = "") -> str:
    """The written result, in Markdown."""
    plan = result["plan"]
    if len(plan["factors"]) == 1:
        times = "" if plan["factors"][0] == 1 else f"{plan['factors'][0]:g} times "
        rates = f"Each at {times}its architecture's own learning rate."
    else:
        factors = ", ".join(f"{factor:g}" for factor in plan["factors"])
        chosen = f"chosen with {plan['sweep_tokens']:,} tokens from {factors}"
        rates = f"Learning rates {chosen} times each architecture's own."
    lines = [
        f"# {plan['study'].capitalize()} on {plan['corpus']}, {plan['preset']}",
        "",
        f"{plan['tokens']:,} tokens per run, windows of {plan['length']}, batches of {plan['batch_size']}, seeds "
        f"{', '.join(map(str, plan['seeds']))}; the same data, order and noise for all. {rates} "
        f"Held out: {plan['windows']:,} windows, {plan['draws']} noise levels each. "
        f"Trained on {result['machine']} with PyTorch {result['torch']}.",
        "",
        *table(result),
        "",
        *sentences(result),
    ]
    if picture:
        lines += ["", f"![Held-out NELBO against tokens and seconds]({picture})"]
        lines += [
            "",
            f"The curves are of {min(CURVE_WINDOWS, plan['windows'])} windows at one noise level each and count every "
            "token of a window, its padding too; the table counts the text's own tokens, of all windows.",
        ]
    lines += ["", "Made by", "", f"    {command(plan)}", ""]
    return "\n".join(lines)


def command(plan: dict[str, Any]) -> str:
    """The command line that makes this comparison again: what differs from the defaults of `Plan`."""
    words = ["diffuapriel", "compare"]
    for name, default in Plan().to_dict().items():
        value = plan[name]
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if values != (list(default) if isinstance(default, tuple) else [default]):
            words += [f"--{name.replace('_', '-')}", *(str(one) for one in values if one is not True)]
    return " ".join(words)


def excess(run: dict[str, Any]) -> float | None:
    """The excess NELBO of a run; results of older versions call it "gap"."""
    likelihood = run["likelihood"]
    return likelihood.get("excess_nelbo", likelihood.get("gap"))


def table(result: dict[str, Any]) -> list[str]:
    """A row a contestant: means over seeds, and every seed's NELBO."""
    runs = [run for one in result["contestants"] for run in one["runs"]]
    known = all(excess(run) is not None for run in runs)
    samples = all("samples" in run for run in runs)
    heads = ["contestant", "parameters", "learning rate", "NELBO, nats/token", "each seed", "bits/byte"]
    heads += ["excess NELBO"] * known + ["grammatical", "consistent", "token entropy"] * samples
    heads += ["tokens/s"]
    rows = []
    for one in result["contestants"]:
        mean = _mean_over(one["runs"])
        nelbos = [run["likelihood"]["nats_per_token"] for run in one["runs"]]
        row = [
            one["name"],
            f"{one['parameters']:,}",
            f"{one['learning_rate']:.2g}{_edge(one)}",
            f"{mean('likelihood', 'nats_per_token'):.4f}",
            ", ".join(f"{nelbo:.4f}" for nelbo in nelbos),
            f"{mean('likelihood', 'bits_per_byte'):.4f}",
        ]
        if known:
            row.append(f"{sum(excess(run) or 0.0 for run in one['runs']) / len(one['runs']):.4f}")
        if samples:
            row += [
                f"{100 * mean('samples', 'grammatical'):.1f} %",
                f"{100 * mean('samples', 'consistent'):.1f} %",
                f"{mean('samples', 'token_entropy'):.2f}",
            ]
        rows.append(
            [*row, f"{sum(r['tokens'] for r in one['runs']) / sum(r['seconds'] for r in one['runs']):,.0f}"]
        )
    return ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]


def sentences(result: dict[str, Any]) -> list[str]:
    """What follows from the paired intervals, pair by pair, and what the paper says of it."""
    lines = [
        "Difference of the first to the second, nats/token, seed by seed with the paired 95 % interval over held-out "
        "windows. What a run would differ by if it were repeated is not in it; the seeds give an idea of that:",
        "",
    ]
    for pair in result["differences"]:
        seeds = "; ".join(
            f"{seed['nats_per_token']:+.4f} ({seed['ci95'][0]:+.4f} to {seed['ci95'][1]:+.4f})"
            for seed in pair["seeds"]
        )
        verdict = f"**{pair['verdict']}** is ahead" if pair["verdict"] else "not settled"
        lines.append(f"- {pair['first']} and {pair['second']}: {seeds}: {verdict}")
    worn = [
        f"{one['name']} (best at {at:,} tokens)" for one in result["contestants"] if (at := past_best(one))
    ]
    if worn:
        lines += ["", f"Past their best on held-out text when they ended, by overfitting: {', '.join(worn)}."]
    edges = [one["name"] for one in result["contestants"] if _edge(one)]
    if edges:
        lines += [
            "",
            f"(*) The best rate was at the end of those tried: {', '.join(edges)}. More might change it.",
        ]
    if result["plan"]["study"] == "architectures":
        lines += ["", "The paper (arXiv:2511.15927, 1.3B parameters, DCLM) against this run:", ""]
        lines += [f"- {claim}" for claim in claims(result)]
    return lines


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


def past_best(one: dict[str, Any]) -> int | None:
    """The tokens at which a contestant was best, on average over seeds; None if it ended within 1 % of that."""
    curves = [run["curve"] for run in one["runs"]]
    means = [sum(each) / len(each) for each in zip(*(curve["nelbo"] for curve in curves), strict=True)]
    best = min(range(len(means)), key=means.__getitem__)
    return curves[0]["tokens"][best] if means[-1] > (1 + WORN) * means[best] else None


def draw(result: dict[str, Any]) -> bytes:
    """The learning curves as a PNG: one color per contestant, one line per seed."""
    figure = new_figure(10, 4, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    contestants = result["contestants"]
    for one, style in zip(contestants, series_styles([one["name"] for one in contestants])):
        for run in one["runs"]:
            label = one["name"] if run is one["runs"][0] else None
            for axes, x in ((left, "tokens"), (right, "seconds")):
                axes.plot(run["curve"][x], run["curve"]["nelbo"], color=style.color, label=label, marker=".")
    left.set(xlabel="tokens", ylabel="held-out NELBO, nats/token, padding included", yscale="log")
    right.set(xlabel="seconds of training, validation included")
    for axes in (left, right):
        dress(axes)
    legend(left)
    return to_png(figure)


def _mean_over(runs: list[dict[str, Any]]) -> Callable[[str, str], float]:
    """A function (part, name) to the mean of that figure over the seeds."""
    return lambda part, name: sum(run[part][name] for run in runs) / len(runs)


def _edge(one: dict[str, Any]) -> str:
    """A star where the best learning rate is the smallest or largest of those tried."""
    factors = [rate["factor"] for rate in one["rates"]]
    return " (*)" if len(factors) > 1 and one["factor"] in (min(factors), max(factors)) else ""
