"""A trace as an animated GIF: the canvas of tokens, colored by confidence, one picture per step.

Tokens never move: the box of a position is as wide as the widest token that fills it. Blue is confident, orange is
uncertain (distinguishable with color blindness), given text has no color, and tokens revealed at the step are
outlined. Needs Pillow.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffuapriel.sampling.frames import StepFrame
    from diffuapriel.trace.trace import Trace

MAX_TOKENS = 2048  # larger pictures are unreadable
MAX_PICTURES = 120  # a longer run skips steps
MARGIN, LINE, GAP, PADDING = 24, 34, 6, 3  # pixels: border, line height, space before a word, inside a box

PAPER, INK, FAINT, HOLE, FRAME = "#ffffff", "#1f2328", "#6e7781", "#e3e6ea", "#1f2328"
# uncertain to confident
SCALE = ((252, 214, 170), (255, 236, 196), (236, 240, 246), (205, 226, 247), (164, 205, 243))

Box = tuple[int, int, int, int]  # left, top, right, bottom


def write_gif(trace: Trace, path: str | Path, *, width: int = 900, seconds: float = 6.0) -> None:
    """Write the trace to `path`.

    Args: width of the picture in pixels, 200 to 4,000; duration of the run in seconds, 0.5 to 600 (the last picture
    is shown for two more). Raises ValueError outside these and for more than 2,048 tokens, ImportError without Pillow.
    """
    if not 200 <= width <= 4000:
        raise ValueError(f"gif: width is {width}; permitted: 200 to 4,000 pixels")
    if not 0.5 <= seconds <= 600:
        raise ValueError(f"gif: seconds is {seconds}; permitted: 0.5 to 600")
    if len(trace.fixed) > MAX_TOKENS:
        raise ValueError(f"gif: the canvas has {len(trace.fixed):,} tokens; permitted: up to {MAX_TOKENS:,}")
    try:
        import PIL.Image
    except ImportError as error:
        raise ImportError("write_gif needs Pillow: pip install pillow") from error
    frames = _some_frames(trace)
    font = _font(18)
    words = {i: _shown(text, i, trace) for i, text in trace.vocab.items()}
    boxes = _layout(trace, frames, words, font, width)
    height = boxes[-1][3] + MARGIN + LINE
    pictures: list[Image] = []
    for frame in frames:
        picture = PIL.Image.new("RGB", (width, height), PAPER)
        _draw(picture, trace, frame, boxes, words, font)
        pictures.append(picture.quantize(colors=64, dither=PIL.Image.Dither.NONE))
    pause = round(1000 * seconds / max(1, len(pictures) - 1))
    durations = [max(20, pause)] * (len(pictures) - 1) + [max(20, pause) + 2000]
    options: dict[str, Any] = {"duration": durations, "loop": 0, "optimize": True}
    pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:], **options)


def _some_frames(trace: Trace) -> list[StepFrame]:
    """All frames, or MAX_PICTURES evenly spaced ones, including the first and the last."""
    last = len(trace.frames) - 1
    if last < MAX_PICTURES:
        return list(trace.frames)
    return [trace.frames[round(i * last / (MAX_PICTURES - 1))] for i in range(MAX_PICTURES)]


def _layout(trace: Trace, frames: list[StepFrame], words: dict[int, str], font: Any, width: int) -> list[Box]:
    """A box per position, flowing in lines, wide enough for every token that is shown there."""
    boxes = []
    left, top = MARGIN, MARGIN
    for position, final in enumerate(trace.final):
        ids = {frame.ids[position] for frame in frames}
        wide = max(round(font.getlength(words[i])) for i in ids) + 2 * PADDING
        gap = GAP if trace.vocab[final].startswith(" ") else 1
        if left + gap + wide > width - MARGIN and left > MARGIN:
            left, top, gap = MARGIN, top + LINE, 0
        boxes.append((left + gap, top, min(left + gap + wide, width - MARGIN), top + LINE - 8))
        left += gap + wide
        if trace.vocab[final].endswith("\n"):
            left, top = MARGIN, top + LINE
    return boxes


def _draw(picture: Image, trace: Trace, frame: StepFrame, boxes: list[Box], words: dict[int, str], font: Any) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    just_now = set(frame.revealed)
    for position, (i, box) in enumerate(zip(frame.ids, boxes)):
        if i == trace.mask_id:
            draw.rounded_rectangle(box, radius=4, fill=HOLE)
            continue
        confidence = frame.confidence[position]
        if confidence is not None:
            outline = FRAME if position in just_now else None
            draw.rounded_rectangle(box, radius=4, fill=_color(confidence), outline=outline)
        ink = FAINT if i == trace.eos_id else INK
        draw.text((box[0] + PADDING, box[3] - 7), words[i], fill=ink, font=font, anchor="ls")
    holes = frame.ids.count(trace.mask_id)
    about = [trace.meta.get("model"), trace.meta.get("strategy"), f"step {frame.step}", f"{holes} holes left"]
    line = "   ".join(str(part) for part in about if part)
    draw.text((MARGIN, picture.height - MARGIN), line, fill=FAINT, font=_font(14), anchor="ls")
    done = 1 - holes / max(1, trace.frames[0].ids.count(trace.mask_id))
    draw.rectangle((0, picture.height - 4, round(picture.width * done), picture.height), fill=SCALE[-1])


def _color(confidence: float) -> tuple[int, int, int]:
    """Interpolated between two colors of the scale, in eight steps: few colors keep the file small."""
    value = round(confidence * 8) / 8 * (len(SCALE) - 1)
    low = min(int(value), len(SCALE) - 2)
    part = value - low
    r, g, b = (round(a + (z - a) * part) for a, z in zip(SCALE[low], SCALE[low + 1]))
    return r, g, b


def _shown(text: str, i: int, trace: Trace) -> str:
    """A token as one short line: its leading space is the gap before the box, a line break is drawn as a symbol."""
    if i == trace.mask_id:
        return "   "
    if i == trace.eos_id:
        return "‹end›"
    line = "".join("↵" if c == "\n" else c if c.isprintable() else "·" for c in text.removeprefix(" "))
    return (line or "·")[:40]


def _font(size: int) -> Any:
    """DejaVu Sans if the system has it, otherwise Pillow's own font."""
    from PIL import ImageFont

    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)
