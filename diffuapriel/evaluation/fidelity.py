"""Whether sampled tales have the grammar's distribution: chi-square tests of plots and of names.

A model can be fast and grammatical by telling one story. The grammar knows the exact probability of each plot, the
first choice of a story, and of each name of its hero, the first person to be named. Pearson's statistic over the
grammatical stories,

    chi2 = sum over the values v of  (n_v - N p_v)^2 / (N p_v),

has as many degrees of freedom as there are values, less one, if the stories are from the grammar; p is the probability
of a larger one. Top-p and temperatures below 1 change the distribution, so compare with a teacher that samples alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from diffuapriel.tales import language
from diffuapriel.tales.grammar import parser
from diffuapriel.tales.grammar.grammar import Branch, Slot

LEAST_EXPECTED = 5.0  # of each value, for the statistic to have its distribution
PERSON = "person"  # the kind of the slots that hold names


@dataclass(frozen=True)
class ChiSquare:
    """Pearson's statistic, its degrees of freedom, and the probability of a larger one."""

    statistic: float
    degrees: int
    p: float

    def __str__(self) -> str:
        return f"chi2 {self.statistic:.1f} of {self.degrees} degrees of freedom, p = {self.p:.2g}"


def chi_square(counts: Mapping[object, int], probabilities: Mapping[object, float]) -> ChiSquare | None:
    """The test of counts against exact probabilities; None where fewer than LEAST_EXPECTED of a value are expected.

    Raises ValueError for a count of a value that has no probability.
    """
    if strange := set(counts) - set(probabilities):
        raise ValueError(f"counts of {sorted(map(str, strange))[:3]}, which have no probability")
    total = sum(counts.values())
    if total * min(probabilities.values()) < LEAST_EXPECTED:
        return None
    statistic = sum((counts.get(value, 0) - total * p) ** 2 / (total * p) for value, p in probabilities.items())
    degrees = len(probabilities) - 1
    p = torch.special.gammaincc(torch.tensor(degrees / 2).double(), torch.tensor(statistic / 2).double())
    return ChiSquare(statistic, degrees, float(p))


def plots_and_names(texts: Sequence[str], level: int) -> tuple[ChiSquare | None, ChiSquare | None]:
    """The tests of the plots and of the heroes' names of stories; those that are not grammatical do not count."""
    grammar = language.grammar(level)
    assert isinstance(grammar.start, Branch), "a story begins with the choice of its plot"
    plots: Counter[object] = Counter()
    names: Counter[object] = Counter()
    for text in texts:
        walk = parser.read(grammar, text)
        if isinstance(walk, parser.Failure):
            continue
        plots[next(step.option for step in walk if step.node is grammar.start)] += 1
        hero = next((step for step in walk if isinstance(step.node, Slot) and step.node.kind == PERSON), None)
        if hero is not None:
            names[hero.surface.strip()] += 1
    people = [name.strip() for name in grammar.lexicon.kinds[PERSON].forms[""].values()]
    return (
        chi_square(plots, dict(enumerate(grammar.start.probabilities))),
        chi_square(names, dict.fromkeys(people, 1 / len(people))),  # a first person may be any, equally likely
    )
