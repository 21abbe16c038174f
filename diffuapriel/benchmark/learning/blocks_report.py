"""The table and the chart of the study of block lengths (blocks.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffuapriel.benchmark.format import Column, columns_table
from diffuapriel.benchmark.learning.blocks import LENGTHS, MIXED, NO_REVERSE, name_of
from diffuapriel.charts.matplotlib import dress, legend, new_figure, to_png
from diffuapriel.charts.palette import series_styles
from diffuapriel.config import ARCHITECTURES


def table(result: dict[str, Any]) -> str:
    """A row per entry, a column per block length: the mean over seeds; in brackets what it was not trained for."""

    def column(index: int, length: int) -> Column:
        def shown(entry: dict[str, Any]) -> str:
            figure = f"{mean(entry, index):.4f}"
            return figure if length in entry["block_lengths"] else f"({figure})"

        return Column(name_of(length), shown)

    columns = [Column("entry", lambda entry: entry["name"]), Column("parameters", lambda e: f"{e['parameters']:,}")]
    columns += [column(index, length) for index, length in enumerate(LENGTHS)]
    measure = measure_of(result)
    title = f"{measure[0].upper()}{measure[1:]}, by block length S; in brackets, lengths that were not trained:"
    return f"{title}\n\n{columns_table(columns, result['entries'])}"


def mean(entry: dict[str, Any], index: int) -> float:
    """Over seeds, of the figure at LENGTHS[index]."""
    likelihoods = [run["by_block_length"][index]["likelihood"] for run in entry["runs"]]
    values = [found[_key(found)] for found in likelihoods]
    return sum(values) / len(values)


def measure_of(result: dict[str, Any]) -> str:
    likelihood = result["entries"][0]["runs"][0]["by_block_length"][0]["likelihood"]
    return "bits per byte" if _key(likelihood) == "bits_per_byte" else "excess NELBO, nats/token"


def _key(likelihood: dict[str, Any]) -> str:
    return "bits_per_byte" if likelihood["excess_nelbo"] is None else "excess_nelbo"


def draw(result: dict[str, Any]) -> bytes:
    """The table as a PNG: a panel per architecture; models trained at one length alone are joined by a line."""
    by_name = {entry["name"]: entry for entry in result["entries"]}
    shown = [name for name in ARCHITECTURES if any(entry.startswith(f"{name}, ") for entry in by_name)]
    figure = new_figure(4 * len(shown), 4, layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    alone: Callable[[int], str] = name_of
    series = {
        MIXED: lambda length: MIXED,
        "each S alone": alone,
        "no reverse scan": lambda length: NO_REVERSE,
    }
    styles = dict(zip(series, series_styles(list(series)), strict=True))
    for architecture, axes in zip(shown, panels, strict=True):
        for label, kind in series.items():
            points = [
                (index, mean(by_name[name], index))
                for index, length in enumerate(LENGTHS)
                if (name := f"{architecture}, {kind(length)}") in by_name
            ]
            if points:
                axes.plot(*zip(*points), color=styles[label].color, label=label, marker="o")
        axes.set(title=architecture, xlabel="block length S", xticks=range(len(LENGTHS)))
        axes.set_xticklabels([str(length or "whole") for length in LENGTHS])
        dress(axes)
    panels[0].set_ylabel(measure_of(result))
    legend(panels[0])
    return to_png(figure)
