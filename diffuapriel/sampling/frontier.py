"""Quality against tokens per pass: what `diffuapriel tune` measures, and what a checkpoint records of it.

A point is a strategy with its value and block length, what it writes per pass, and its figures of quality. The first
point is the reference, one token per pass. A figure is lost where it is worse than the reference's by more than
`tolerance`, as a share of the latter. Imports no PyTorch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from diffuapriel.options import shown
from diffuapriel.sampling.config import ALL_STRATEGIES, SPECULATIVE, SamplerConfig, resolve_blocks

Interval = tuple[float, float]
MOST_POINTS = 1000  # of a file


@dataclass(frozen=True)
class Measure:
    """A figure of quality and its interval, where it has one."""

    name: str
    value: float
    ci95: Interval | None = None
    higher_is_better: bool = True

    def is_worse(self, reference: Measure, tolerance: float) -> bool:
        """Whether this figure is worse than the reference by more than a share `tolerance` of it."""
        loss = reference.value - self.value if self.higher_is_better else self.value - reference.value
        return loss > tolerance * abs(reference.value)


@dataclass(frozen=True)
class TunePoint:
    """What one way of sampling costs and gives. `value` belongs to the rule; None for the reference."""

    strategy: str
    value: float | None
    block_length: int | None
    tokens_per_pass: float
    tokens_per_pass_ci95: Interval
    quality: tuple[Measure, ...]  # the first is drawn
    loses: bool = False

    @property
    def generation(self) -> dict[str, Any]:
        """The options that a checkpoint records: a rule, its value, and the block length (0: the whole canvas)."""
        value = {} if self.value is None else {self.strategy: self.value}
        return {"strategy": self.strategy, **value, "block_length": self.block_length or 0}

    @property
    def name(self) -> str:
        """E.g. "threshold 0.97, blocks of 32"."""
        value = "" if self.value is None else f" {self.value:g}"
        return f"{self.strategy}{value}" + (f", blocks of {self.block_length}" if self.block_length else "")

    @property
    def rank(self) -> tuple[bool, float]:
        """The order of points by quality: first whether nothing is lost, then the first figure."""
        first = self.quality[0]
        return not self.loses, first.value if first.higher_is_better else -first.value


@dataclass(frozen=True)
class Frontier:
    """The points that were measured, and how. Rates and ratios have 95 % intervals."""

    reference: TunePoint
    points: tuple[TunePoint, ...]
    samples: int  # stories, or sequences of other text
    length: int
    temperature: float
    top_p: float | None
    tolerance: float
    seed: int
    default_rule: str | None = None  # the strategy to choose from, where it is not to be the fastest of all
    stop_at_eos: bool = False  # whether texts written in blocks ended with their first <|endoftext|>

    @property
    def choice(self) -> TunePoint | None:
        """The point to write with by default: the `fastest`, of `default_rule` where that is named."""
        return self.fastest(self.default_rule)

    def fastest(self, rule: str | None = None) -> TunePoint | None:
        """The point with most tokens per pass of those that lose no quality; None where none beats the reference.

        rule: of this strategy only.
        """
        kept = [p for p in self.points if not p.loses and p.tokens_per_pass > self.reference.tokens_per_pass]
        return max((p for p in kept if rule in (None, p.strategy)), key=lambda p: p.tokens_per_pass, default=None)

    def worth_offering(self) -> Frontier:
        """The reference and, slowest first, the faster points than which no other is faster at no worse quality.

        `speculative` writes other text, that of blocks of one token, and competes with itself only. The choice is there
        in any case: with `default_rule`, a point of another rule may beat it.
        """
        found: list[TunePoint] = []
        for drafts in (False, True):
            kept: list[TunePoint] = []
            points = [point for point in self.points if (point.strategy == SPECULATIVE) == drafts]
            for point in sorted(points, key=lambda p: (p.tokens_per_pass, p.rank), reverse=True):
                faster = point.tokens_per_pass > self.reference.tokens_per_pass
                if faster and math.isfinite(point.rank[1]) and (not kept or point.rank > kept[-1].rank):
                    kept.append(point)
            found += kept
        if (choice := self.choice) and choice not in found:
            found.append(choice)
        return replace(self, points=tuple(sorted(found, key=lambda point: point.tokens_per_pass)))

    def rule(self, point: TunePoint) -> dict[str, Any]:
        """The options that a checkpoint records for a point of these: as measured, also where its texts ended."""
        return point.generation | ({"stop_at_eos": True} if self.stop_at_eos and point.block_length else {})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self) | {"choice": self.rule(self.choice) if self.choice else None}

    @classmethod
    def from_dict(cls, values: Any, known: tuple[int, ...] = ()) -> Frontier:
        """The inverse of `to_dict`. known: `ModelConfig.block_lengths` of the model that was measured.

        Raises ValueError for a value that is missing, of another type or out of range.
        """
        try:
            if not 1 <= len(values["points"]) <= MOST_POINTS:
                raise ValueError(f"there are {len(values['points'])} points")
            names = [measure["name"] for measure in values["reference"]["quality"]]
            reference, *points = (_read_point(one, names) for one in (values["reference"], *values["points"]))
            counts = {name: _number(values[name], int) for name in ("samples", "length", "seed")}
            top_p = None if values["top_p"] is None else _number(values["top_p"])
            rates = {name: _number(values[name]) for name in ("temperature", "tolerance")}
            rule = values.get("default_rule")
            if rule not in (None, *ALL_STRATEGIES):
                raise ValueError(f"default_rule is {shown(rule)}")
            stops = values.get("stop_at_eos", False) is True  # older files filled whole canvases
            frontier = cls(
                reference, tuple(points), top_p=top_p, default_rule=rule, stop_at_eos=stops, **counts, **rates
            )
            for point in (reference, *points):
                if not point.tokens_per_pass > 0 or frontier.samples < 1:
                    raise ValueError(f"{point.name}: {point.tokens_per_pass} tokens per pass of {frontier.samples}")
                frontier.sampler(point, known)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"{shown(values)} is no frontier of diffuapriel tune: {what}") from None
        return frontier

    def sampler(self, point: TunePoint, known: tuple[int, ...] = ()) -> SamplerConfig:
        """The options that a point was measured with."""
        rule = {} if point.value is None else {point.strategy: point.value}
        how = {"steps": self.length, "temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}
        blocks = resolve_blocks(point.strategy, point.block_length or 0, known=known)
        return SamplerConfig(
            point.strategy, **rule, **how, **blocks, stop_at_eos=self.stop_at_eos and blocks["block_length"] is not None
        )

    def table(self) -> str:
        """Lines for a terminal: the reference, then every point, those that lose quality marked."""
        rows = self._rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)

    def card(self) -> str:
        """The section of the model card: the points that are worth offering."""
        titles, *rows = self.worth_offering()._rows()
        lines = ["| " + " | ".join(row) + " |" for row in (titles, *rows)]
        lines.insert(1, "|---" * len(titles) + "|")
        narrowed = "" if self.top_p is None else f", top-p {self.top_p:g}"
        stops = "up to" if self.stop_at_eos else "of"
        ended = ", stopped at their first <|endoftext|>" if self.stop_at_eos else ""
        how = (
            f"{self.samples} samples {stops} {self.length} tokens per point{ended}, temperature {self.temperature:g}"
            f"{narrowed}, seed {self.seed}, tolerance {self.tolerance:g}. Found by `diffuapriel tune`."
        )
        return "\n".join(lines) + f"\n\n{how}"

    def _rows(self) -> list[tuple[str, ...]]:
        chosen = self.choice
        rows: list[tuple[str, ...]] = [("", "tokens/pass", *(measure.name for measure in self.reference.quality), "")]
        for point in (self.reference, *self.points):
            mark = "one token per pass" if point is self.reference else "chosen" if point is chosen else ""
            figures = [_figure(point.tokens_per_pass, point.tokens_per_pass_ci95)]
            figures += [_figure(measure.value, measure.ci95) for measure in point.quality]
            rows.append((point.name, *figures, "loses quality" if point.loses else mark))
        return rows


def _read_point(values: Mapping[str, Any], names: list[str]) -> TunePoint:
    strategy, value, block_length = values["strategy"], values["value"], values["block_length"]
    if strategy not in ALL_STRATEGIES or (strategy == SPECULATIVE and value is not None):
        raise ValueError(f"strategy is {shown(strategy)} with value {shown(value)}")
    quality = tuple(
        Measure(
            str(measure["name"]),
            _number(measure["value"]),
            None if measure["ci95"] is None else _interval(measure["ci95"]),
            measure["higher_is_better"] is True,
        )
        for measure in values["quality"]
    )
    if not quality or [measure.name for measure in quality] != names:
        raise ValueError(f"the figures of a point are {shown([measure.name for measure in quality])}")
    return TunePoint(
        strategy,
        None if value is None else _number(value),
        None if block_length is None else _number(block_length, int),
        _number(values["tokens_per_pass"]),
        _interval(values["tokens_per_pass_ci95"]),
        quality,
        values["loses"] is True,
    )


def _interval(values: Any) -> Interval:
    low, high = values
    return _number(low), _number(high)


def _number(value: Any, kind: type = float) -> Any:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        raise TypeError(f"{shown(value)} is no number")
    return kind(value)


def _figure(value: float, ci95: Interval | None) -> str:
    if not math.isfinite(value):
        return "unknown"
    return f"{value:.3f}" + (f" [{ci95[0]:.3f}, {ci95[1]:.3f}]" if ci95 else "")
