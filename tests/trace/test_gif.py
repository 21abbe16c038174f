"""The animated picture of a trace."""

import dataclasses

import pytest

from diffuapriel.trace.gif import MAX_PICTURES, MAX_TOKENS, write_gif
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
