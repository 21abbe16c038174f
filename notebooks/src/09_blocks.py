# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 09 · Blocks, and a cache that is exact
#
# A diffusion model of lesson 01 reads the whole text at every step. A left-to-right model reads each token once and
# keeps what it needs. *Block diffusion* is both: blocks come from left to right, and inside a block the masks are
# filled in any order. With Mamba, all that must be kept of the finished blocks is a state of constant size, and the
# result is exactly the same as if everything were read again.
#
# **You will be able to**
#
# - carry the state of a scan from block to block, and check that nothing is lost;
# - say why a reverse scan over the whole text cannot be cached, and what to do instead;
# - write the bound of a block model, and train one model for several block lengths;
# - compare autoregression and diffusion on one axis: nats, passes, milliseconds;
# - compute the size of a cache, and say when a Transformer's becomes larger than Mamba's.
#
# **You need** lesson 01 for the loss, lesson 02 for the scan, lesson 03 for the two directions.
#
# | part | minutes |
# |---|---|
# | 1. Between one token and all of them | 6 |
# | 2. The state is the past | 12 |
# | 3. What cannot be kept | 10 |
# | 4. A whole model with its cache | 8 |
# | 5. One model for several block lengths | 14 |
# | 6. From autoregression to diffusion | 10 |
# | 7. A block length that it never saw | 8 |
# | 8. What a cache weighs | 8 |
#
# {{measured}}
#
# Now and then you are asked to **predict, then run**. Four **exercises** check your answer. Later cells run *your*
# functions; where one is not right yet, they run the package's and say so.

# %% [markdown]
# The next cell only prepares things. Run it.

# %%
import random
import time

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from diffuapriel import (
    Canvas,
    Denoiser,
    Sampler,
    SamplerConfig,
    get_schedule,
    get_tokenizer,
    preset,
)
from diffuapriel.charts.palette import COLORS
from diffuapriel.evaluation.interval import mean_interval
from diffuapriel.lessons import QUICK, check, predict, prepare, score, show, use
from diffuapriel.sampling.blocks import CachedDenoiser, denoiser_for
from diffuapriel.tales import language as tales
from diffuapriel.trace.player.widget import Player

prepare()

# %% [markdown]
# ## 1. Between one token and all of them
#
# Cut a text into blocks of $S$ tokens. Any probability of a text is a product over its blocks, each given the blocks
# before it:
#
# $$p(x) = \prod_b p(x^b \mid x^{<b})$$
#
# Each factor is a masked diffusion over $S$ tokens. Its masks see two things: the **clean** text of all earlier blocks,
# and what is already filled in their own block. They never see a later block.
#
# ![Finished blocks, an active block with masks, the forward state and the reverse scan](diagrams/blocks.svg)
#
# | block length | what it is |
# |---|---|
# | S = 1 | one token after the other: an autoregressive model, as GPT |
# | S = 4 | four masks at a time, in any order, then the next four |
# | S = the whole text | the diffusion model of lesson 01 |
#
# So one number leads from GPT to diffusion. The cell prints which tokens a mask may read, for a text of 12 tokens. The
# mask is marked `?`, what it reads `#`, what it does not read `·`.

