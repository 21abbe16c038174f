"""Lesson 08: the reader's own corpus."""

from __future__ import annotations

import random
from collections.abc import Callable

from diffuapriel.lessons.check.verdict import checker, number, require, run
from diffuapriel.tokenizer import get_tokenizer

__all__ = ["dig", "longest_run", "split_by_group"]


def _names(count: int, first: int) -> list[str]:
    return [f"file{first + i}" for i in range(count)]


@checker
def split_by_group(answer: Callable[[list[list[str]], float], tuple[list[str], list[str]]]) -> None:
    """`answer(groups, share)`: (train, validation); the smallest groups are held out until the share is reached."""
    cases = [([5, 1, 3, 1], 0.15), ([4, 4, 1, 7, 2, 2], 0.3), ([1] * 10, 0.2), ([2, 6, 3], 0.18)]
    for sizes, share in cases:
        groups = [_names(size, 10 * i) for i, size in enumerate(sizes)]
        total, given = sum(sizes), [list(names) for names in groups]
        got = run(answer, groups, share)
        require(groups == given, "Your function changed the groups it was given. Create new lists instead.")
        require(
            isinstance(got, (tuple, list))
            and len(got) == 2
            and all(isinstance(side, (list, tuple, set)) for side in got),
            "Return two lists of names: training and validation.",
        )
        train, validation = (list(side) for side in got)
        names = [name for group in groups for name in group]
        require(
            all(isinstance(name, str) for name in train + validation),
            "The two lists must contain names of files, not groups.",
        )
        require(
            sorted(train + validation) == sorted(names),
            "Every file must be in exactly one of the two lists.",
        )
        split = [group for group in groups if set(group) & set(train) and set(group) & set(validation)]
        require(not split, f"A leak: the group {split[0] if split else ''} has files in both lists.")
        require(
            len(validation) >= share * total,
            f"{share:.0%} of {total} files must be held out; yours holds out {len(validation)}. "
            "When may the function stop? And which of the two lists comes first?",
        )
        wanted = 0
        for size in sorted(sizes):
            wanted += size if wanted < share * total else 0
        require(
            len(validation) == wanted,
            f"With groups of {', '.join(map(str, sizes))} files and a share of {share:.0%}, {wanted} files are enough; "
            f"you hold out {len(validation)}. Do you take the smallest groups first, and no more than needed?",
        )


@checker
def dig(answer: Callable[[str, str, Callable[[str], list[int]]], str]) -> None:
    """`answer(text, word, encode)`: a hole for the first `word`, as large as its tokens with the space before it."""
    encode = get_tokenizer("gpt2-4k").encode
    cases = [
        ("She found a red kite.", "red", "She found a [MASK:{}] kite.", " red"),
        ("latin small letter a\n", "letter", "latin small [MASK:{}] a\n", " letter"),
        ("The extraordinary day", "extraordinary", "The [MASK:{}] day", " extraordinary"),
        ("number of eggs", "number", "[MASK:{}] of eggs", "number"),
        ("one\nletter, two", "letter", "one\n[MASK:{}], two", "letter"),
        ("a zebra and a zebra", "zebra", "a [MASK:{}] and a zebra", " zebra"),
    ]
    for text, word, pattern, piece in cases:
        got = run(answer, text, word, encode)
        require(isinstance(got, str), f"Return a text, not {type(got).__name__}.")
        right = pattern.format(len(encode(piece)))
        require(
            word in text.replace(word, "", 1) or word not in got,
            f"The word {word!r} is still in your text: {got!r}.",
        )
        front, back = pattern.split("[MASK:{}]")
        require(
            got.startswith(front) and got.endswith(back),
            f"The text around the hole must not change, including spaces, and only the first {word!r} is replaced. "
            f"From {text!r} you made {got!r}.",
        )
        require(
            got == right,
            f"From {text!r} you made {got!r}; the hole should have another size or form. "
            f"Which tokens does the word have here, as {piece!r}?",
        )


@checker
def longest_run(answer: Callable[[list[int], list[int]], int]) -> None:
    """`answer(sample, training)`: the length of the longest piece of `sample` that occurs in `training`."""
    cases = [
        ([1, 2, 3], [9, 1, 2, 3, 9], 3, "The whole sample occurs in the training text."),
        ([7, 8], [1, 2, 3], 0, "They have nothing in common."),
        ([1, 2, 9, 3, 4, 5], [3, 4, 5, 9, 1, 2], 3, "The longest piece may be at the end of the sample."),
        ([1, 2, 3, 4], [1, 9, 2, 9, 3, 9, 4], 1, "A run must be contiguous."),
        ([5, 1, 2, 3, 6], [1, 2, 8, 1, 2, 3, 7], 3, "A shorter match must not end the search."),
        ([1, 1, 2], [1, 1, 1, 2], 3, "The same token may come several times in a row."),
        ([4, 3, 2, 1], [1, 2, 3, 4], 1, "The order of the tokens matters."),
        ([], [1, 2], 0, "An empty sample."),
        ([1, 2], [], 0, "An empty training text."),
        ([0, 1, 2, 3, 9], [0, 1, 8, 2, 3, 9], 3, "The positions in the two texts may differ."),
    ]
    rng = random.Random(4)
    long = [rng.randrange(50) for _ in range(3_000)]
    cases.append(([99, *long[1_234:1_260], 98], long, 26, "A piece from the middle of a long text."))
    for sample, training, wanted, hint in cases:
        got = number(run(answer, list(sample), list(training)))
        shown = f"Sample {sample} in {training}: " if len(training) < 20 else ""
        require(got == wanted, f"{hint} {shown}The answer is {wanted}, yours is {got:g}.")
