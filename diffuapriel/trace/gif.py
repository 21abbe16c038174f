"""A trace as an animated GIF: the canvas of tokens in the player's colors, one picture per step.

Tokens never move: the box of a position is as wide as the widest text that fills it, a word is never broken over two
lines, and a character of several tokens is drawn once (characters.py). The model is named above the canvas, the step
and the source below it. Needs Pillow.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffuapriel.trace.characters import spread

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffuapriel.sampling.frames import StepFrame
    from diffuapriel.trace.trace import Trace

MAX_TOKENS = 2048  # larger pictures are unreadable
MAX_PICTURES = 120  # a longer run skips steps
MARGIN, LINE, GAP, PADDING = 24, 36, 6, 2  # pixels: border, line height, space before a word, inside a box
HEAD, FOOT = 44, 40
TEXT_SIZE, SMALL = 20, 14
LEAST, PART = 12, 5  # widths of a mask and of a token that only continues a character


@dataclass(frozen=True)
class Colors:
    """Those of player.css; `scale` is by confidence."""

    paper: str
    ink: str
    faint: str
    mask: str
    accent: str
    scale: tuple[str, ...]


LIGHT = Colors(
    *("#ffffff", "#1f2328", "#5c6470", "#e6e9ee", "#0b6e8a"),
    ("#bfa9c5", "#bfb8d2", "#b7c5d6", "#b0d0d6", "#abdcd2", "#bae7c7", "#daf1b1", "#fef5a8"),
)
DARK = Colors(
    *("#16191f", "#e9ebef", "#a2abb8", "#2b313c", "#5cc8e4"),
    ("#2d0d3a", "#2d254d", "#253852", "#1d4650", "#1a524b", "#2b5c3e", "#4a6229", "#696321"),
)
WORDS = {
    "step": "step {step} of {total}",
    "masks": "{n} masks left",
    "masksOne": "1 mask left",
    "source": "written by a diffusion language model, DiffuApriel",
}
# The first one that has a character draws it; DejaVu, Pillow's own font and those of common systems.
FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoEmoji-Regular.ttf",
    "wqy-microhei.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "seguiemj.ttf",
)

Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Picture:
    """What a frame draws: a text per position, None for a mask."""

    frame: StepFrame
    texts: tuple[str | None, ...]


def write_gif(
    trace: Trace,
    path: str | Path,
    *,
    width: int = 900,
    seconds: float = 6.0,
    words: Mapping[str, str] | None = None,
    dark: bool = False,
) -> None:
    """Write the trace to `path`.

    Args: width of the picture in pixels, 200 to 4,000; duration of the run in seconds, 0.5 to 600 (the last picture
    is shown for two more); words: translations of WORDS; dark: the player's dark colors. Raises ValueError outside
    these and for more than 2,048 tokens, ImportError without Pillow.
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
    said, colors = WORDS | dict(words or {}), DARK if dark else LIGHT
    shown = [Picture(frame, tuple(_texts(frame, trace))) for frame in _some_frames(trace)]
    boxes = _layout(trace, shown, width)
    height = max(box[3] for box in boxes) + FOOT + MARGIN
    pictures: list[Image] = []
    for one in shown:
        picture = PIL.Image.new("RGB", (width, height), colors.paper)
        _draw(picture, trace, one, boxes, said, colors)
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


def _texts(frame: StepFrame, trace: Trace) -> Iterator[str | None]:
    """The text of each position; of the ends of text, those that begin a row in the end are "end", others a dot."""
    special = (trace.mask_id, trace.eos_id)
    drawn = spread([None if i in special else trace.vocab[i] for i in frame.ids])
    for position, (i, text) in enumerate(zip(frame.ids, drawn)):
        if i == trace.eos_id:
            first = trace.final[position] == trace.eos_id and trace.final[position - 1 : position] != (trace.eos_id,)
            yield "‹end›" if first else "·"
        else:
            yield None if i == trace.mask_id else text


def _layout(trace: Trace, shown: list[Picture], width: int) -> list[Box]:
    """A box per position, flowing in lines that begin with a word."""
    last = shown[-1].texts
    wide = [max(_width(one.texts[p]) for one in shown) for p in range(len(last))]
    lines: list[list[int]] = [[]]
    used = 0
    for word in _words(trace, last):
        if lines[-1] and used + _row_width(trace, word, wide) > width - 2 * MARGIN:
            lines.append([])
            used = 0
        for position in word:
            step = _gap(trace, position) + wide[position]
            if lines[-1] and used + step > width - 2 * MARGIN:  # a word wider than a line
                lines.append([])
                used = 0
            lines[-1].append(position)
            used += step
            if (last[position] or "").endswith("\n"):
                lines.append([])
                used = 0
    boxes: list[Box] = [(0, 0, 0, 0)] * len(last)
    base = ""  # direction of the paragraph
    for number, line in enumerate(lines):
        top = MARGIN + HEAD + number * LINE
        directions = [_direction(last[position]) for position in line]
        base = base or next((one for one in directions if one), "")
        order, rightwards = _visual_order(directions, base or "L"), base != "R"
        if line and (last[line[-1]] or "").endswith("\n"):
            base = ""
        left = MARGIN if rightwards else width - MARGIN - min(_row_width(trace, line, wide), width - 2 * MARGIN)
        for place, index in enumerate(order):
            position = line[index]
            left += _gap(trace, position) if place else 0
            boxes[position] = (left, top, min(left + wide[position], width - MARGIN), top + LINE - 8)
            left += wide[position]
    return boxes