# %%
LENGTH = 12
for S in (1, 4, 12):
    mask_at = 5  # the position of the mask
    block = mask_at // S
    seen = ["#" if place // S <= block else "·" for place in range(LENGTH)]
    seen[mask_at] = "?"
    print(f"S = {S:2}   {' '.join(seen)}")

# %% [markdown]
# ## 2. The state is the past
#
# Lesson 02 ended with a scan in chunks. Each chunk needed only one thing of all the chunks before it: the state $H$.
# Blocks are chunks. So here is a *cache*: keep $H$ after the last finished block, and nothing else.
#
# ![Four chunks; a state is handed on from one to the next](diagrams/chunks.svg)
#
# ### Exercise 1: read one block
#
# *Must · easy · 5 minutes*
#
# Write the scan of one block that begins with a given state. It is the recurrence of lesson 02, which you know:
#
# $$h_t = e^{dt_t A}\, h_{t-1} + dt_t\, x_t B_t^T \qquad y_t = h_t C_t$$
#
# It returns the outputs **and** the state after the block, for the next one. Do not change the state you were given:
# whoever pauses, undoes or branches still needs it.
#
# <details><summary>Hint 1: the idea</summary>The only difference from a scan over a whole text is where it starts: at
# H and not at zeros.</details>
# <details><summary>Hint 2: the shape</summary>H is (P, N). The write of token t is the outer product of x[t] (P,) and
# B[t] (N,); its output H @ C[t] is (P,). Stack the outputs to (S, P).</details>
# <details><summary>Hint 3: the code</summary>In the loop: <code>H = torch.exp(dt[t] * A) * H + dt[t] *
# torch.outer(x[t], B[t])</code>. This makes a new tensor; <code>H *= ...</code> would change the old one.</details>


# %% tags=["exercise"]
def read_block(H, x, dt, A, B, C):
    """H (P, N); x (S, P), dt (S,), B and C (S, N). Returns outputs (S, P) and the state after."""
    return None  # your lines here


# %% tags=["solution"]
def read_block(H, x, dt, A, B, C):
    """H (P, N); x (S, P), dt (S,), B and C (S, N). Returns outputs (S, P) and the state after."""
    outputs = []
    for t in range(len(x)):
        H = torch.exp(dt[t] * A) * H + dt[t] * torch.outer(x[t], B[t])
        outputs.append(H @ C[t])
    return torch.stack(outputs), H


# %%
check.read_block(read_block)

# %% [markdown]
# Now a text of 48 tokens, in blocks of different lengths. The whole text at once is the reference.

# %%
read = use(check.read_block, read_block)
draw = torch.Generator().manual_seed(0)
P, N, TOKENS = 8, 16, 48
x, B, C = (torch.randn(TOKENS, n, generator=draw, dtype=torch.float64) for n in (P, N, N))
dt = torch.rand(TOKENS, generator=draw, dtype=torch.float64)
A = torch.tensor(-0.1, dtype=torch.float64)
start = torch.zeros(P, N, dtype=torch.float64)
whole, final = read(start, x, dt, A, B, C)

for S in (1, 4, 16, 48):
    H, outputs = start, []
    for block in (slice(i, i + S) for i in range(0, TOKENS, S)):
        y, H = read(H, x[block], dt[block], A, B[block], C[block])
        outputs.append(y)
    error = (torch.cat(outputs) - whole).abs().max()
    print(f"blocks of {S:2}: largest difference {error:.1e}; the cache has {H.numel()} numbers")
    assert error < 1e-12

# %% [markdown]
# No difference, whatever the block length. The cache is not an approximation: it *is* the past, in 128 numbers for this
# head, whether the text before it had 16 tokens or 16 million.
#
# ## 3. What cannot be kept
#
# The denoiser of lesson 03 also scans from right to left. That scan starts at the **last** token of the text. Suppose
# the text is written block by block, and the last token changes, because a new block has been filled.
#
# **Predict, then run.** A full reverse scan runs over our 48 tokens. We change token 47 only. How many of the 16
# outputs of the *first* block change?
#
# - **A** · none: it is 32 tokens away
# - **B** · those near the end of the block
# - **C** · all 16

# %%
guess_1 = predict("A", "B", "C", name="09.1")
guess_1


# %%
def full_reverse(x, dt, A, B, C):
    """The scan from the last token to the first, over the whole text."""
    empty = torch.zeros(x.shape[1], B.shape[1], dtype=x.dtype)
    y, _ = read(empty, x.flip(0), dt.flip(0), A, B.flip(0), C.flip(0))
    return y.flip(0)


edited = x.clone()
edited[47] = 1.0
before, after = full_reverse(x, dt, A, B, C), full_reverse(edited, dt, A, B, C)
changed = int((before != after).any(1)[:16].sum())
print(f"{changed} of 16 outputs of the first block change")
print(
    f"by {(before - after).abs()[:16].max():.3f} at most; outputs are about {before.abs().mean():.1f}"
)
letter = "A" if changed == 0 else "C" if changed == 16 else "B"
guess_1.reveal(letter)

# %% [markdown]
# So every block that is finished would have to be computed again for each new token. And the next layer reads those
# outputs, so its *forward* state changes, too. Nothing could be kept.
#
# The way out is to end the reverse scan at the border: **it runs inside each block only**, from the block's last token
# to its first, and starts from zero.
#
# ### Exercise 2: the reverse scan in blocks
#
# *Must · medium · 5 minutes*
#
# Write it with your `read_block`, or with the one that the package lends you as `read`.
#
# <details><summary>Hint 1: the idea</summary>Within a block, do what <code>full_reverse</code> does with the whole
# text.</details>
# <details><summary>Hint 2: the shape</summary>A block is the slice from i to i + S. Its outputs are (S, P); at the
# end, join all blocks to (length, P).</details>
# <details><summary>Hint 3: the code</summary>A list of <code>full_reverse(x[b], dt[b], A, B[b], C[b])</code> for the
# slices b, and <code>torch.cat</code>.</details>


# %% tags=["exercise"]
def reverse_in_blocks(x, dt, A, B, C, S):
    """x (length, P), dt (length,), B and C (length, N). Returns (length, P)."""
    return None  # your lines here


# %% tags=["solution"]
def reverse_in_blocks(x, dt, A, B, C, S):
    """x (length, P), dt (length,), B and C (length, N). Returns (length, P)."""
    blocks = [slice(i, i + S) for i in range(0, len(x), S)]
    return torch.cat([full_reverse(x[b], dt[b], A, B[b], C[b]) for b in blocks])


# %%
check.reverse_in_blocks(reverse_in_blocks)

# %%
backwards = use(check.reverse_in_blocks, reverse_in_blocks)
before, after = (backwards(text, dt, A, B, C, 16) for text in (x, edited))
same = (before == after).all(1)
print(f"token 47 changed; outputs that are the same bit for bit: {int(same.sum())} of {TOKENS}")
assert same[:32].all() and not same[32:].all()

# %% [markdown]
# Only the third block, which holds token 47, notices. The price: a token near the end of a block hardly sees what comes
# after it. At S = 1 it sees nothing of it, as in GPT.
#
# ## 4. A whole model with its cache
#
# What holds for one head holds for a whole model, layer by layer: the first layer of a block depends on the block and
# on the past; so does the second, which reads the first. The package's `Cache` keeps per Mamba layer the state and the
# last three inputs of its short convolution, and per attention layer keys and values. `commit` reads a finished block
# and returns a *new* cache.
#
# We take a fresh model with random weights, in 64-bit numbers, and compare two ways to get the logits of block 3: with
# the cache of the two blocks before it, and without a cache. Without one, the model is also given the `clean` text,
# from which each block reads its past.

# %%
tokenizer = get_tokenizer("tales-words")  # a vocabulary of whole words
EOS, MASK = tokenizer.eos_id, tokenizer.mask_id
SHAPE = {"d_model": 128, "depth": 2, "expand": 1, "d_state": 32, "headdim": 64}


def new_model(block_lengths, seed=0):
    """A small DiffuApriel that is trained in blocks; it is not told the noise level."""
    torch.manual_seed(seed)
    options = {"tokenizer": "tales-words", "time_conditioning": False, **SHAPE}
    return Denoiser(preset("nano", "diffuapriel", block_lengths=block_lengths, **options))


model = new_model((4,)).double()
for parameter in model.parameters():  # fresh gates are zero: nothing would flow
    torch.nn.init.normal_(parameter, std=0.1)
ids = torch.randint(EOS, (1, LENGTH), generator=draw)
level = torch.zeros(1)
with torch.no_grad():
    cache = model.commit(ids[:, :8], model.empty_cache(1), block_length=4)  # two finished blocks
    masked = ids[:, 8:].clone()
    masked[0, 1:3] = MASK
    cached = model(masked, level, cache=cache)
    text = torch.cat([ids[:, :8], masked], 1)  # the same, with everything read again
    again = model(text, level.expand(1, 3), clean=ids, block_length=4)[:, 8:]
print(f"{cache.bytes:,} bytes; largest difference of the logits {(cached - again).abs().max():.1e}")
assert (cached - again).abs().max() < 1e-10

# %% [markdown]
# And the other direction: change the *last* token of the text, and no logit of an earlier block may move, in any bit.

# %%
other = ids.clone()
other[0, -1] = (ids[0, -1] + 1) % EOS
with torch.no_grad():
    first, second = (model(v, level.expand(1, 3), clean=v, block_length=4) for v in (ids, other))
moved = (first != second).any(2)[0]
print("logits that moved, by position:", "".join("x" if m else "." for m in moved))
assert not moved[:8].any() and moved[8:].any()

# %% [markdown]
# ## 5. One model for several block lengths
#
# Each block is a masked diffusion, so its cost is bounded as in lesson 01. The form by *counts* is the most practical:
# draw how many of the $S$ tokens are masked, $l$, uniformly from 1 to $S$; mask exactly $l$ of them; and weigh
#
# $$-\log p(x) \le \sum_b \mathbb{E}_l \frac{S}{l} \sum_{i\ \text{masked}} -\log p(x_i \mid x^b_l, x^{<b})$$
#
# Why $S/l$? If all $S$ tokens are masked, all of them count once. If only one is masked, it stands for all $S$. At
# $S = 1$ there is nothing to draw, and the bound is the exact likelihood.
#
# ### Exercise 3: weigh the blocks
#
# *Must · medium · 5 minutes*
#
# You get the nats of the masked tokens of some rows, cut into blocks, and where the masks are. Return the right side of
# the formula for each row, with the one draw of $l$ that each block got: no mean is needed.
#
# <details><summary>Hint 1: the idea</summary>Each block has its own number of masks, so its own weight. Weigh the sums
# of the blocks, then add them up.</details>
# <details><summary>Hint 2: the shape</summary>Sums over the last axis are (rows, blocks). The result is
# (rows,).</details>
# <details><summary>Hint 3: the code</summary>S is <code>nll.shape[2]</code>, and the masks of each block are
# <code>masked.sum(2)</code>.</details>


# %% tags=["exercise"]
def block_bound(nll, masked):
    """nll (rows, blocks, S): nats of the masked tokens, 0 elsewhere; masked: bool, as nll.

    Returns the bound of each row in nats, (rows,).
    """
    return None  # your lines here


# %% tags=["solution"]
def block_bound(nll, masked):
    """nll (rows, blocks, S): nats of the masked tokens, 0 elsewhere; masked: bool, as nll.

    Returns the bound of each row in nats, (rows,).
    """
    weight = nll.shape[2] / masked.sum(2)
    return (weight * nll.sum(2)).sum(1)


# %%
check.block_bound(block_bound)

# %% [markdown]
# The rest is as in lesson 01. The model gets the corrupted text, and beside it the clean one, from which each block
# reads its past. All blocks are trained in one pass.

# %%
bound_of = use(check.block_bound, block_bound)


def nats(model, ids, S, generator):
    """One draw of the bound of each row of ids (rows, LENGTH), (rows,)."""
    shape = (len(ids), LENGTH // S, S)
    count = 1 + torch.randint(S, (*shape[:2], 1), generator=generator)
    order = torch.rand(shape, generator=generator).argsort(-1).argsort(-1)
    masked = (order < count).flatten(1)  # exactly `count` in each block
    level = torch.zeros(shape[:2])  # this model is not told how much is masked
    noisy = ids.masked_fill(masked, MASK)
    logits = model(noisy, level, masked, clean=ids, block_length=S)[:, :MASK]
    cost = F.cross_entropy(logits, ids[masked], reduction="none")
    nll = torch.zeros(ids.shape).masked_scatter(masked, cost)
    return bound_of(nll.view(shape), masked.view(shape))


def draw_stories(rows, rng):
    """New one-sentence stories as a table of token ids, (rows, LENGTH)."""
    table = [tokenizer.encode(tales.generate(1, rng)) for _ in range(rows)]
    return torch.tensor([ids + [EOS] * (LENGTH - len(ids)) for ids in table])


rng = random.Random(0)
for row in draw_stories(3, rng).tolist():
    print(tokenizer.decode([token for token in row if token != EOS]))

# %% [markdown]
# One model is trained for the block lengths 1, 4 and 12 in turn. It takes one to two minutes. Read on while it runs.


# %%
def train(block_lengths, steps):
    """A model that was trained at these block lengths in turn."""
    model = new_model(block_lengths)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, total_steps=steps, pct_start=0.05, cycle_momentum=False
    )
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    for step in (bar := tqdm(range(steps))):
        S = block_lengths[step % len(block_lengths)]
        loss = nats(model, draw_stories(64, rng), S, generator).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        bar.set_postfix_str(f"{loss.item():.1f} nats per story")
    return model.eval()


TRAINED = (1, 4, 12)
mixed = train(TRAINED, steps=5 if QUICK else 450)

# %% [markdown]
# ## 6. From autoregression to diffusion
#
# **Predict, then run.** The same weights are now measured at S = 1, 4 and 12. At which block length is the bound
# lowest, per story?
#
# - **A** · at 12: there each mask sees both sides
# - **B** · at 1: left to right
# - **C** · the same at all three, within the intervals

# %%
guess_2 = predict("A", "B", "C", name="09.2")
guess_2

# %%
held_out = draw_stories(8 if QUICK else 400, random.Random(99))
DRAWS = 2 if QUICK else 16


@torch.no_grad()
def measure(model, S):
    """The bound of each held-out story at block length S, the mean of several draws."""
    generator = torch.Generator().manual_seed(1)
    draws = 1 if S == 1 else DRAWS  # at S = 1 every draw is the same
    return torch.stack([nats(model, held_out, S, generator) for _ in range(draws)]).mean(0)


def text_of(row):
    """The text before the first end-of-text token."""
    row = list(row)
    return tokenizer.decode(row[: row.index(EOS)] if EOS in row else row)


exact = torch.tensor([-tales.log_prob(text_of(row), 1) for row in held_out.tolist()])
excess = {S: mean_interval((measure(mixed, S) - exact).tolist()) for S in TRAINED}
print(f"the stories themselves: {exact.mean():.2f} nats each (expected: {tales.entropy(1):.2f})")
for S, (mean, (low, high)) in excess.items():
    print(f"S = {S:2}: {mean:5.2f} nats above that  [{low:.2f}, {high:.2f}]")
lowest = min(excess, key=lambda S: excess[S][0])
apart = all(excess[lowest][1][1] < excess[S][1][0] for S in TRAINED if lowest != S)
letter = {12: "A", 1: "B"}.get(lowest, "C") if apart else "C"
guess_2.reveal(letter)

# %% [markdown]
# Be careful with this number. At S = 1 the bound is the likelihood itself. At S = 12 it contains the mean over all
# orders in which a story can be filled, most of which are harder than left to right. So a smaller S has a *tighter
# bound*, which by itself makes no better model. In return, a larger S can fill several masks in one pass.
#
# Now write. Strategy `threshold` fills all masks of the block whose best token has at least 80 %. `CachedDenoiser`
# keeps the cache, and reads the active block only.


# %%
def write(model, S, stories):
    """Passes and milliseconds per story, and the percentage that is consistent."""
    passes, good, began = 0, 0, time.perf_counter()
    for seed in range(stories):
        config = SamplerConfig(
            strategy="threshold", threshold=0.8, block_length=S, block_start="zero", seed=seed
        )
        sampler = Sampler(config, get_schedule("log-linear"), MASK)
        denoiser = CachedDenoiser(model, S)
        state = sampler.start(Canvas.from_text("", tokenizer, LENGTH))
        while not sampler.done(state):
            state = sampler.advance(denoiser, state)
        passes += denoiser.passes
        good += tales.check(text_of(state.ids[0].tolist()), 1).consistent
    spent = 1000 * (time.perf_counter() - began)
    return passes / stories, spent / stories, 100 * good / stories


written = {S: write(mixed, S, 2 if QUICK else 100) for S in TRAINED}
print("block length   passes   ms per story   consistent")
for S, (passes, ms, good) in written.items():
    print(f"{S:12}   {passes:6.1f}   {ms:12.1f}   {good:8.0f} %")

# %%
figure = go.Figure(layout={"xaxis_title": "block length", "yaxis_title": "value, if 100 at S = 1"})
curves = {
    "nats per story": [exact.mean().item() + excess[S][0] for S in TRAINED],
    "passes per story": [written[S][0] for S in TRAINED],
    "milliseconds per story": [written[S][1] for S in TRAINED],
}
for name, values in curves.items():
    y = [100 * value / values[0] for value in values]
    figure.add_scatter(x=list(TRAINED), y=y, name=name, mode="lines+markers")
figure.update_xaxes(type="log", tickvals=TRAINED).update_yaxes(rangemode="tozero")
show(figure)

# %% [markdown]
# From left to right the figure leads from GPT to full diffusion, with one set of weights. Time follows the passes, and
# blocks of 4 need fewer of both than single tokens. A larger block need not save more, probably because at the start of
# a block of 12 the model is sure of little, and few masks reach the threshold. The bound rises from left to right. Look
# at the last column of the table, too: with a hundred stories, it is off by up to ten points. Where to stop is a
# choice, and the model does not have to be trained again for it.
#
# Watch one story with S = 4. A finished block is committed, and never changes again.

# %%
config = SamplerConfig(strategy="threshold", threshold=0.8, block_length=4, block_start="zero")
sampler = Sampler(config, get_schedule("log-linear"), MASK)
canvas = Canvas.from_text("", tokenizer, LENGTH)
trace = Player().record(sampler, CachedDenoiser(mixed, 4), canvas, tokenizer, model="blocks of 4")

# %% [markdown]
# One token at a time takes a pass for each; a block is guessed at once. One model knows both, so it can **draft** a
# block and **verify** the last draft token by token, in the same pass: behind each token of the draft stands a mask
# that sees the tokens up to there. The pass accepts the draft up to the first token that single tokens would not have
# written, and puts the right one in its place. Strategy `speculative` does so. Its text is that of single tokens,
# with the same seed; compare.


# %%
def write_one(strategy, S, seed):
    """The tokens of a story, and its passes."""
    config = SamplerConfig(strategy=strategy, block_length=S, block_start="zero", seed=seed)
    sampler = Sampler(config, get_schedule("log-linear"), MASK)
    denoiser = denoiser_for(mixed, config)
    state = sampler.start(Canvas.from_text("", tokenizer, LENGTH))
    while not sampler.done(state):
        state = sampler.advance(denoiser, state)
    return state.ids[0].tolist(), denoiser.passes


seeds = range(2 if QUICK else 20)
single = [write_one("low_confidence", 1, seed) for seed in seeds]
drafted = [write_one("speculative", 12, seed) for seed in seeds]
same = sum(a[0] == b[0] for a, b in zip(single, drafted))
fewer = [sum(passes for _, passes in texts) / len(seeds) for texts in (single, drafted)]
print(f"{same} of {len(seeds)} stories are the same")
print(f"passes per story: {fewer[0]:.1f} one token at a time, {fewer[1]:.1f} with drafts of 12")

# %% [markdown]
# ## 7. A block length that it never saw
#
# A second model sees blocks of 4 only, for fewer steps in all. At S = 4 it is about as good. Then we ask it for blocks
# of 12, as if it were the mixed model.
#
# **Predict, then run.** How many nats per story will it need at S = 12? (True stories cost 12.8; what the mixed
# model needs above that is printed in section 6.)
#
# - **A** · below 16: it has learned the stories, whatever the block
# - **B** · from 16 to 25
# - **C** · above 25: worse than a model that knows only how often each word occurs

# %%
guess_3 = predict("A", "B", "C", name="09.3")
guess_3

# %%
narrow = train((4,), steps=5 if QUICK else 240)

# %%
everywhere = [1, 2, 3, 4, 6, 12]
palette = {"mixed: 1, 4 and 12": COLORS["diffuapriel"], "4 only": COLORS["diffutran"]}
figure = go.Figure(layout={"xaxis_title": "block length", "yaxis_title": "nats per story"})
for (name, color), model in zip(palette.items(), (mixed, narrow)):
    results = [mean_interval(measure(model, S).tolist()) for S in everywhere]
    y, error = [mean for mean, _ in results], [high - mean for mean, (_, high) in results]
    bars = {"array": error, "type": "data"}
    figure.add_scatter(
        x=everywhere, y=y, error_y=bars, name=name, line_color=color, mode="lines+markers"
    )
    print(f"{name:20}", "  ".join(f"S={S}: {value:.1f}" for S, value in zip(everywhere, y)))
figure.update_xaxes(type="log", tickvals=everywhere).update_yaxes(rangemode="tozero")
figure.add_hline(
    y=tales.entropy(1),
    line_dash="dash",
    annotation_text="entropy",
    annotation_position="bottom left",
)
show(figure)
letter = "A" if y[-1] < 16 else "B" if y[-1] <= 25 else "C"
guess_3.reveal(letter, f"It needs {y[-1]:.1f} nats at S = 12.")

# %% [markdown]
# Such a model has never seen a block in which more than four tokens were masked, and none that begins elsewhere than at
# token 0, 4 or 8. The mixed model holds at its three block lengths, and pays little between them. So check which block
# lengths a model was trained for: `model.config.block_lengths`. The sampler lets you choose any, and does not warn.

# %%
for S in (4, 12):
    passes, _, good = write(narrow, S, 2 if QUICK else 50)
    print(
        f"the model of blocks of 4, written with S = {S:2}: {good:3.0f} % consistent, {passes:.1f} passes"
    )

# %% [markdown]
# ## 8. What a cache weighs
#
# A Transformer can keep its past, too: the **keys** and the **values** of every token, in every layer. That is exact as
# well, but it grows with the text.
#
# ### Exercise 4: bytes of a KV cache
#
# *May · easy · 3 minutes*
#
# How many bytes do the keys and values of a text take, in all layers together, if each number has `bytes_each` bytes?
#
# <details><summary>Hint 1: the idea</summary>Two vectors are kept for each token in each layer: its key and its
# value.</details>
# <details><summary>Hint 2: the shape</summary>A key has as many numbers as the model is wide, all heads
# together.</details>
# <details><summary>Hint 3: the code</summary>2 × layers × tokens × d_model numbers, each of
# <code>bytes_each</code> bytes.</details>


# %% tags=["exercise"]
def kv_bytes(tokens, layers, d_model, bytes_each):
    """Bytes of the keys and values of a text of this many tokens."""
    return None  # your line here


# %% tags=["solution"]
def kv_bytes(tokens, layers, d_model, bytes_each):
    """Bytes of the keys and values of a text of this many tokens."""
    return 2 * layers * tokens * d_model * bytes_each


# %%
check.kv_bytes(kv_bytes)

# %% [markdown]
# Your formula against the package's caches, for three models of equal size. The hybrid has both kinds of layers.

# %%
weigh = use(check.kv_bytes, kv_bytes)
lengths = [16, 64, 256] if QUICK else [16, 64, 256, 1024, 2048]
figure = go.Figure(layout={"xaxis_title": "tokens in the cache", "yaxis_title": "bytes"})
for name, color in COLORS.items():
    config = preset("nano", name, tokenizer="tales-words", block_lengths=(16,))
    model, sizes = Denoiser(config).eval(), []
    with torch.no_grad():
        for n in lengths:
            cache = model.commit(torch.zeros(1, n, dtype=torch.int64), model.empty_cache(1), 16)
            sizes.append(cache.bytes)
    figure.add_scatter(x=lengths, y=sizes, name=name, line_color=color, mode="lines+markers")
    print(
        f"{name:14} {sizes[0]:9,} bytes at {lengths[0]} tokens, {sizes[-1]:11,} at {lengths[-1]:,}"
    )
    if name == "diffutran":
        assert sizes[-1] == weigh(lengths[-1], config.depth, config.d_model, 4)
figure.update_xaxes(type="log", tickvals=lengths).update_yaxes(type="log")
show(figure)

# %% [markdown]
# For short texts the KV cache is the smaller one. Where do they cross, in the largest models of the paper, with states
# in 32 bits and keys and values in 16?

# %%
pure, transformer = (preset("1.3b", name) for name in ("diffuapriel", "diffutran"))
state_bytes = 4 * pure.depth * pure.d_inner * pure.d_state
for tokens in (64, 256, 1024, 65_536, 262_144):
    kv = weigh(tokens, transformer.depth, transformer.d_model, 2)
    print(
        f"{tokens:8,} tokens: states {state_bytes / 1e6:6.1f} MB, keys and values {kv / 1e6:9,.1f} MB"
    )
print(f"equal at {state_bytes / weigh(1, transformer.depth, transformer.d_model, 2):.0f} tokens")

# %% [markdown]
# The states have one more advantage: their size is fixed, so a program for the GPU can be recorded once and used for
# every block. And one drawback, which lesson 11 measures: a state of fixed size cannot hold everything.

# %%
score()

# %% [markdown]
# ## What you learned
#
# - **Block diffusion** is autoregressive between blocks and diffusion inside them. The block length is a slider.
# - The forward state after a finished block **is** the past. A cache of it is exact.
# - A reverse scan over the whole text cannot be cached. It is confined to the block.
# - A model works at the block lengths that it was **trained** for.
# - A KV cache grows with the text, a state does not.
#
# ## Going further
#
# - Train with `block_reverse=False` in the config: Mamba then never looks ahead. What does it cost at S = 4, and what
#   at S = 1?
# - Set the threshold to 0.5 and to 0.95. Draw *consistent* against *passes* for S = 4 and S = 12.
# - Write without end: `pipe.write(block_length=4)` of `examples/blocks.py`. Does the process grow?
# - Open the model that `examples/blocks.py` trains in the app, and move the slider of the block length in the tab
#   *Unmask*: `python start.py demo --checkpoint runs/blocks/checkpoint`.
#
# **Papers.** Block diffusion: [arXiv:2503.09573](https://arxiv.org/abs/2503.09573). The reverse scan confined to the
# block: [arXiv:2607.02805](https://arxiv.org/abs/2607.02805). Counting instead of times:
# [arXiv:1310.1757](https://arxiv.org/abs/1310.1757). The code: `diffuapriel/model/blocks.py`,
# `diffuapriel/diffusion/blocks.py` and `docs/blocks.md`.
