"""The animated picture of a trace."""

import dataclasses
import re

import pytest

from diffuapriel.trace.gif import MAX_PICTURES, MAX_TOKENS, Picture, _layout, _texts, write_gif
from diffuapriel.trace.player import read_source
from diffuapriel.trace.trace import Trace
from tests.trace.test_trace import record

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install pillow")


def pictures(path) -> list[tuple]:
    with Image.open(path) as gif:
        found = []
        for i in range(gif.n_frames):
            gif.seek(i)
            found.append((gif.size, gif.info["duration"], gif.convert("RGB").copy()))
        return found


def test_one_picture_a_step_of_one_size_and_the_last_one_stays(tmp_path):
    trace = record("Mia found a[MASK:6].\nTom[MASK:3]", "low_confidence", steps=6)
    write_gif(trace, tmp_path / "a.gif", seconds=3.0)
    shown = pictures(tmp_path / "a.gif")
    assert len(shown) == len(trace.frames) == 7
    assert {size for size, _, _ in shown} == {shown[0][0]} and shown[0][0][0] == 900
    assert [duration for _, duration, _ in shown] == [500] * 6 + [2500]
    assert len({image.tobytes() for _, _, image in shown}) == 7  # every step looks different
    assert shown[0][2].getpixel((1, 1)) == (255, 255, 255)


def test_a_narrow_picture_is_taller(tmp_path):
    trace = record("Mia found a[MASK:6] under the table.", "random")
    write_gif(trace, tmp_path / "wide.gif", width=900)
    write_gif(trace, tmp_path / "narrow.gif", width=200)
    wide, narrow = pictures(tmp_path / "wide.gif")[0][0], pictures(tmp_path / "narrow.gif")[0][0]
    assert narrow[0] == 200 and narrow[1] > wide[1]


def test_a_long_run_is_thinned_and_keeps_its_end(tmp_path):
    trace = record(strategy="low_confidence", steps=2)
    last = trace.frames[-1]
    frames = trace.frames[:2] + tuple(dataclasses.replace(last, step=2 + i) for i in range(300))
    write_gif(dataclasses.replace(trace, frames=frames), tmp_path / "a.gif")
    shown = pictures(tmp_path / "a.gif")
    assert 2 < len(shown) <= MAX_PICTURES


def test_strange_tokens_are_drawn_too(tmp_path):
    trace = record(strategy="low_confidence")
    odd = ["\x00\x1b", "\n", "", "   ", "漢字🙂", "x" * 4096, "\u202e"]
    vocab = {i: odd[n % len(odd)] for n, i in enumerate(trace.vocab)}
    write_gif(dataclasses.replace(trace, vocab=vocab), tmp_path / "a.gif", width=300)
    assert pictures(tmp_path / "a.gif")[0][0][0] == 300


@pytest.mark.parametrize("options", [{"width": 10}, {"width": 10**6}, {"seconds": 0}, {"seconds": float("nan")}])
def test_options_out_of_range_are_refused(options, tmp_path):
    with pytest.raises(ValueError, match="permitted"):
        write_gif(record(), tmp_path / "a.gif", **options)


def test_a_canvas_that_no_picture_can_show_is_refused(tmp_path):
    trace = record()
    n = MAX_TOKENS + 1
    frame = dataclasses.replace(trace.frames[0], ids=(0,) * n, confidence=(None,) * n, entropy=(None,) * n)
    with pytest.raises(ValueError, match="permitted: up to 2,048"):
        write_gif(Trace((frame,), (True,) * n, trace.mask_id, trace.eos_id, {0: "!"}, {}), tmp_path / "a.gif")


def placed(text: str, width: int = 900) -> list[tuple[str, int, int]]:
    """(text, left, top) of every token of a text in the picture."""
    trace = record(text + "[MASK:2]", "low_confidence")
    shown = [Picture(frame, tuple(_texts(frame, trace))) for frame in trace.frames]
    boxes = _layout(trace, shown, width)
    return [(drawn or "", box[0], box[1]) for drawn, box in zip(shown[0].texts, boxes)][:-2]


@pytest.mark.parametrize("width", [200, 260, 340, 500])
def test_no_line_begins_with_punctuation_or_inside_a_word(width):
    tokens = placed('Mia found a bell. "Is it yours?" she asked. Tom said: "Yes, mine." ' * 4, width)
    tops = [top for _, _, top in tokens]
    firsts = [text for (text, _, top), before in zip(tokens[1:], tops) if top != before]
    assert firsts and all(text.startswith(" ") for text in firsts)


def test_hebrew_is_drawn_from_right_to_left_also_within_a_line_of_english():
    tokens = [(text.strip(), left) for text, left, _ in placed("Mia שלום end") if text.strip()]
    by_text = dict(tokens)
    assert by_text["ש"] > by_text["ל"] > by_text["ו"] > by_text["ם"] > by_text["M" if "M" in by_text else "Mia"]
    assert by_text["end"] > by_text["ש"]


def test_a_character_of_several_tokens_is_drawn_once():
    assert [text for text, *_ in placed("für")] == ["f", "ü", "", "r"]


def test_the_picture_has_the_words_it_is_given(tmp_path):
    trace = record("Mia found a[MASK:6].", "low_confidence")
    write_gif(trace, tmp_path / "en.gif")
    write_gif(trace, tmp_path / "de.gif", words={"step": "Schritt {step} von {total}"})
    assert (tmp_path / "en.gif").read_bytes() != (tmp_path / "de.gif").read_bytes()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_colors_are_the_players_own(tmp_path, dark):
    css = dict(re.findall(r"--da-([\w-]+): light-dark\((#\w{6}, #\w{6})\)", read_source("player.css")))
    own = {name: pair.split(", ")[dark] for name, pair in css.items()}
    scale = [own[f"v{level}"] for level in range(8)]
    trace = record("Mia found a[MASK:8].", "low_confidence", steps=8)
    sure = tuple((level + 0.5) / 8 for level in range(8))
    known = [[c and sure[p % 8] for p, c in enumerate(frame.confidence)] for frame in trace.frames]
    frames = [dataclasses.replace(frame, confidence=tuple(row)) for frame, row in zip(trace.frames, known)]
    write_gif(dataclasses.replace(trace, frames=tuple(frames)), tmp_path / "a.gif", dark=dark)
    shown = [image for _, _, image in pictures(tmp_path / "a.gif")]
    found = {f"#{bytes(color).hex()}" for image in (shown[0], shown[-1]) for _, color in image.getcolors(1 << 24)}
    assert {own[name] for name in ("paper", "ink", "quiet", "mask", "accent")} | set(scale) <= found
    assert f"#{bytes(shown[0].getpixel((1, 1))).hex()}" == own["paper"]
