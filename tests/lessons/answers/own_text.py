"""Answers to the exercises of lesson 08: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

import difflib

# split_by_group


def smallest_first(groups, share):
    train, held = [], []
    total = sum(map(len, groups))
    for names in sorted(groups, key=len):
        (held if len(held) < share * total else train).extend(names)
    return train, held


def popped_from_the_end(groups, share):
    left = sorted(groups, key=len, reverse=True)
    total, held = sum(map(len, groups)), set()
    while len(held) / total < share:
        held |= set(left.pop())
    return {name for names in left for name in names}, held


def torn_by_file(groups, share):
    names = [name for group in sorted(groups, key=len) for name in group]
    cut = -int(-share * len(names) // 1)
    return names[cut:], names[:cut]


def largest_first(groups, share):
    train, held = [], []
    total = sum(map(len, groups))
    for names in sorted(groups, key=len, reverse=True):
        (held if len(held) < share * total else train).extend(names)
    return train, held


def stops_before_the_share(groups, share):
    train, held = [], []
    total = sum(map(len, groups))
    for names in sorted(groups, key=len):
        (held if len(held) + len(names) <= share * total else train).extend(names)
    return train, held


def a_share_of_the_groups(groups, share):
    ordered = sorted(groups, key=len)
    cut = max(1, round(share * len(groups)))
    return [name for names in ordered[cut:] for name in names], [name for names in ordered[:cut] for name in names]


def sides_exchanged(groups, share):
    train, held = smallest_first(groups, share)
    return held, train


def lists_of_groups(groups, share):
    ordered = sorted(groups, key=len)
    return ordered[1:], ordered[:1]


def forgets_the_rest(groups, share):
    _, held = smallest_first(groups, share)
    return [], held


# dig


def with_its_space(text, word, encode):
    start = text.index(word)
    space = " " if start > 0 and text[start - 1] == " " else ""
    return f"{text[:start]}[MASK:{len(encode(space + word))}]{text[start + len(word) :]}"


def by_partition(text, word, encode):
    front, _, back = text.partition(word)
    piece = " " * front.endswith(" ") + word
    return front + f"[MASK:{len(encode(piece))}]" + back


def without_the_space(text, word, encode):
    return text.replace(word, f"[MASK:{len(encode(word))}]", 1)


def always_a_space(text, word, encode):
    return text.replace(word, f"[MASK:{len(encode(' ' + word))}]", 1)


def one_mask(text, word, encode):
    return text.replace(word, "[MASK]", 1)


def so_many_letters(text, word, encode):
    return text.replace(word, f"[MASK:{len(word)}]", 1)


def everywhere(text, word, encode):
    hole = with_its_space(text, word, encode)
    return hole.replace(word, hole[hole.index("[") : hole.index("]") + 1])


def eats_the_space(text, word, encode):
    return with_its_space(text, word, encode).replace(" [MASK", "[MASK")


# longest_run


def by_rounds(sample, training):
    best, before = 0, [0] * (len(training) + 1)
    for token in sample:
        now = [0] * (len(training) + 1)
        for j, other in enumerate(training):
            if token == other:
                now[j + 1] = before[j] + 1
        best, before = max(best, *now), now
    return best


def by_difflib(sample, training):
    return difflib.SequenceMatcher(None, sample, training, autojunk=False).find_longest_match().size


def by_growing(sample, training):
    pieces = {n: {tuple(training[i : i + n]) for i in range(len(training) - n + 1)} for n in range(len(sample) + 1)}
    best = 0
    for start in range(len(sample)):
        while start + best < len(sample) and tuple(sample[start : start + best + 1]) in pieces[best + 1]:
            best += 1
    return best


def from_the_start_only(sample, training):
    best = 0
    for j in range(len(training)):
        n = 0
        while n < len(sample) and j + n < len(training) and sample[n] == training[j + n]:
            n += 1
        best = max(best, n)
    return best


def with_gaps(sample, training):
    table = [[0] * (len(training) + 1) for _ in range(len(sample) + 1)]
    for i, a in enumerate(sample):
        for j, b in enumerate(training):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def same_places(sample, training):
    best = now = 0
    for a, b in zip(sample, training):
        now = now + 1 if a == b else 0
        best = max(best, now)
    return best


def common_tokens(sample, training):
    return len(set(sample) & set(training))


def the_first_hit(sample, training):
    for i in range(len(sample)):
        for j in range(len(training)):
            n = 0
            while i + n < len(sample) and j + n < len(training) and sample[i + n] == training[j + n]:
                n += 1
            if n:
                return n
    return 0


def the_piece(sample, training):
    match = difflib.SequenceMatcher(None, sample, training, autojunk=False).find_longest_match()
    return sample[match.a : match.a + match.size]


RIGHT = {
    "split_by_group": [smallest_first, popped_from_the_end],
    "dig": [with_its_space, by_partition],
    "longest_run": [by_rounds, by_difflib, by_growing],
}
WRONG = {
    "split_by_group": [
        torn_by_file,
        largest_first,
        stops_before_the_share,
        a_share_of_the_groups,
        sides_exchanged,
        lists_of_groups,
        forgets_the_rest,
    ],
    "dig": [without_the_space, always_a_space, one_mask, so_many_letters, everywhere, eats_the_space],
    "longest_run": [from_the_start_only, with_gaps, same_places, common_tokens, the_first_hit, the_piece],
}
