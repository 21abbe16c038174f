"""Each figure leaves a picture behind, for readers who cannot draw it or cannot see it."""

from __future__ import annotations

import io
import sys
from itertools import pairwise

import pytest

go = pytest.importorskip("plotly.graph_objects", reason="needs plotly: pip install plotly")
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install matplotlib")
from PIL import Image  # noqa: E402

from diffuapriel.charts.palette import COLORS  # noqa: E402
from diffuapriel.lessons import show  # noqa: E402
from diffuapriel.lessons.figure import JUPYTER, describe, error_bars, picture, redrawn, side_by_side  # noqa: E402


def curves() -> object:
    figure = go.Figure(layout={"xaxis_title": "length", "yaxis_title": "ms", "height": 300})
    figure.add_scatter(x=[10, 100, 1000], y=[1.0, 10.0, 100.0], name="one", mode="lines+markers")
    figure.add_scatter(x=[10, 1000], y=[2.0, 2.0], name="other", line_dash="dash")
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log", range=[-1, 3])
    figure.add_hline(y=5, annotation_text="floor")
    figure.add_vline(x=50)
    return figure


def bars() -> object:
    figure = go.Figure(layout={"xaxis_title": "steps"})
    figure.add_bar(x=["1", "2"], y=[3, 4], name="a")
    figure.add_bar(x=["1", "2"], y=[5, 6], name="b")
    return figure


def squares() -> object:
    return go.Figure(go.Heatmap(z=[[0, 1], [2, 3]], x=["the", "cat"], y=["sat", "down"]))


@pytest.mark.parametrize("make", [curves, bars, squares])
def test_the_picture_shows_something(make) -> None:
    image = Image.open(io.BytesIO(picture(make()))).convert("L")
    assert min(image.size) > 100
    dark = sum(image.histogram()[:200]) / (image.width * image.height)
    assert 0.005 < dark < 0.95


def test_log_axes_ranges_and_lines_are_those_of_the_figure() -> None:
    axes = redrawn(curves()).axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_ylim() == pytest.approx((0.1, 1000))
    assert [line.get_label() for line in axes.lines[:2]] == ["one", "other"]
    assert len(axes.lines) == 4 and [t.get_text() for t in axes.texts] == ["floor"]


def test_a_heatmap_keeps_its_colors_and_its_direction() -> None:
    figure = go.Figure(go.Heatmap(z=[[0, 1], [1, 0]], colorscale=[[0, "rgb(0,0,0)"], [1, "#ff0000"]]))
    figure.update_yaxes(autorange="reversed")
    axes = redrawn(figure).axes[0]
    assert axes.images[0].get_cmap()(1.0)[:3] == (1.0, 0.0, 0.0) and axes.images[0].get_cmap()(0.0)[:3] == (
        0,
        0,
        0,
    )
    assert axes.yaxis_inverted() and not axes.xaxis_inverted()


def test_a_matrix_has_its_first_row_at_the_top_and_a_percentage_its_whole_range(capsys) -> None:
    matrix = squares()
    show(matrix)
    assert matrix.layout.yaxis.autorange == "reversed"
    rates = go.Figure(layout={"yaxis_title": "% consistent"})
    rates.add_scatter(y=[40, 60])
    show(rates)
    low, high = rates.layout.yaxis.range
    assert low <= 0 and high >= 100


def test_matrices_stand_beside_each_other_with_their_names() -> None:
    made = side_by_side({"left": [[1, 2], [3, 4]], "right": [[5, 6], [7, 8]]}, ["a", "b"], ["x", "y"])
    assert [made.data[0].z[0][i] for i in (0, 1, 3, 4)] == [1, 2, 5, 6] and made.data[0].z[0][2] != made.data[0].z[0][2]
    assert list(made.layout.xaxis.tickvals) == [0, 1, 3, 4] and list(made.layout.xaxis.ticktext) == ["x", "y"] * 2
    axes = redrawn(made).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y"] * 2
    assert [text.get_text() for text in axes.texts] == ["left", "right"]


def test_long_names_of_bars_do_not_run_into_each_other() -> None:
    figure = go.Figure()
    figure.add_bar(x=[f"a compressor, {n},000 kB" for n in range(5)], y=[1, 2, 3, 4, 5])
    drawn = redrawn(figure)
    drawn.canvas.draw()
    labels = drawn.axes[0].get_xticklabels()
    assert all(label.get_rotation() > 0 for label in labels)
    assert all(label.get_rotation() == 0 for label in redrawn(bars()).axes[0].get_xticklabels())