def _words(trace: Trace, texts: tuple[str | None, ...]) -> Iterator[list[int]]:
    """Positions that stay on one line: what follows a word without a space belongs to it."""
    word: list[int] = []
    for position in range(len(texts)):
        before = (texts[position - 1] or "") if position else ""
        if word and (_gap(trace, position) > 1 or before.endswith("\n")):
            yield word
            word = []
        word.append(position)
    yield word


def _gap(trace: Trace, position: int) -> int:
    """Pixels before a position: a space, as the final text has it."""
    i = trace.final[position]
    return GAP if i in (trace.mask_id, trace.eos_id) or trace.vocab[i].startswith((" ", "\n")) else 0


def _row_width(trace: Trace, positions: list[int], wide: list[int]) -> int:
    return sum(wide[position] + _gap(trace, position) for position in positions)


def _visual_order(directions: list[str], base: str) -> list[int]:
    """Indices from left to right: in a paragraph of direction `base`, what runs against it is turned around."""
    strong, resolved = base, []
    for index, one in enumerate(directions):
        following = next((later for later in directions[index:] if later), base)
        strong = one or (strong if strong == following else base)
        resolved.append(strong)
    order: list[int] = []
    run: list[int] = []
    for index, one in enumerate([*resolved, ""]):
        if run and (index == len(resolved) or one != resolved[run[0]]):
            order += run if resolved[run[0]] == base else run[::-1]
            run = []
        run.append(index)
    return order if base == "L" else order[::-1]


def _direction(text: str | None) -> str:
    """L or R for the first character of a text that has a direction, else ""."""
    kinds = (unicodedata.bidirectional(character) for character in text or "")
    return next(("L" if kind == "L" else "R" for kind in kinds if kind in ("L", "R", "AL")), "")


def _draw(
    picture: Image, trace: Trace, one: Picture, boxes: list[Box], words: Mapping[str, str], colors: Colors
) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    frame = one.frame
    just_now = set(frame.revealed)
    for position, (text, box) in enumerate(zip(one.texts, boxes)):
        if text is None:
            draw.rounded_rectangle((box[0], box[1], box[2] - 1, box[3]), radius=4, fill=colors.mask)
            continue
        confidence = frame.confidence[position]
        if confidence is not None:
            outline = colors.accent if position in just_now else None
            level = min(len(colors.scale) - 1, int(confidence * len(colors.scale)))
            draw.rounded_rectangle(box, radius=4, fill=colors.scale[level], outline=outline)
        left = box[0] + PADDING
        for name, piece in _pieces(_line(text)):
            font = _font(name, TEXT_SIZE)
            ink = colors.faint if frame.ids[position] == trace.eos_id else colors.ink
            draw.text((left, box[3] - 8), piece, fill=ink, font=font, anchor="ls")
            left += font.getlength(piece)
    small, steps = _font(FONTS[0], SMALL), trace.frames[-1].step
    title = str(trace.meta.get("model") or "DiffuApriel")
    draw.text((MARGIN, MARGIN + 18), title[:60], fill=colors.ink, font=_font(FONTS[0], TEXT_SIZE), anchor="ls")
    masks = frame.ids.count(trace.mask_id)
    step = words["step"].format(step=frame.step, total=steps)
    line = f"{step}   {words['masksOne' if masks == 1 else 'masks'].format(n=masks)}"
    bottom = picture.height - 18
    draw.text((MARGIN, bottom), line, fill=colors.faint, font=small, anchor="ls")
    if picture.width >= 3 * small.getlength(words["source"]) / 2:
        draw.text((picture.width - MARGIN, bottom), words["source"], fill=colors.faint, font=small, anchor="rs")
    done = 1 - masks / max(1, trace.frames[0].ids.count(trace.mask_id))
    draw.rectangle((0, picture.height - 4, round(picture.width * done), picture.height), fill=colors.accent)


def _line(text: str) -> str:
    """A token as one short line: its leading space is the gap before the box, a line break is drawn as a symbol."""
    return "".join(
        "↵" if c == "\n" else c if c.isprintable() or c == "\u200d" else "·" for c in text.removeprefix(" ")
    )[:40]


def _width(text: str | None) -> int:
    if text is None:
        return LEAST
    if not text:
        return PART
    return round(sum(_font(name, TEXT_SIZE).getlength(piece) for name, piece in _pieces(_line(text)))) + 2 * PADDING


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """(font, piece): a text cut where another font has to draw it."""
    name, piece = FONTS[0], ""
    for character in text:
        other = name if unicodedata.combining(character) or character == "\u200d" else _font_for(character)
        if other != name and piece:
            yield name, piece
            piece = ""
        name, piece = other, piece + character
    if piece:
        yield name, piece


@lru_cache(maxsize=4096)
def _font_for(character: str) -> str:
    """The first font that has a character; the first of all where none has."""
    for name in FONTS:
        font = _font(name, TEXT_SIZE)
        if font is not None and bytes(font.getmask(character)) != bytes(font.getmask("\U0010ffff")):
            return name
    return FONTS[0]


@lru_cache(maxsize=64)
def _font(name: str, size: int) -> Any:
    """A font of the system; for the first name Pillow's own where it is missing, for others None."""
    from PIL import ImageFont

    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return ImageFont.load_default(size) if name == FONTS[0] else None
