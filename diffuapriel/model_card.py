"""The model card of a checkpoint: architecture, training, measurements and limits.

Hugging Face's format: YAML front matter, then Markdown. The caller supplies every figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffuapriel.config import ModelConfig

KINDS = {
    "diffuapriel": "bidirectional Mamba-2 in every block",
    "diffuapriel-h": "bidirectional Mamba-2 with interleaved attention blocks",
    "diffutran": "a bidirectional Transformer, the baseline",
}
LIMITS = (
    "Made for teaching and for comparing architectures: it only writes text like that of its corpus.",
    "The NELBO is an upper bound on the negative log-likelihood, estimated by Monte Carlo.",
)


def write_card(
    *,
    name: str,
    config: ModelConfig,
    parameters: int,
    recipe: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None = None,
    samples: Mapping[str, Any] | None = None,
    ancestral: Mapping[str, Any] | None = None,
    parts: Mapping[str, Mapping[str, Any]] | None = None,
    blocks: Sequence[Mapping[str, Any]] = (),
    command: str | None = None,
    limits: Sequence[str] = (),
    sources: Sequence[Mapping[str, Any]] = (),
    picture: str | None = None,
) -> str:
    """The text of README.md.

    Args:
        recipe: how the model was trained (corpus, tokens, steps, ...).
        evaluation: `NelboEstimate.to_dict()`.
        samples, ancestral: `TalesReport.to_dict()` of stories sampled with the app's defaults, and with `ancestral`.
        parts: of a mixed corpus, by name: `share`, `tokens` and `epochs` as read, and `evaluation` of the part.
        blocks: of a model of blocks, for each block length (0 for the whole window): `block_length`, `evaluation` and
            `samples`, a `TalesReport.to_dict()` for each strategy.
        command: reproduces this checkpoint.
        limits: added to the two that hold for every model.
        sources: of the text: `name`, `about`, `license`, and `authors` where the license asks for them.
        picture: file name of the loss curve beside the card.
    """
    shape = {"d_model": config.d_model, "depth": config.depth, "tokenizer": config.tokenizer}
    if config.block_lengths:
        shape["block_lengths"] = ", ".join(str(length or "the whole window") for length in config.block_lengths)
    facts = {"architecture": config.architecture, "parameters": parameters, **shape, **recipe}
    sections = [
        _FRONT.format(corpus=str(recipe.get("corpus", "unknown")).split(":")[0]),
        f"# {name}\n\nA masked diffusion language model: {KINDS[config.architecture]}.",
        "## Recipe\n\n" + _table(facts),
    ]
    if command:
        sections.append(f"Made by\n\n    {command}")
    if picture:
        sections.append(f"![Loss against tokens]({picture})")
    if evaluation:
        sections.append("## Evaluation on validation text\n\n" + _table(evaluation))
    if parts:
        sections.append("## Parts of the corpus\n\n" + _parts_table(parts))
    if blocks:
        sections.append("## By block length\n\n" + _blocks_table(blocks))
    if samples:
        sections.append("## Samples\n\n" + _table(samples))
        for key, value in samples.items():
            if _is_list_of_texts(value) and value:
                sections.append(f"{key.capitalize()}:\n\n{_bullets(value)}")
    if ancestral:
        sections.append("## Samples from the model's own distribution\n\n" + _table(ancestral))
    sections.append("## Limits\n\n" + _bullets((*LIMITS, *limits)))
    if sources:
        sections.append("## Sources of the text\n\n" + _bullets([_source(source) for source in sources]))
    sections.append(
        "## License\n\nMIT, like the rest of the project" + ("; the text is not part of it." if sources else ".")
    )
    return "\n\n".join(sections) + "\n"


_FRONT = """---
license: mit
language: en
library_name: diffuapriel
tags:
- masked-diffusion
- mamba
- {corpus}
---"""


def _source(source: Mapping[str, Any]) -> str:
    authors = "; ".join(source.get("authors", ()))
    return f"**{source['name']}**: {source['about']}. {source['license']}." + (
        f" Authors: {authors}." if authors else ""
    )


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value)


def _table(rows: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in rows.items() if value is not None and not _is_list_of_texts(value)}
    shown = {key.replace("_", " "): _format(value) for key, value in kept.items()}
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in shown.items())])


def _parts_table(parts: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| part | share | tokens read | times read | NELBO, nats/token | bits/byte |", "|---|---|---|---|---|---|"]
    for name, part in parts.items():
        read = [_format(part.get(key)) if part.get(key) is not None else "" for key in ("share", "tokens", "epochs")]
        scores = [
            f"{_format(part['evaluation'][key])} ({_format(part['evaluation'][interval])})"
            for key, interval in (("nats_per_token", "ci95"), ("bits_per_byte", "bits_per_byte_ci95"))
        ]
        lines.append("| " + " | ".join([_format(name), *read, *scores]) + " |")
    return "\n".join(lines)


def _blocks_table(blocks: Sequence[Mapping[str, Any]]) -> str:
    """Rows of block lengths: the bound, and of each strategy the share of grammatical and of consistent stories and the
    tokens that a pass writes, blank where it was not sampled."""
    strategies = list(dict.fromkeys(strategy for block in blocks for strategy in block["samples"]))
    titles = ["block length", "NELBO, nats/token", "excess NELBO, nats/story"]
    titles += [f"{strategy}: grammatical, consistent, tokens/pass" for strategy in strategies]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for block in blocks:
        bound, excess = block["evaluation"], ""
        if bound.get("excess_per_story") is not None:
            excess = f"{bound['excess_per_story']:.2f} ({_format(bound['excess_per_story_ci95'])})"
        figures = [str(block["block_length"] or "whole window"), _format(bound["nats_per_token"]), excess]
        for strategy in strategies:
            found = block["samples"].get(strategy)
            rates = [f"{100 * found[rate]:.1f} %" for rate in ("grammatical", "consistent")] if found else []
            figures.append(", ".join([*rates, _format(found["tokens_per_pass"])]) if found else "")
        lines.append("| " + " | ".join(figures) + " |")
    return "\n".join(lines)


def _format(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return (" to " if len(value) == 2 else ", ").join(map(_format, value))
    return str(value).replace("|", "\\|")
