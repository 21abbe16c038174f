"""Answers to the exercises of lesson 03: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from diffuapriel.model.layers import rms_norm

# look_ahead


def look_back(x, weight, bias):
    length, K = x.shape[1], len(weight)
    padded = F.pad(x, (0, 0, K - 1, 0))
    return bias + sum(weight[j] * padded[:, j : j + length] for j in range(K))


def by_flips(x, weight, bias):
    return look_back(x.flip(1), weight, bias).flip(1)


def by_shifts(x, weight, bias):
    length, K = x.shape[1], len(weight)
    padded = F.pad(x, (0, 0, 0, K - 1))
    return bias + sum(weight[j] * padded[:, K - 1 - j :][:, :length] for j in range(K))


def by_conv1d(x, weight, bias):
    kernel = weight.flip(0).T[:, None]  # (channels, 1, K)
    padded = F.pad(x.transpose(1, 2), (0, len(weight) - 1))
    return F.conv1d(padded, kernel, bias, groups=x.shape[2]).transpose(1, 2)


def taps_not_turned(x, weight, bias):
    length, K = x.shape[1], len(weight)
    padded = F.pad(x, (0, 0, 0, K - 1))
    return bias + sum(weight[j] * padded[:, j : j + length] for j in range(K))


def not_flipped_back(x, weight, bias):
    return look_back(x.flip(1), weight, bias)


def flips_the_channels(x, weight, bias):
    return look_back(x.flip(2), weight, bias).flip(2)


def wraps_around(x, weight, bias):
    K = len(weight)
    return bias + sum(weight[j] * x.roll(-(K - 1 - j), 1) for j in range(K))


def one_place_too_far(x, weight, bias):
    length, K = x.shape[1], len(weight)
    padded = F.pad(x, (0, 0, 0, K))
    return bias + sum(weight[j] * padded[:, K - j :][:, :length] for j in range(K))


def no_bias(x, weight, bias):
    return by_shifts(x, weight, 0 * bias)


# half_block


def in_two_lines(x, branch, shift, scale, gate):
    v = rms_norm(x) * (1 + scale[:, None]) + shift[:, None]
    return x + gate[:, None] * branch(v)


def by_unsqueeze(x, branch, shift, scale, gate):
    shift, scale, gate = (vector.unsqueeze(1) for vector in (shift, scale, gate))
    v = rms_norm(x)
    return torch.addcmul(x, gate, branch(torch.addcmul(v + shift, v, scale)))


def no_one(x, branch, shift, scale, gate):
    return x + gate[:, None] * branch(rms_norm(x) * scale[:, None] + shift[:, None])


def wrong_axis(x, branch, shift, scale, gate):
    return x + gate * branch(rms_norm(x) * (1 + scale) + shift)


def gates_all(x, branch, shift, scale, gate):
    return gate[:, None] * (x + branch(rms_norm(x) * (1 + scale[:, None]) + shift[:, None]))


def no_residual(x, branch, shift, scale, gate):
    return gate[:, None] * branch(rms_norm(x) * (1 + scale[:, None]) + shift[:, None])


def no_norm(x, branch, shift, scale, gate):
    return x + gate[:, None] * branch(x * (1 + scale[:, None]) + shift[:, None])


def shift_before_scale(x, branch, shift, scale, gate):
    return x + gate[:, None] * branch((rms_norm(x) + shift[:, None]) * (1 + scale[:, None]))


def modulates_after(x, branch, shift, scale, gate):
    return x + gate[:, None] * (branch(rms_norm(x)) * (1 + scale[:, None]) + shift[:, None])


def adds_in_place(x, branch, shift, scale, gate):
    x += gate[:, None] * branch(rms_norm(x) * (1 + scale[:, None]) + shift[:, None])
    return x


def one_plus_gate(x, branch, shift, scale, gate):
    return x + (1 + gate[:, None]) * branch(rms_norm(x) * (1 + scale[:, None]) + shift[:, None])


# mamba_block_parameters


def part_by_part(d, N, H):
    one = d * (4 * d + 2 * N + H) + 2 * d * d
    return 2 * one + 4 * d * d


# block


def half(x, branch, shift, scale, gate):
    norm = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    return x + gate.unsqueeze(1) * branch(norm * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1))


def two_halves(x, mixer, mlp, six):
    x = half(x, mixer, six[0], six[1], six[2])
    return half(x, mlp, six[3], six[4], six[5])


def by_loop(x, mixer, mlp, six):
    for i, branch in enumerate((mixer, mlp)):
        x = half(x, branch, *six[3 * i : 3 * i + 3])
    return x


RIGHT = {
    "both_ways": [
        lambda u, ahead, back: ahead(u) + back(u.flip(1)).flip(1),
        lambda u, ahead, back: torch.flip(back(torch.flip(u, [1])), [1]) + ahead(u),
    ],
    "block": [two_halves, by_loop],
    "look_ahead": [by_flips, by_shifts, by_conv1d],
    "half_block": [in_two_lines, by_unsqueeze],
    "mamba_block_parameters": [part_by_part, lambda d, N, H: 16 * d**2 + 4 * d * N + 2 * d * H],
}
WRONG = {
    "both_ways": [
        lambda u, ahead, back: ahead(u) + back(u.flip(1)),
        lambda u, ahead, back: ahead(u) + back(u),
        lambda u, ahead, back: ahead(u) + back(u.flip(0)).flip(0),
        lambda u, ahead, back: (ahead(u) + back(u.flip(1)).flip(1)) / 2,
        lambda u, ahead, back: ahead(u) + ahead(u.flip(1)).flip(1),
        lambda u, ahead, back: back(ahead(u).flip(1)).flip(1),
    ],
    "block": [
        lambda x, mixer, mlp, six: half(x, mixer, *six[:3]),
        lambda x, mixer, mlp, six: half(half(x, mlp, *six[:3]), mixer, *six[3:]),
        lambda x, mixer, mlp, six: half(x, mixer, *six[:3]) + half(x, mlp, *six[3:]) - x,
        lambda x, mixer, mlp, six: half(half(x, mixer, *six[:3]), mlp, *six[:3]),
        lambda x, mixer, mlp, six: half(half(x, mixer, *six[3:]), mlp, *six[:3]),
    ],
    "look_ahead": [
        look_back,
        taps_not_turned,
        not_flipped_back,
        flips_the_channels,
        wraps_around,
        one_place_too_far,
        no_bias,
    ],
    "half_block": [
        no_one,
        wrong_axis,
        gates_all,
        no_residual,
        no_norm,
        shift_before_scale,
        modulates_after,
        adds_in_place,
        one_plus_gate,
    ],
    "mamba_block_parameters": [
        lambda d, N, H: 16 * d**2,  # B, C and dt forgotten
        lambda d, N, H: d * (4 * d + 2 * N + H) + 4 * d**2 + 4 * d**2,  # in_proj of one direction
        lambda d, N, H: 2 * d * (4 * d + 2 * N + H) + 2 * d**2 + 4 * d**2,  # out_proj of one
        lambda d, N, H: 2 * d * (4 * d + 2 * N + H) + 4 * d**2 + 8 * d**2,  # the Transformer's MLP
        lambda d, N, H: 2 * d * (4 * d + N + H) + 4 * d**2 + 4 * d**2,  # B, not C
        lambda d, N, H: 2 * d * (2 * d + 2 * N + H) + 4 * d**2 + 4 * d**2,  # z forgotten
    ],
}
