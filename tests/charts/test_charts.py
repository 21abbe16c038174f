"""Charts: series are told apart, and both libraries draw the same panel."""

from __future__ import annotations

from itertools import pairwise

import pytest

from diffuapriel.charts.curves import Crossing, Curve, Level, Panel, round_values
from diffuapriel.charts.palette import ARCHITECTURES, COLORS, SERIES, blend, series_styles
from diffuapriel.config import ARCHITECTURES as NAMES

MATH = r"$\frac{1}{$ <b>"


def panel(**changes) -> Panel:
    curves = [
        Curve(MATH, (256, 1024), (2.0, 8.0), SERIES[0], low=(1.0, 7.0), high=(4.0, 8.5)),
        Curve("bound", (256, 1024), (3.0, 4.0), SERIES[1], dash="dot", markers=False),
    ]
    levels = [Level(16.0, "a level", SERIES[1].color, above=False, left=False)]
    return Panel("ms", curves, unit="x", levels=levels, crossings=[Crossing(500.0, 3.2, "here")], **changes)


def test_every_architecture_has_a_color_and_every_series_its_own_color_and_marker() -> None:
    assert list(COLORS) == list(ARCHITECTURES) == list(NAMES)
    for part in zip(*SERIES, strict=True):
        assert len(set(part)) == len(SERIES) == 11


def test_a_series_looks_like_its_architecture_and_a_second_one_of_it_does_not() -> None:
    first, second, third, other = series_styles(["diffutran", "diffutran", "diffuapriel", "unknown"])
    assert (first, third) == (ARCHITECTURES["diffutran"], ARCHITECTURES["diffuapriel"])
    assert len({first, second, third, other}) == 4
    many = series_styles(["diffuapriel"] * 20)
    assert many[0] == ARCHITECTURES["diffuapriel"] and len(many) == 20 and len(set(many)) == 11


def test_ticks_are_round() -> None:
    assert round_values([3.0, 40.0]) == [1, 2, 5, 10, 20, 50, 100, 200, 500]
    assert round_values([]) == []


def test_a_blend_runs_from_one_color_to_the_other() -> None:
    assert [blend("#000000", "#ff8000", share) for share in (0, 0.5, 1)] == ["#000000", "#804000", "#ff8000"]


def test_plotly_draws_the_panel() -> None:
    pytest.importorskip("plotly", reason="needs plotly: pip install plotly")
    from diffuapriel.charts.plotly import draw

    figure = draw(panel())
    first, second = figure.data
    assert (first.name, first.line.color, first.marker.symbol) == (MATH, SERIES[0].color, SERIES[0].symbol)
    assert (list(first.error_y.arrayminus), list(first.error_y.array)) == ([1.0, 1.0], [2.0, 0.5])
    assert (second.mode, second.line.dash) == ("lines", "dot")
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    assert list(figure.layout.xaxis.tickvals) == [256, 1024] and "10x" in figure.layout.yaxis.ticktext
    assert [(note.text, note.xanchor, note.yanchor) for note in figure.layout.annotations] == [
        ("a level", "right", "top"),
        ("here", "left", "bottom"),
    ]
    assert draw(panel(log_y=False)).layout.yaxis.rangemode == "tozero"


def test_labels_of_crossings_that_are_close_do_not_overprint() -> None:
    pytest.importorskip("plotly", reason="needs plotly: pip install plotly")
    from diffuapriel.charts.plotly import draw

    close = [Crossing(500.0, 3.2, "one"), Crossing(510.0, 3.2, "two"), Crossing(520.0, 3.2, "three")]
    heights = [note.y for note in draw(Panel("ms", panel().curves, crossings=close)).layout.annotations]
    assert len(heights) == 3 and all(b - a >= 0.05 for a, b in pairwise(heights))


def test_an_axis_of_tokens_shows_words_and_tells_equal_ones_apart() -> None:
    pytest.importorskip("plotly", reason="needs plotly: pip install plotly")
    from diffuapriel.charts.plotly import places, token_axis

    axis = token_axis(["the", "<b>&amp;", "the", " "])
    assert axis["categoryarray"] == places("abcd") == list(axis["labelalias"])
    assert list(axis["labelalias"].values()) == ["the", "&lt;b&gt;&amp;amp;", "the", "␣"]


def test_matplotlib_draws_the_same_panel_and_reads_no_name_as_a_formula() -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install matplotlib")
    from diffuapriel.charts.matplotlib import draw_panel, new_figure, to_png

    figure = new_figure(5, 3)
    axes = figure.add_subplot()
    draw_panel(axes, panel(title=MATH))
    assert to_png(figure).startswith(b"\x89PNG")
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["256", "1K"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [MATH, "bound"]
    assert [text.get_text() for text in axes.texts] == ["a level", "here"]
    draw_panel(figure.add_subplot(), Panel("ms", []))
    to_png(figure)
