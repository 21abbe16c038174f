"""Sentences that stand beside a race's result: what was the same, how it was timed, what was not matched."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffuapriel.benchmark.generation import EntryResult, RaceResult

MATCHED = 0.02  # parameters within 2 % of each other count as equal


def fairness(result: RaceResult) -> list[str]:
    """One sentence per fact, in the order a reader asks for them."""
    return [
        f"Same work: {result.entries[0].tokens} masks on a canvas of {result.length} tokens, {result.steps} steps, "
        f"strategy {result.strategy}, temperature {result.temperature:g}, seed {result.seed}, one canvas at a time.",
        f"Timed one after the other, never together: {_order(result)} after {result.warmup_steps} untimed warm-up "
        f"{'step' if result.warmup_steps == 1 else 'steps'} each at this length; figures are medians of "
        f"{result.repeats} {'run' if result.repeats == 1 else 'runs'}, timed with {result.clock}.",
        matched_parameters(result.entries),
        _kernels(result.entries),
        _machine(result),
        f"Tokens are masks filled, not text encoded again. Peak memory: {result.memory_method}.",
    ]


def parameter_gap(entries: tuple[EntryResult, ...]) -> float:
    """Largest over smallest parameter count, less one."""
    counts = [entry.parameters for entry in entries]
    return max(counts) / max(1, min(counts)) - 1


def _order(result: RaceResult) -> str:
    letters = {entry.name: chr(ord("A") + i) for i, entry in enumerate(result.entries)}
    return " ".join(letters[name] for name in result.order)


def matched_parameters(entries: tuple[EntryResult, ...]) -> str:
    """Whether the parameters match, with the counts."""
    counts = " against ".join(f"{entry.parameters:,}" for entry in entries)
    gap = parameter_gap(entries)
    names = sorted({entry.tokenizer for entry in entries})
    vocabulary = f" Vocabularies differ ({' and '.join(names)})." if len(names) > 1 else ""
    if gap <= MATCHED:
        return f"Parameters matched within 2 %: {counts}.{vocabulary}"
    return (
        f"Parameters are NOT matched: {counts}, {gap:.0%} apart; the speeds compare sizes as well as "
        f"architectures.{vocabulary}"
    )


def _kernels(entries: tuple[EntryResult, ...]) -> str:
    said = [what_ran("Attention kernel", {entry.name: entry.attention for entry in entries})]
    said.append(what_ran("Scan", {entry.name: entry.scan for entry in entries}))
    forms = {entry.form for entry in entries}
    if len(forms) > 1:
        said.append(f"NOT treated alike: {'; '.join(f'{entry.name}: {entry.form}' for entry in entries)}.")
    elif entries[0].device.startswith("cuda"):
        said.append(
            f"All entries alike: {entries[0].form}; every step hands its frame to the host, for the replay."
        )
    trained = {entry.weights for entry in entries}
    said.append(
        f"Weights: {trained.pop()}."
        if len(trained) == 1
        else "Weights: trained against random; speed does not depend on it."
    )
    return " ".join(said)


def what_ran(what: str, kernels: dict[str, str]) -> str:
    """'Scan: a: chunked; b: triton.', of the entries that have one. kernels: name of the entry -> kernel or 'none'."""
    named = [f"{name}: {kernel}" for name, kernel in kernels.items() if kernel != "none"]
    return f"{what}: {'; '.join(named)}." if named else f"{what}: no entry has one."


def _machine(result: RaceResult) -> str:
    entry = result.entries[0]
    dtypes = " and ".join(sorted({entry.dtype for entry in result.entries}))
    threads = (
        ""
        if entry.device.startswith("cuda")
        else f", {result.threads} {'thread' if result.threads == 1 else 'threads'}"
    )
    return f"{dtypes} on {entry.device} ({result.machine}{threads}), PyTorch {result.torch_version}."
