"""Answers to the exercises of lesson 04: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

import math

from diffuapriel.evaluation.interval import mean_interval

# closest_shape


def by_distance(count, target, shapes):
    return min(shapes, key=lambda shape: abs(count(*shape) - target))


def by_a_loop(count, target, shapes):
    best = shapes[0]
    for width, depth in shapes[1:]:
        if abs(count(width, depth) - target) < abs(count(*best) - target):
            best = (width, depth)
    return best


def the_first_that_reaches_it(count, target, shapes):
    return next((shape for shape in shapes if count(*shape) >= target), shapes[-1])


def the_largest_that_fits(count, target, shapes):
    return max((s for s in shapes if count(*s) <= target), key=lambda s: count(*s), default=shapes[0])


def without_the_absolute_value(count, target, shapes):
    return min(shapes, key=lambda shape: count(*shape) - target)


def the_count_and_not_the_shape(count, target, shapes):
    return min((count(*shape) for shape in shapes), key=lambda n: abs(n - target))


def the_index(count, target, shapes):
    return min(range(len(shapes)), key=lambda i: abs(count(*shapes[i]) - target))


# warmup_cosine


def warm_and_cosine(step, peak, warmup, total):
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / (total - warmup)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def between_low_and_high(step, peak, warmup, total):
    low = peak / 10
    done = max(0, step - warmup) / (total - warmup)
    wave = (math.cos(math.pi * done) + 1) / 2
    return min(1, (step + 1) / warmup) * (wave * peak + (1 - wave) * low)


def from_zero(step, peak, warmup, total):
    return peak * step / warmup if step < warmup else warm_and_cosine(step, peak, warmup, total)


def down_to_nothing(step, peak, warmup, total):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def forgets_the_warm_up_in_the_cosine(step, peak, warmup, total):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * step / total)))


def a_straight_line_down(step, peak, warmup, total):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 - 0.9 * (step - warmup) / (total - warmup))


def a_whole_wave(step, peak, warmup, total):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.1 + 0.45 * (1 + math.cos(2 * math.pi * (step - warmup) / (total - warmup))))


def a_tenth_is_added(step, peak, warmup, total):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.1 + 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))))


# paired


def of_the_differences(a, b):
    difference = a - b
    mean, error = difference.mean().item(), difference.std().item() / len(a) ** 0.5
    return mean, mean - 1.96 * error, mean + 1.96 * error


def by_the_package(a, b):
    mean, (low, high) = mean_interval((a - b).tolist())
    return [mean, low, high]


def unpaired(a, b):
    mean = (a.mean() - b.mean()).item()
    half = 1.96 * ((a.var() + b.var()) / len(a)).sqrt().item()
    return mean, mean - half, mean + half


def of_single_stories(a, b):
    d = a - b
    return d.mean().item(), (d.mean() - 1.96 * d.std()).item(), (d.mean() + 1.96 * d.std()).item()


def one_standard_error(a, b):
    mean, error = (a - b).mean().item(), (a - b).std().item() / len(a) ** 0.5
    return mean, mean - error, mean + error


def divided_by_the_number(a, b):
    mean, error = (a - b).mean().item(), (a - b).std().item() / len(a)
    return mean, mean - 1.96 * error, mean + 1.96 * error


def with_the_variance(a, b):
    mean, error = (a - b).mean().item(), (a - b).var().item() / len(a) ** 0.5
    return mean, mean - 1.96 * error, mean + 1.96 * error


RIGHT = {
    "closest_shape": [by_distance, by_a_loop],
    "warmup_cosine": [warm_and_cosine, between_low_and_high],
    "paired": [of_the_differences, by_the_package],
}
WRONG = {
    "closest_shape": [
        the_first_that_reaches_it,
        the_largest_that_fits,
        without_the_absolute_value,
        the_count_and_not_the_shape,
        the_index,
    ],
    "warmup_cosine": [
        from_zero,
        down_to_nothing,
        forgets_the_warm_up_in_the_cosine,
        a_straight_line_down,
        a_whole_wave,
        a_tenth_is_added,
    ],
    "paired": [
        unpaired,
        of_single_stories,
        one_standard_error,
        divided_by_the_number,
        with_the_variance,
        lambda a, b: of_the_differences(b, a),
        lambda a, b: (a - b).mean().item(),
    ],
}
