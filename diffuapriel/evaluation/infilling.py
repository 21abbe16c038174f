"""Infilling: hide a few tokens within a line of validation code in Python, let the model fill them in, compare.

    exact token   share of the hidden tokens that are restored exactly
    exact span    share of the spans that are restored exactly
    parses        share of the spans after which the enclosing function or class is still valid Python; another name or
                  another way to write the same is no failure here

A span lies in a line of code (not in a docstring or comment) of a function or class that parses on its own and fits
into a sequence, with as much of its module around it as there is room for. Module, function, line and position in the
line are drawn uniformly in this order, so that long modules do not dominate. The intervals are Wilson's; that of the
tokens treats each span as one observation, as if its tokens were all alike, so it is conservative.
"""

from __future__ import annotations

import ast
import dataclasses
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, islice
from typing import Any

import torch

from diffuapriel.data.base import random_stream
from diffuapriel.device import device_of
from diffuapriel.diffusion.schedule import get_schedule
from diffuapriel.evaluation.interval import Interval, wilson_interval
from diffuapriel.options import check_least
from diffuapriel.sampling.canvas import Canvas
from diffuapriel.sampling.config import SamplerConfig, describe_sampling
from diffuapriel.sampling.generate import generate
from diffuapriel.sampling.sampler import DenoiserFunction, Sampler
from diffuapriel.tokenizer import Tokenizer

EXAMPLES = 5
TRIES = 200  # per span, before a corpus is refused for too little code
BYTES_PER_TOKEN = 8  # more than code has, so this much text around a function is sure to fill a sequence


@dataclass(frozen=True)
class Hole:
    """A sequence from a module and the span to hide in it.

    ids: all tokens, including the hidden ones. start, stop: of the span. before, after: bytes of the sequence before
    and after the enclosing function or class.
    """

    ids: tuple[int, ...]
    start: int
    stop: int
    before: int
    after: int


