"""Answers to the exercises of lesson 07: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

import math

import torch

# units


def by_exp(nats, tokens, byte_count):
    return math.exp(nats), nats * tokens / math.log(2) / byte_count


def by_powers(nats, tokens, byte_count):
    bits_per_token = nats * math.log2(math.e)
    return torch.tensor([2**bits_per_token, bits_per_token / (byte_count / tokens)], dtype=torch.float64)


# ending_nats


def by_rows(costs, hidden):
    return (torch.where(hidden, costs, 0).sum(1) * costs.shape[1] / hidden.sum(1)).mean()


def by_means(costs, hidden):
    length = costs.shape[1]
    means = [row[chosen].mean() for row, chosen in zip(costs, hidden)]
    return length * sum(means) / len(means)


def no_weight(costs, hidden):
    return torch.where(hidden, costs, 0).sum(1).mean()


def mean_of_a_token(costs, hidden):
    return (torch.where(hidden, costs, 0).sum(1) / hidden.sum(1)).mean()


def pooled(costs, hidden):
    return costs[hidden].mean() * costs.shape[1]


def all_tokens(costs, hidden):
    return (costs.sum(1) * costs.shape[1] / hidden.sum(1)).mean()


def turned_around(costs, hidden):
    return (torch.where(hidden, costs, 0).sum(1) * hidden.sum(1) / costs.shape[1]).mean()


def visible_instead(costs, hidden):
    return (torch.where(hidden, 0, costs).sum(1) * costs.shape[1] / (~hidden).sum(1).clamp_min(1)).mean()


def summed_over_draws(costs, hidden):
    return (torch.where(hidden, costs, 0).sum(1) * costs.shape[1] / hidden.sum(1)).sum()


# distinct


def by_sets(rows, n):
    grams = [tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams)


def by_zip(rows, n):
    seen, total = set(), 0
    for row in rows:
        for gram in zip(*[row[shift:] for shift in range(n)]):
            seen.add(gram)
            total += 1
    return torch.tensor(len(seen) / total)


def over_the_ends(rows, n):
    flat = [token for row in rows for token in row]
    return by_sets([flat], n)


def mean_of_rows(rows, n):
    shares = [by_sets([row], n) for row in rows if len(row) >= n]
    return sum(shares) / len(shares)


def over_all_tokens(rows, n):
    grams = {tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1)}
    return len(grams) / sum(map(len, rows))


def one_gram_short(rows, n):
    grams = [tuple(row[i : i + n]) for row in rows for i in range(len(row) - n)]
    return len(set(grams)) / max(1, len(grams))


def ragged_ends(rows, n):
    grams = [tuple(row[i : i + n]) for row in rows for i in range(len(row))]
    return len(set(grams)) / len(grams)


def without_overlap(rows, n):
    grams = [tuple(row[i : i + n]) for row in rows for i in range(0, len(row) - n + 1, n)]
    return len(set(grams)) / len(grams)


def a_count(rows, n):
    return len({tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1)})


# interval


def interval_of(reach):
    def interval(values):
        mean = values.mean().item()
        return mean, mean - reach(values).item(), mean + reach(values).item()

    return interval


def interval_by_numbers(values):
    numbers = values.tolist()
    mean = sum(numbers) / len(numbers)
    spread = (sum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1)) ** 0.5
    half = 1.96 * spread / math.sqrt(len(numbers))
    return torch.tensor([mean, mean - half, mean + half], dtype=torch.float64)


RIGHT = {
    "interval": [interval_of(lambda v: 1.96 * v.std() / len(v) ** 0.5), interval_by_numbers],
    "units": [by_exp, by_powers],
    "ending_nats": [by_rows, by_means],
    "distinct": [by_sets, by_zip],
}
WRONG = {
    "interval": [
        interval_of(lambda v: 1.96 * v.std()),
        interval_of(lambda v: v.std() / len(v) ** 0.5),
        interval_of(lambda v: 1.96 * v.std() / len(v)),
        interval_of(lambda v: 1.96 * v.var() / len(v) ** 0.5),
        interval_of(lambda v: -1.96 * v.std() / len(v) ** 0.5),
        lambda v: (v.median().item(), 0.0, 6.0),
    ],
    "units": [
        lambda nats, tokens, byte_count: (2**nats, nats * tokens / math.log(2) / byte_count),
        lambda nats, tokens, byte_count: (math.exp(nats), nats * tokens / byte_count),
        lambda nats, tokens, byte_count: (math.exp(nats), nats * tokens * math.log(2) / byte_count),
        lambda nats, tokens, byte_count: (math.exp(nats), nats / math.log(2)),
        lambda nats, tokens, byte_count: (math.exp(nats), nats * byte_count / math.log(2) / tokens),
        lambda nats, tokens, byte_count: (math.exp(-nats), nats * tokens / math.log(2) / byte_count),
        lambda nats, tokens, byte_count: math.exp(nats),
    ],
    "ending_nats": [
        no_weight,
        mean_of_a_token,
        pooled,
        all_tokens,
        turned_around,
        visible_instead,
        summed_over_draws,
    ],
    "distinct": [
        over_the_ends,
        mean_of_rows,
        over_all_tokens,
        one_gram_short,
        ragged_ends,
        without_overlap,
        a_count,
    ],
}