def test_it_is_described_in_words() -> None:
    assert describe(curves()) == "ms against length: one, other"


def test_a_trace_that_the_picture_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'pie'.*use scatter, bar or heatmap"):
        picture(go.Figure(go.Pie(values=[1, 2])))


def test_no_bar_hides_another() -> None:
    figure = bars()
    for name in "cdef":
        errors = error_bars([1, 2], [(0, 2), (1, 3)]) if name == "c" else None
        figure.add_bar(x=["1", "2"], y=[1, 2], name=name, error_y=errors)
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in redrawn(figure).axes[0].patches)
    assert len(edges) == 12
    assert all(end <= start + 1e-9 for (_, end), (start, _) in pairwise(edges))


def test_in_jupyter_the_first_figure_does_not_wait_for_a_schema_library(monkeypatch) -> None:
    pytest.importorskip("nbformat", reason="needs nbformat: pip install nbformat")
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda output, **options: shown.append((output, options)))
    monkeypatch.setattr("plotly.io.renderers.default", JUPYTER)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("jsonschema", "nbformat"):
            monkeypatch.delitem(sys.modules, name)
    show(bars())
    bundle, options = shown[0]
    assert options == {"raw": True} and list(bundle) == ["application/vnd.plotly.v1+json"]
    assert [trace["y"] for trace in bundle["application/vnd.plotly.v1+json"]["data"]] == [[3, 4], [5, 6]]
    assert not {"jsonschema", "nbformat"} & set(sys.modules)


def test_show_gives_the_figure_and_a_picture_with_words(monkeypatch) -> None:
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    figure = bars()
    show(figure, 'a "b" c')
    assert shown[0] is figure and figure.layout.height == 400
    assert 'alt="a &quot;b&quot; c"' in shown[1].data and "data:image/png;base64," in shown[1].data


def test_intervals_are_drawn_from_their_lower_to_their_upper_end() -> None:
    bars = error_bars([50, 0], [(0.4, 0.61), (0.0, 0.04)], scale=100)
    assert bars["arrayminus"] == pytest.approx([10, 0]) and bars["array"] == pytest.approx([11, 4])
    figure = go.Figure().add_scatter(x=[1, 2], y=[50, 0], error_y=bars, mode="markers")
    (drawn,) = redrawn(figure).axes[0].containers
    lower, upper = drawn.lines[2][0].get_segments()[0][:, 1]
    assert (lower, upper) == pytest.approx((40, 61))


def test_an_architecture_has_its_color_and_a_log_axis_the_measured_lengths(monkeypatch) -> None:
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    figure = go.Figure()
    figure.add_scatter(x=[128, 512, 2048], y=[1, 2, 3], name="diffutran, seed 1", mode="lines+markers")
    figure.add_scatter(x=[128, 512, 2048], y=[1, 2, 3], name="mine", line_color="silver")
    figure.update_xaxes(type="log")
    show(figure)
    assert figure.data[0].line.color == COLORS["diffutran"] and figure.data[1].line.color == "silver"
    assert list(figure.layout.xaxis.ticktext) == ["128", "512", "2,048"]
    ticks = redrawn(figure).axes[0].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["128", "512", "2,048"]


def test_curves_that_end_apart_are_labeled_where_they_end(monkeypatch) -> None:
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    apart, close = go.Figure(), go.Figure()
    for figure, last in ((apart, 1000), (close, 110)):
        figure.add_scatter(x=[10, 100], y=[1, 100], name="one", mode="lines")
        figure.add_scatter(x=[10, 100], y=[1, last], name="other", mode="lines")
        figure.update_xaxes(type="log").update_yaxes(type="log")
        show(figure)
    assert [(note.text, note.x, note.y) for note in apart.layout.annotations] == [("one", 2, 2), ("other", 2, 3)]
    assert apart.layout.showlegend is False and not close.layout.annotations and close.layout.showlegend is None
    assert [text.get_text() for text in redrawn(apart).axes[0].texts] == ["one", "other"]


def test_the_text_of_a_line_lies_on_the_line_on_a_log_axis_too(monkeypatch) -> None:
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    figure = go.Figure().add_scatter(x=[1, 2], y=[10, 1000], name="one")
    figure.add_hline(y=100, annotation_text="entropy")
    figure.update_yaxes(type="log")
    show(figure)
    assert figure.layout.annotations[0].y == 2 and figure.layout.shapes[0].y0 == 100
    (text,) = redrawn(figure).axes[0].texts
    assert text.xy[1] == pytest.approx(100)