@dataclass(frozen=True)
class InfillingReport:
    """Rates over `spans` spans of `span` tokens, with 95 % intervals."""

    spans: int
    span: int
    exact_token: float
    exact_token_ci95: Interval
    exact_span: float
    exact_span_ci95: Interval
    parses: float
    parses_ci95: Interval
    strategy: str
    steps: int
    temperature: float
    top_p: float | None
    length: int
    examples: tuple[str, ...]  # "hidden -> written", of the first spans that differ

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and the model card."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """Lines for a terminal."""
        rows = [
            ("exact token", self.exact_token, self.exact_token_ci95),
            ("exact span", self.exact_span, self.exact_span_ci95),
            ("parses", self.parses, self.parses_ci95),
        ]
        lines = [f"{name:<12} {100 * p:.1f} %   [{100 * a:.1f}, {100 * b:.1f}]" for name, p, (a, b) in rows]
        how = describe_sampling(self.strategy, self.steps, self.temperature, self.top_p)
        over = f"{self.spans} spans of {self.span} tokens in sequences of {self.length}, {how}"
        return "\n".join([*lines, f"{'over':<12} {over}"])


def evaluate_infilling(
    denoiser: DenoiserFunction,
    tokenizer: Tokenizer,
    modules: Sequence[str],
    *,
    spans: int = 200,
    span: int = 4,
    length: int = 256,
    sampler: SamplerConfig | None = None,
    batch_size: int = 16,
    seed: int = 0,
    schedule: str = "log-linear",
    on_batch: Callable[[int], None] | None = None,
) -> InfillingReport:
    """Hide `spans` spans of `span` tokens in sequences of at most `length` tokens of `modules` (sources), and fill.

    sampler: by default the most confident token first, one per step, at temperature 0. on_batch is called with the
    number of spans done. The same seed hides the same spans from every model with this tokenizer. Raises as
    `draw_holes` does.
    """
    check_least(batch_size=batch_size)
    holes = draw_holes(modules, tokenizer, spans=spans, span=span, length=length, seed=seed)
    config = sampler or SamplerConfig(strategy="low_confidence", steps=span, temperature=0.0, seed=seed)
    engine = Sampler(config, get_schedule(schedule), tokenizer.mask_id)
    device = device_of(denoiser)
    holes.sort(key=lambda hole: len(hole.ids))  # texts in one batch have the same length
    right, whole, parsed, examples, done = 0, 0, 0, [], 0
    for batch in _batches(holes, batch_size):
        canvases = [_canvas(hole, tokenizer.mask_id).to(device) for hole in batch]
        for hole, ids in zip(batch, generate(engine, denoiser, canvases, first_row=done).tolist()):
            hidden, written = hole.ids[hole.start : hole.stop], tuple(ids[hole.start : hole.stop])
            right += sum(a == b for a, b in zip(hidden, written))
            whole += hidden == written
            parsed += parses(_block(ids, hole, tokenizer))
            if hidden != written and len(examples) < EXAMPLES:
                examples.append(f"{tokenizer.decode(hidden)!r} -> {tokenizer.decode(written)!r}")
        done += len(batch)
        if on_batch:
            on_batch(done)
    return InfillingReport(
        spans=spans,
        span=span,
        exact_token=right / (spans * span),
        exact_token_ci95=wilson_interval(right / span, spans),
        exact_span=whole / spans,
        exact_span_ci95=wilson_interval(whole, spans),
        parses=parsed / spans,
        parses_ci95=wilson_interval(parsed, spans),
        strategy=config.strategy,
        steps=config.max_calls(span),
        temperature=config.temperature,
        top_p=config.top_p,
        length=length,
        examples=tuple(examples),
    )


def draw_holes(
    modules: Sequence[str], tokenizer: Tokenizer, *, spans: int, span: int, length: int, seed: int = 0
) -> list[Hole]:
    """Different spans to hide, drawn as the module docstring says.

    Raises ValueError for a count below 1, a span longer than the sequence, and modules with too little code.
    """
    check_least(spans=spans, span=span)
    check_least(span + 1, length=length)
    rng = random_stream(seed, "infilling", spans, span, length)
    blocks: dict[int, list[tuple[int, int]]] = {}
    found: dict[tuple[int, Hole], None] = {}
    for _ in range(TRIES * spans):
        if not modules or len(found) == spans:
            break
        number = rng.randrange(len(modules))
        if number not in blocks:
            blocks[number] = list(find_blocks(modules[number]))
        if blocks[number]:
            hole = _hole(modules[number], rng.choice(blocks[number]), tokenizer, span, length, rng)
            if hole is not None:
                found[number, hole] = None
    if len(found) < spans:
        raise ValueError(
            f"{len(modules)} modules hold only {len(found)} of {spans} spans of {span} tokens, in functions of at most "
            f"{length} tokens; use fewer spans or longer sequences"
        )
    return [hole for _, hole in found]


def find_blocks(source: str) -> Iterator[tuple[int, int]]:
    """First and last line (from 0, both included) of every function and class, with its decorators."""
    tree = _parse(source)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield first - 1, (node.end_lineno or node.lineno) - 1


def parses(block: bytes) -> bool:
    """Whether a function or class, indented or not, is valid Python."""
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return _parse_block(text) is not None


def _parse_block(text: str) -> ast.Module | None:
    """The syntax tree of a block, within `if 1:` if it is indented; None if it is not valid Python."""
    return _parse("if 1:\n" + text if text[:1] in (" ", "\t") else text)


def _parse(source: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes and comparisons are still Python
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _hole(
    source: str, block: tuple[int, int], tokenizer: Tokenizer, span: int, length: int, rng: random.Random
) -> Hole | None:
    """A span in a random line of a block; None if the block does not fit or has no such line."""
    lines = source.split("\n")
    first, last = block
    text = "\n".join(lines[first : last + 1])
    head, tail = "\n".join([*lines[:first], ""]), "\n".join(["", *lines[last + 1 :]])
    most = BYTES_PER_TOKEN * length
    if len(text) > most or not parses(text.encode()):
        return None
    head, tail = head[-most:], tail[:most]
    ids = tokenizer.encode(head + text + tail)
    ends = list(accumulate(len(tokenizer.token_bytes(id)) for id in ids))  # byte after each token
    begin, end = len(head.encode()), len((head + text).encode())
    low = next(i for i, stop in enumerate(ends) if stop > begin)  # the tokens that the block touches
    high = next(i for i, stop in enumerate(ends) if stop >= end) + 1
    if high - low > length:
        return None
    start = max(0, min(low - (length - (high - low)) // 2, len(ids) - length))
    window = ids[start : start + length]
    offset = ends[start - 1] if start else 0
    places = _places(text, begin, [0, *ends], span)
    places = [[at for at in line if start <= at and at + span <= start + len(window)] for line in places]
    places = [line for line in places if line]
    if not places:
        return None
    at = rng.choice(rng.choice(places)) - start
    total = ends[start + len(window) - 1] - offset
    return Hole(tuple(window), at, at + span, begin - offset, total - (end - offset))


def _places(text: str, begin: int, edges: list[int], span: int) -> list[list[int]]:
    """For each line of code of a block that begins at byte `begin`: the tokens at which a span in the line can start.

    edges: first byte of each token, and the end of the last. Indentation and line feeds are excluded.
    """
    skipped = _docstring_lines(text)
    found, byte = [], begin
    for number, line in enumerate(text.split("\n")):
        code = line.lstrip()
        indent = len(line) - len(code)
        left = byte + max(0, indent - 1)  # a token may include one leading space
        right = byte + len(line.encode())
        byte = right + 1
        if code and code[0] != "#" and number not in skipped:
            starts = range(len(edges) - span)
            found.append([i for i in starts if left <= edges[i] and edges[i + span] <= right])
    return found


def _docstring_lines(text: str) -> set[int]:
    """Lines of a block (from 0) that belong to a string used as a statement."""
    tree, indented = _parse_block(text), text[:1] in (" ", "\t")
    lines: set[int] = set()
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.JoinedStr):
            lines.update(range(node.lineno - 1 - indented, (node.end_lineno or node.lineno) - indented))
    return lines


def _canvas(hole: Hole, mask_id: int) -> Canvas:
    ids = torch.tensor(hole.ids)
    ids[hole.start : hole.stop] = mask_id
    return Canvas(ids, ids != mask_id, mask_id)


def _block(ids: Sequence[int], hole: Hole, tokenizer: Tokenizer) -> bytes:
    """The function or class around the hole, from the filled sequence."""
    window = b"".join(map(tokenizer.token_bytes, ids))
    return window[hole.before : len(window) - hole.after]


def _batches(holes: list[Hole], size: int) -> Iterator[list[Hole]]:
    """Up to `size` holes of the same length, in order."""
    for _, same in groupby(holes, key=lambda hole: len(hole.ids)):
        while batch := list(islice(same, size)):
            yield batch
