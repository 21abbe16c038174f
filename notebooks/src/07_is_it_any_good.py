# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · Is it any good?
#
# A model is trained. Is it good? People answer with one number: a perplexity, bits per byte, an accuracy. Each of these
# is an *estimate* of something, and each can be made to look better than the model is. In this lesson you measure two
# real models, compare the numbers with the exact truth where it is known, and see good numbers for bad text.
#
# **You will be able to**
#
# - estimate a likelihood bound, and say how far off the estimate may be;
# - tell the bound from the truth, and the model's error from chance;
# - convert between nats, bits and perplexity, and compare a model with a file compressor;
# - ask a model which of two endings is likelier;
# - notice when a measure of generated text misleads.
#
# **You need** lesson 01 (the loss, NELBO), and to know what a mean and a standard deviation are.
#
# | part | minutes |
# |---|---|
# | 1. One text, one number, and its spread | 18 |
# | 2. The bound and the truth | 12 |
# | 3. How much is the model's error? | 6 |
# | 4. Nats, bits, perplexity, and xz | 10 |
# | 5. Which ending is likelier? | 12 |
# | 6. Measures that mislead | 12 |
#
# {{measured}}
#
# Now and then you are asked to **predict, then run**. Four **exercises** check your answer, and the lesson then runs
# *your* code; where you have none, ours takes its place.

# %% [markdown]
# The next cell only prepares things. Run it.

# %%
import html
import itertools
import lzma
import math
import random
import re

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from diffuapriel import get_schedule, load_checkpoint
from diffuapriel.lessons import QUICK, check, predict, prepare, score, show, use
from diffuapriel.lessons.figure import error_bars
from diffuapriel.tales import language as tales

prepare()

# %% [markdown]
# ## 1. One text, one number, and its spread
#
# The models that come with this project have about the same size and were trained on the same tales, those of level 3:
# stories of several sentences. We use two of them: `tales-diffuapriel`, made of Mamba-2 layers, and `tales-diffutran`,
# a Transformer. Each was trained on rows of 128 tokens: a story, then end-of-text tokens until the row is full.

# %%
model, tokenizer = load_checkpoint("tales-diffuapriel")
other_model, _ = load_checkpoint("tales-diffutran")
schedule = get_schedule("log-linear")
EOS, MASK, LENGTH = tokenizer.eos_id, tokenizer.mask_id, 128


def row_of(text):
    """A row of token ids, (LENGTH,)."""
    ids = tokenizer.encode(text)
    return torch.tensor(ids + [EOS] * (LENGTH - len(ids)))


def draw_story(rng):
    """A true story that fits into a row together with an end-of-text token."""
    while len(tokenizer.encode(story := tales.generate(3, rng))) >= LENGTH:
        pass
    return story


story = draw_story(random.Random(1))
print(story)

# %% [markdown]
# What does this story cost the first model? Lesson 01's answer is the NELBO: draw a time *t*, hide each token with
# probability *t*, add up −log p of the hidden tokens, and multiply by 1/*t*. The **mean** over *t* and over the choice
# of hidden tokens is the bound (but for the thousandth that lesson 01 leaves out at each end of time; section 2 comes
# back to it). We cannot average over everything, so we draw samples. Each draw is one model call, and one dot in the
# figure.
#
# For what follows we need many draws, spread evenly: 64 slices of time with several draws in each.

# %%
from diffuapriel.diffusion.objective import nelbo

SLICES, EACH = (8, 2) if QUICK else (64, 8)
generator = torch.Generator().manual_seed(0)
slices = torch.arange(SLICES)[:, None].expand(SLICES, EACH)
times = 0.001 + 0.999 * (slices + torch.rand(SLICES, EACH, generator=generator)) / SLICES


@torch.no_grad()
def costs_of(model, rows, t):
    """One draw per row, at time t (rows,): estimates of the NELBO in nats, (rows,)."""
    return nelbo(model, rows, schedule, MASK, t=t, generator=generator).nats


row = row_of(story)
pool = [costs_of(model, row.expand(len(t), -1), t) for t in tqdm(times.flatten().split(16))]
pool = torch.cat(pool).view(SLICES, EACH)
bound = pool.mean().item()

figure = go.Figure(layout={"xaxis_title": "time t", "yaxis_title": "nats, estimated from one draw"})
dots = {"x": times.flatten().tolist(), "y": pool.flatten().tolist()}
figure.add_scatter(**dots, mode="markers", name="one draw", marker_color="teal")
figure.add_hline(y=bound, line_dash="dash", annotation_text=f"mean: {bound:.1f}")
show(figure)

# %% [markdown]
# One draw says little: look how far the dots are from their mean. There are two reasons. Dots at *different* times
# differ: at large *t* nearly everything is hidden, and the model must guess. And dots at *one* time differ, because it
# matters *which* tokens are hidden: one visible name predicts the others.
#
# Now we estimate the bound many times, from 1, 4, 16 and 64 of these draws. **Independent** times may fall anywhere.
# **Stratified** times fall one into each equal part of the time axis, as in training.


# %%
def choose(count, stratified, repeats=5000):
    """`count` draws from the pool for each of `repeats` estimates, (repeats, count)."""
    if stratified:
        part = SLICES // count
        chosen = torch.arange(count) * part + torch.randint(part, (repeats, count))
    else:
        chosen = torch.randint(SLICES, (repeats, count))
    return pool[chosen, torch.randint(EACH, (repeats, count))]


sizes = [1, 4, 8] if QUICK else [1, 4, 16, 64]
figure = go.Figure(
    layout={"xaxis_title": "draws", "yaxis_title": "standard deviation of the estimate, nats"}
)
spread = {}
for name, stratified in (("independent", False), ("stratified", True)):
    spread[name] = [choose(size, stratified).mean(1).std().item() for size in sizes]
    figure.add_scatter(x=sizes, y=spread[name], name=name, mode="lines+markers")
figure.update_layout(xaxis_type="log", yaxis_type="log")
show(figure)
for size, free, spaced in zip(sizes, *spread.values()):
    saved = (free / spaced) ** 2
    print(
        f"{size:3} draws: ± {free:5.1f} independent, ± {spaced:5.1f} stratified: worth {saved:.1f} times the draws"
    )

# %% [markdown]
# Both axes are logarithmic. Independent draws follow a straight line: four times as many draws halve the spread.
# Stratified draws do better at no extra cost: the first reason for the spread, the trend over *t*, is gone. The second
# remains.
#
# An estimate is worth little without its **interval**. The usual one is mean ± 1.96 *s*/√*n*, where *s* is the standard
# deviation of the *n* draws. It should contain the truth 95 times out of 100.
#
# ### Exercise 1: an interval
#
# *Must · easy · 4 minutes*
#
# Write it. The rest of this lesson puts it beside its numbers.
#
# <details><summary>Hint 1: the idea</summary>The spread of a mean is smaller than that of the values: by the square
# root of their number.</details>
# <details><summary>Hint 2: the shape</summary>Three numbers: the mean, the mean minus half the width, the mean plus
# half the width.</details>
# <details><summary>Hint 3: the code</summary>Half the width is <code>1.96 * values.std() / len(values) ** 0.5</code>.
# <code>.item()</code> makes a number of a tensor.</details>


# %% tags=["exercise"]
def my_interval(values):
    """values (n,), a tensor. Returns three numbers: the mean, and the ends of its 95 % interval."""
    return None  # your lines here


# %% tags=["solution"]
def my_interval(values):
    """values (n,), a tensor. Returns three numbers: the mean, and the ends of its 95 % interval."""
    mean, error = values.mean().item(), values.std().item() / len(values) ** 0.5
    return mean, mean - 1.96 * error, mean + 1.96 * error


# %%
check.interval(my_interval)

# %%
interval_of = use(check.interval, my_interval)
for size in sizes[1:]:
    mean, low, high = interval_of(choose(size, False, repeats=1)[0])
    inside = "contains" if low <= bound <= high else "misses"
    print(
        f"{size:3} draws: {mean:6.1f}, from {low:6.1f} to {high:6.1f}: {inside} the bound, {bound:.1f}"
    )

# %% [markdown]
# **Predict, then run.** How often does it with *n* = 4 independent draws?
#
# - **A** · 95 times out of 100, as it should
# - **B** · clearly less, between 70 and 93
# - **C** · less than 70

# %%
guess_1 = predict("A", "B", "C", name="07.1")
guess_1

# %%
from diffuapriel.evaluation.interval import student_quantile


def coverage(draws, factor):
    """How often mean ± factor * s / sqrt(n) contains the truth; draws (repeats, n)."""
    half = factor * draws.std(1) / math.sqrt(draws.shape[1])
    return ((draws.mean(1) - bound).abs() <= half).double().mean().item()


def coverage_of_yours(draws):
    """The same for your interval."""
    ends = [interval_of(row)[1:] for row in draws]
    return sum(low <= bound <= high for low, high in ends) / len(ends)


print("draws   independent   Student   stratified")
for size in sizes[1:]:
    usual = coverage_of_yours(choose(size, False, repeats=2000))
    student = coverage(choose(size, False), student_quantile(size - 1))
    spaced = coverage(choose(size, True), 1.96)
    print(f"{size:5}   {usual:11.0%}   {student:7.0%}   {spaced:10.0%}")
found = coverage_of_yours(choose(4, False, repeats=2000))
guess_1.reveal("A" if found >= 0.93 else "B" if found >= 0.7 else "C", f"Here it was {found:.0%}.")

# %% [markdown]
# Four draws cannot estimate their own spread well: they mostly miss a rare high dot, and then the interval is too
# narrow. *Student's* factor, which is larger for small *n*, repairs part of this. For stratified draws the usual
# interval is on the safe side: it counts the trend over *t* as chance, although stratifying has removed it.
#
# With *many* texts it is simpler. Each text gets a few draws, and the interval is computed over the texts. This is what
# `evaluate_nelbo` does in section 3.

# %% [markdown]
# ## 2. The bound and the truth
#
# The NELBO is an upper bound on the true cost, −log P(text). How far off is it? For real models nobody knows. So we
# build a world small enough to count everything: texts of three tokens, each of them `a` or `b`, eight texts in all.
#
# The toy model is a table. For each row of three symbols (`a`, `b` or a mask) it has probabilities for each position.
# We fill it with random numbers, so it is as inconsistent as an untrained network.

# %%
TOY_MASK = 2  # a is 0, b is 1
texts = list(itertools.product((0, 1), repeat=3))
orders = list(itertools.permutations(range(3)))  # six orders of writing
names = ["".join("ab"[token] for token in text) for text in texts]
noise = torch.randn(3, 3, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
table = 1.5 * noise  # logits: [3 symbols][position][token]


def cost_in_order(table, text, order):
    """Nats of writing `text` token by token in this order."""
    signs, cost = [TOY_MASK] * 3, 0.0
    for position in order:
        log_p = table[tuple(signs)][position, :2].log_softmax(-1)
        cost -= log_p[text[position]].item()
        signs[position] = text[position]
    return cost


by_order = [[cost_in_order(table, x, order) for order in orders] for x in texts]
by_order = torch.tensor(by_order, dtype=torch.float64)  # (texts, orders)
print("text  " + "  ".join("".join(str(i + 1) for i in order) for order in orders))
for name, costs in zip(names, by_order):
    print(name, "", "  ".join(f"{cost:.2f}"[:4] for cost in costs.tolist()))

# %% [markdown]
# Each column is an order of writing: 213 fills the second position first. The same text has different costs in
# different orders, because the model's answers do not agree with each other. If the order is drawn at random, then
#
# - the **true probability** of a text is the *mean of its probabilities* over the six orders;
# - the **NELBO** is the *mean of its costs* over the six orders.
#
# **Predict, then run.** The true probabilities of all eight texts sum to 1. Suppose somebody uses exp(−NELBO) as the
# probability of a text. What is the sum over all eight texts?
#
# - **A** · 1 as well
# - **B** · less than 1
# - **C** · more than 1

# %%
guess_2 = predict("A", "B", "C", name="07.2")
guess_2

# %%
probabilities = (-by_order).exp()  # (texts, orders)
truth = -probabilities.mean(1).log()
bounds = by_order.mean(1)
print(f"true probabilities sum to {truth.neg().exp().sum():.6f}")
print(f"exp(-NELBO) sums to       {bounds.neg().exp().sum():.6f}")
assert bool((bounds >= truth).all())

figure = go.Figure(layout={"yaxis_title": "nats", "barmode": "group"})
figure.add_bar(x=names, y=truth.tolist(), name="true cost")
figure.add_bar(x=names, y=bounds.tolist(), name="NELBO")
show(figure)
guess_2.reveal()

# %% [markdown]
# The mean of the logarithms is never above the logarithm of the mean (Jensen's inequality). That is why the bound is a
# bound, and it is looser the more the orders disagree.
#
# Is this the NELBO of lesson 01, with *t* and 1/*t*? Let us estimate that with the package's function. It is made for
# training: to keep 1/*t* and the noise level finite, it draws no *t* below 0.001, and hides a token with probability
# 0.999 at most. As a measurement that is a little too low, because a thousandth at each end is never charged. So
# `evaluate_nelbo` draws the **number** *l* of hidden tokens instead, 1 to *L* equally often, with the weight *L*/*l*.
# Nothing is left out. Here are both.

# %%
from diffuapriel.diffusion.objective import stratified_t
from diffuapriel.evaluation.masks import draw_masks, masked_nats


def toy(ids, sigma, positions):
    """The table as a model: logits at the given positions."""
    return table[ids[:, 0], ids[:, 1], ids[:, 2]][positions]


draws = 2_000 if QUICK else 40_000
for name, text, exact in zip(names, texts, bounds.tolist()):
    ids = torch.tensor(text).expand(draws, 3)
    (hidden,) = draw_masks(3, draws, generator)
    by_counts = 3 / hidden.sum(1) * masked_nats(toy, ids, hidden, TOY_MASK)
    t = stratified_t(draws, generator)
    by_times = nelbo(toy, ids, schedule, TOY_MASK, t=t, generator=generator).nats
    errors = [nats.std().item() / math.sqrt(draws) for nats in (by_counts, by_times)]
    drawn = (by_counts.mean(), errors[0], by_times.mean(), errors[1])
    print("{}  by counts {:.3f} ± {:.3f}   by times {:.3f} ± {:.3f}".format(name, *drawn), end="")
    print(f"   by orders {exact:.3f}")
    assert abs(by_counts.mean() - exact) < 5 * errors[0]
    # What the times leave out: each token hidden alone at one end, all of them at the other.
    alone = masked_nats(toy, ids[:3], torch.eye(3, dtype=torch.bool), TOY_MASK).sum()
    blank = masked_nats(toy, ids[:1], torch.ones(1, 3, dtype=torch.bool), TOY_MASK).sum()
    truncated = exact - 0.001 * (alone + blank - exact)
    assert abs(by_times.mean() - truncated) < 5 * errors[1]

# %% [markdown]
# They agree; the missing thousandths are too small to show here. When is the bound exact? When the model's answers come
# from **one** distribution over whole texts. Then every order gives the same product. We build such a table from eight
# random probabilities and look at the spread over orders.

# %%
joint = torch.rand(2, 2, 2, dtype=torch.float64, generator=generator)
joint = joint / joint.sum()
agreeing = torch.zeros_like(table)
for signs in itertools.product((0, 1, TOY_MASK), repeat=3):
    fits = joint[tuple(slice(None) if s == TOY_MASK else slice(s, s + 1) for s in signs)]
    for position in range(3):
        rest = tuple(axis for axis in range(3) if axis != position)
        if signs[position] == TOY_MASK:
            agreeing[signs][position, :2] = fits.sum(rest).log()
same = [[cost_in_order(agreeing, x, order) for order in orders] for x in texts]
same = torch.tensor(same, dtype=torch.float64)
print(f"largest difference between two orders: {(same.amax(1) - same.amin(1)).max():.1e} nats")
torch.testing.assert_close(same.mean(1), -joint.flatten().log())

# %% [markdown]
# ## 3. How much is the model's error?
#
# ![A bar in three parts: entropy, the model's error, looseness](diagrams/nelbo.svg)
#
# A number such as "0.5 nats/token" means nothing by itself: part of it is chance that no model can predict. For tales
# that part is known. The grammar gives `tales.log_prob`, the exact log-probability of a story. So we know the smallest
# possible cost of **these very stories**, their **entropy** for short. What the model pays above it is the **excess**:
# the model's own error plus the looseness of the bound.
#
# `evaluate_nelbo` scores rows of stories that no model was trained on (it calls a row a *sequence*). Both models get
# the same rows and the same masks, so we can compare them row by row.

# %%
from diffuapriel.data.tales import TalesCorpus
from diffuapriel.evaluation import NelboEstimate, evaluate_nelbo

corpus = TalesCorpus(tokenizer, level=3)
num_sequences = 4 if QUICK else 48
results = {}
for name, its_model in (("tales-diffuapriel", model), ("tales-diffutran", other_model)):
    with tqdm(total=num_sequences, desc=name) as bar:
        results[name] = evaluate_nelbo(
            its_model,
            corpus,
            length=LENGTH,
            num_sequences=num_sequences,
            num_mc_samples=2 if QUICK else 4,
            on_batch=lambda done: bar.update(done - bar.n),
        )
    print(f"{name}\n{results[name].table()}\n")

# %% [markdown]
# Does the interval of an excess contain 0? Then these few rows cannot tell that model from a perfect one. And if the
# intervals of the two models overlap, do not name a winner before you have compared them row by row (lesson 04). The
# noise from the masks (section 1) is as large as the effect we want to see. The remedy is more rows and more draws.
# This was done on a GPU, and the checkpoints store the result:

# %%
from diffuapriel.checkpoint import inspect_checkpoint

for name in results:
    stored = NelboEstimate.from_dict(inspect_checkpoint(name).extra["evaluation"])
    low, high = stored.excess_nelbo_ci95
    print(
        f"{name:18} excess {stored.excess_nelbo:.4f} [{low:.4f}, {high:.4f}], "
        f"{stored.num_sequences:,} rows, {stored.num_mc_samples} draws each"
    )

# %% [markdown]
# Now the intervals are narrow. If one does not contain 0, the model is not perfect: more training or a larger model may
# gain that much, and no more. No model can get below the entropy.

# %% [markdown]
# ## 4. Nats, bits, perplexity, and xz
#
# Four units measure the same thing. A **nat** is the unit of the natural logarithm. A **bit** is log 2 = 0.693 nats,
# the cost of a fair coin. **Perplexity** is exp(nats/token): the model is as unsure as if it chose among that many
# equally likely tokens. It depends on how the text was cut into tokens, so it cannot compare two models with different
# tokenizers. **Bits per byte** can: the cost of the whole text in bits, divided by its number of bytes.
#
# ### Exercise 2: units
#
# *Must · easy · 4 minutes*
#
# You are given the nats per token that a text costs a model, its number of tokens and its number of bytes. Return its
# perplexity and its bits per byte.
#
# <details><summary>Hint 1: the idea</summary>For bits per byte, first find the nats of the whole text. Then change the
# unit, then divide among all bytes.</details>
# <details><summary>Hint 2: the shape</summary>Two numbers. A fair coin costs 0.693 nats, which is one bit: a text has
# more bits than nats.</details>
# <details><summary>Hint 3: the code</summary><code>nats_per_token * tokens / math.log(2)</code> are the bits of the
# text; perplexity is <code>math.exp(nats_per_token)</code>.</details>


# %% tags=["exercise"]
def units(nats_per_token, tokens, byte_count):
    """(perplexity, bits per byte) of a text with this many tokens and bytes."""
    return None  # your lines here


# %% tags=["solution"]
def units(nats_per_token, tokens, byte_count):
    """(perplexity, bits per byte) of a text with this many tokens and bytes."""
    bits = nats_per_token * tokens / math.log(2)
    return math.exp(nats_per_token), bits / byte_count


# %%
check.units(units)

# %% [markdown]
# A model that predicts well compresses well: arithmetic coding can store a text that costs *n* bits in about *n* bits.
# So we can compare a model with a file compressor. `lzma` is the library behind `xz`, one of the strongest compressors
# in daily use. It starts without any knowledge and learns from the file, so it is better on long files. We give it more
# and more tales.

# %%
rng = random.Random(0)
many = [draw_story(rng) for _ in range(100 if QUICK else 5_000)]
compressed = {}
for count in (10, 100, 1_000, 5_000):
    data = "\n".join(many[:count]).encode()
    packed = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    compressed[f"xz, {len(data) / 1000:,.0f} kB"] = 8 * len(packed) / len(data)

best = results["tales-diffuapriel"]
lowest = best.bits_per_byte * best.entropy / best.nats_per_token
models = {name.removeprefix("tales-"): result.bits_per_byte for name, result in results.items()}
bits = compressed | models | {"entropy": lowest}
figure = go.Figure(layout={"yaxis_title": "bits per byte", "height": 420})
figure.add_bar(x=list(bits), y=list(bits.values()))
show(figure)
for name, value in bits.items():
    print(f"{name:14} {value:.3f} bits per byte")

# %% [markdown]
# Is the comparison fair? The model has seen far more tales than these, and its own size is not counted. Anyone who
# wants to decompress the text must have it:

# %%
size = inspect_checkpoint("tales-diffuapriel").bytes
saved = (min(compressed.values()) - bits["diffuapriel"]) / 8  # bytes, for each byte of text
print(f"The model's file has {size:,} bytes.")
if saved > 0:
    print(
        f"Compared with the best of xz, it pays off above {size / saved / 1e6:.0f} million bytes of tales."
    )

# %% [markdown]
# And it knows nothing but tales. Here are both on something else: Python source code, from the validation split of the
# standard library on this machine. Uncompressed text has 8 bits per byte.

# %%
from diffuapriel.data.stdlib import stdlib_corpus

python = stdlib_corpus(tokenizer)
rows = python.batch(0, split="validation", batch_size=2 if QUICK else 16, length=LENGTH, seed=0)
code = "".join(tokenizer.decode(ids) for ids in rows.tolist()).encode()


@torch.no_grad()
def nats_of(model, rows, draws=1):
    """The NELBO of each row in nats, (rows,), by counts, from `draws` sets of hidden tokens each."""
    sets = draw_masks(LENGTH, draws, generator, rows=len(rows)).unbind(1)
    scores = [LENGTH / hidden.sum(1) * masked_nats(model, rows, hidden, MASK) for hidden in sets]
    return torch.stack(scores).mean(0)


nats = nats_of(model, rows).sum().item()
packed = lzma.compress(code, preset=9 | lzma.PRESET_EXTREME)
print(f"{len(code):,} bytes of Python")
print(f"xz                 {8 * len(packed) / len(code):6.2f} bits per byte")
perplexity, bits_per_byte = use(check.units, units)(nats / rows.numel(), rows.numel(), len(code))
print(f"tales-diffuapriel  {bits_per_byte:6.2f} bits per byte, perplexity {perplexity:,.0f}")

# %% [markdown]
# A bound near the entropy for one kind of text says nothing about another kind.

# %% [markdown]
# ## 5. Which ending is likelier?
#
# Models are often tested with multiple choice: which of two endings does the model find likelier? This needs no
# training, so it is called *zero-shot*. The text before the ending, the *prompt*, stays visible; only the ending is
# scored. LLaDA's rule: let *L* be the number of tokens of the ending. Draw a number *l* from 1 to *L* and hide exactly
# *l* of them. Their costs, times *L*/*l*, estimate the cost of the ending. Then average over several draws.
#
# ### Exercise 3: the cost of an ending
#
# *Must · medium · 6 minutes*
#
# You are given the costs −log p of all *L* tokens in each draw, and which tokens were hidden. Only hidden tokens count.
#
# <details><summary>Hint 1: the idea</summary>First compute one number for each draw (each row). If 2 of 6 tokens were
# hidden and cost 3 nats together, what would all 6 cost? The mean over rows comes last.</details>
# <details><summary>Hint 2: the shape</summary><code>torch.where(hidden, costs, 0).sum(1)</code> adds up each row,
# (draws,). <code>hidden.sum(1)</code> is its <i>l</i>, and <code>costs.shape[1]</code> is <i>L</i>.</details>
# <details><summary>Hint 3: the code</summary>The sum of each row, times <code>costs.shape[1] / hidden.sum(1)</code>,
# and then <code>.mean()</code>.</details>


# %% tags=["exercise"]
def ending_nats(costs, hidden):
    """costs (draws, L), hidden (draws, L) bool. Returns the nats of the whole ending, a number."""
    return None  # your lines here


# %% tags=["solution"]
def ending_nats(costs, hidden):
    """costs (draws, L), hidden (draws, L) bool. Returns the nats of the whole ending, a number."""
    by_draw = torch.where(hidden, costs, 0).sum(1) * costs.shape[1] / hidden.sum(1)
    return by_draw.mean()


# %%
check.ending_nats(ending_nats)

# %% [markdown]
# Now the questions. We take the last sentence of a true story and change **one** color or name in it, so that it is
# still a sentence but no longer fits the story. The grammar verifies that it is grammatical but not consistent.

# %%
from diffuapriel.tales.lexicon import COLORS, PEOPLE


def two_endings(rng):
    """(prompt, right ending, wrong ending); both endings have the same number of tokens."""
    while True:
        story = draw_story(rng)
        cut = [m.start(1) for m in re.finditer(r'[.!?]"?( )["A-Z]', story)][-1]
        prompt, right = story[:cut], story[cut:]
        for word in re.findall(r"\w+", right):
            kind = COLORS if word in COLORS else PEOPLE if word in PEOPLE else ()
            known = [w for w in kind if w != word and re.search(rf"\b{w}\b", prompt)]
            for instead in known or rng.sample(kind, min(3, len(kind))):
                wrong = re.sub(rf"\b{word}\b", instead, right, count=1)
                found = tales.check(prompt + wrong, 3)
                broken = found.grammatical and not found.consistent
                if broken and len(tokenizer.encode(wrong)) == len(tokenizer.encode(right)):
                    return prompt, right, wrong


rng = random.Random(0)
questions = [two_endings(rng) for _ in range(3 if QUICK else 50)]
for prompt, right, wrong in questions[:3]:
    print(f"{prompt}\n   right: {right}\n   wrong: {wrong}\n")

# %% [markdown]
# Both endings get the **same** masks, so most of the chance cancels in the comparison. The draws of *l* are stratified,
# one in each quarter of 1 to *L*.


# %%
def draw_hidden(length, draws, generator):
    """(draws, length) bool: l hidden tokens per row, l stratified over 1 to length."""
    uniform = (torch.arange(draws) + torch.rand(draws, generator=generator)) / draws
    l = 1 + (uniform * length).long()
    ranks = torch.rand(draws, length, generator=generator).argsort(1).argsort(1)
    return ranks < l[:, None]


@torch.no_grad()
def costs_of_ending(model, prompt, ending, hidden):
    """-log p of each hidden token of the ending, 0 for the others, (draws, L)."""
    begin, target = len(tokenizer.encode(prompt)), torch.tensor(tokenizer.encode(ending))
    rows = row_of(prompt + ending).repeat(len(hidden), 1)
    positions = torch.zeros(rows.shape, dtype=torch.bool)
    positions[:, begin : begin + len(target)] = hidden
    rows[positions] = MASK
    sigma = -torch.log(1 - positions.float().mean(1))
    log_p = model(rows, sigma, positions)[:, :MASK].log_softmax(-1)
    wanted = target.expand(hidden.shape)[hidden]
    return torch.zeros(hidden.shape).masked_scatter(
        hidden, F.nll_loss(log_p, wanted, reduction="none")
    )


# %%
from diffuapriel.evaluation.interval import wilson_interval

ending_of, NUM_MC_SAMPLES, points, mistakes = use(check.ending_nats, ending_nats), 4, [], []


def point(good, bad):
    """1 if the right ending is cheaper, 0 if the wrong one is, and one half for a tie."""
    return 1.0 if good < bad else 0.5 if good == bad else 0.0


alone = []  # the points if each draw decided by itself
for prompt, right, wrong in tqdm(questions):
    hidden = draw_hidden(len(tokenizer.encode(right)), NUM_MC_SAMPLES, generator)
    costs = [costs_of_ending(model, prompt, ending, hidden) for ending in (right, wrong)]
    good, bad = (float(ending_of(cost, hidden)) for cost in costs)
    points.append(point(good, bad))
    for i in range(NUM_MC_SAMPLES):
        alone.append(
            point(*(float(ending_of(cost[i : i + 1], hidden[i : i + 1])) for cost in costs))
        )
    if good > bad:
        mistakes.append((prompt, right, wrong, good, bad))

low, high = wilson_interval(sum(points), len(points))
print(f"{sum(points):g} of {len(points)} right: {sum(points) / len(points):.0%}", end=" ")
print(f"[{low:.0%}, {high:.0%}]; a coin flip has 50%")
print(
    f"{points.count(0.5)} ties, one half each; with one draw instead of {NUM_MC_SAMPLES}:", end=" "
)
print(f"{sum(alone) / len(alone):.0%} right, {alone.count(0.5) / len(alone):.0%} ties")
for prompt, right, wrong, good, bad in mistakes[:2]:
    print(f"\n{prompt}\n   right, {good:.1f} nats: {right}\n   wrong, {bad:.1f} nats: {wrong}")

# %% [markdown]
# The interval (Wilson's) is wide: fifty questions cannot tell 90 % from 95 %. That is why benchmarks have thousands of
# questions. A tie is a draw in which the changed word, and the words that contradict it, were never hidden: it counts
# as one half. One draw decides worse than four, as the last line says: which tokens are hidden is a matter of luck.
#
# *Where* does a wrong ending cost more? `score_text` hides many sets of tokens and returns for each token its mean
# cost, called its *surprisal*. Red is surprisal, in nats.

# %%
from IPython.display import HTML, display

from diffuapriel.evaluation.surprisal import score_text


def in_colors(text, rounds):
    """Show the text, redder where the surprisal is higher."""
    ids = tokenizer.encode(text)
    filled = row_of(text).tolist()
    *_, score = score_text(model, filled, MASK, filling=LENGTH - len(ids), rounds=rounds)
    spans = [
        f'<span title="{nats:.2f} nats" style="background:rgba(220,50,40,{min(0.85, nats / 6):.2f})">'
        f"{html.escape(token)}</span>"
        for token, nats in zip(tokenizer.token_strings(ids), score.surprisal)
        if nats is not None
    ]
    body = f"{''.join(spans)} &nbsp; <b>{score.nats:.1f} nats</b>"
    display(HTML(f'<p style="line-height:1.9">{body}</p>'))


prompt, right, wrong = questions[1]
for ending in (right, wrong):
    in_colors(prompt + ending, rounds=1 if QUICK else 3)

# %% [markdown]
# In the first text the red is pale, and spread over the open choices of a story: names, colors, things, places. If a
# word occurs several times, each mention costs only a little, because any visible mention reveals the others. In the
# second text the word that does not fit stands out. Look also at the words *before* it that it contradicts: they are
# redder than above. A model that reads in both directions cannot know which of the two is the mistake. Point at a token
# to see its surprisal.

# %% [markdown]
# ## 6. Measures that mislead
#
# Now we let models write. How good are their texts? A common measure is **generative perplexity**: another model, the
# *judge*, scores the samples. If the judge finds them likely, they are good. Or are they?
#
# Our judge is the Mamba model. A third model writes, the hybrid `tales-diffuapriel-h`: 24 stories each at
# temperature 1 and 0.5. It writes in blocks of 16 tokens from left to right, and in each block it fills the surest
# tokens first. First watch it write at temperature 0, where it always takes the best token.

# %%
from diffuapriel import Canvas, Sampler, SamplerConfig, generate
from diffuapriel.trace.player.widget import Player

STEPS, STORIES = (2, 3) if QUICK else (LENGTH // 2, 24)
hybrid, _ = load_checkpoint("tales-diffuapriel-h")


def writer(temperature):
    """A sampler that fills block after block, the surest positions first."""
    config = SamplerConfig(steps=STEPS, temperature=temperature, top_p=0.9, block_length=16)
    return Sampler(config, schedule, MASK)


blank = Canvas.masks(LENGTH, tokenizer)
trace = Player().record(writer(0), hybrid, blank, tokenizer, model="tales-diffuapriel-h")

# %% [markdown]
# Two more writers compete. The *true* writer takes stories from the grammar as they come. The *dull* writer looks
# through 2,000 true stories and submits only the 24 that are the least surprising per token.
#
# **Predict, then run.** Which one gets the best (lowest) generative perplexity?
#
# - **A** · the true writer: nothing can be better than the truth
# - **B** · the hybrid at temperature 0.5
# - **C** · the dull writer
# - **D** · the best two cannot be told apart: their 95 % intervals overlap

# %%
guess_3 = predict("A", "B", "C", "D", name="07.3")
guess_3

# %%
pool_size = 20 if QUICK else 2_000
pool_of_stories = many[:pool_size]
dullness = {
    text: -tales.log_prob(text, 3) / len(tokenizer.encode(text)) for text in pool_of_stories
}
dull = sorted(dullness, key=dullness.get)[:STORIES]
table = {
    "true": torch.stack([row_of(text) for text in many[:STORIES]]),
    "dull": torch.stack([row_of(text) for text in dull]),
}
from diffuapriel.evaluation.interval import ratio_interval

for temperature in tqdm([1.0, 0.5]):
    masks = torch.full((STORIES, LENGTH), MASK)
    table[f"T = {temperature}"] = generate(writer(temperature), hybrid, masks)
table["T = 0"] = torch.tensor(trace.final).expand(STORIES, -1)  # nothing is random: all alike
table["one for all"] = table["true"][:1].expand(STORIES, -1)  # one true story, again and again


# %%
def pieces_of(row):
    """The tokens of a row without the end-of-text tokens at its end."""
    ids = row.tolist()
    while ids and ids[-1] == EOS:
        ids.pop()
    return ids


def judged(rows, draws=1 if QUICK else 4):
    """Generative perplexity: exp(nats/token) according to the judge, and its interval."""
    tokens = torch.tensor([len(pieces_of(row)) + 1.0 for row in rows])  # with one end of text
    ratio, ends = ratio_interval(nats_of(model, rows, draws), tokens)
    return math.exp(ratio), tuple(math.exp(end) for end in ends)


perplexity = {name: judged(rows) for name, rows in tqdm(table.items())}
letters = {"true": "A", "T = 0.5": "B", "dull": "C"}
figure = go.Figure(layout={"yaxis_title": "generative perplexity"})
values, ends = [value for value, _ in perplexity.values()], [end for _, end in perplexity.values()]
figure.add_bar(x=list(perplexity), y=values, error_y=error_bars(values, ends))
show(figure)
for name, (value, (low, high)) in perplexity.items():
    print(f"{name:12} generative perplexity {value:.2f}, from {low:.2f} to {high:.2f}")
first, second = sorted(letters, key=lambda name: perplexity[name][0])[:2]
apart = perplexity[first][1][1] < perplexity[second][1][0]
guess_3.reveal(letters[first] if apart else "D", f"The lowest two here: {first}, then {second}.")

# %%
for text in dull[:3]:
    print(text, "\n")

# %% [markdown]
# Each of the dull stories is faultless, but they all tell nearly the same. At a low temperature a model does the same
# without being told to. Look at the intervals before you rank two writers. ("T = 0" and "one for all" repeat one story,
# so their intervals only show the judge's own chance.) A sample that scores *better than the truth* is a warning, not a
# success. Real text contains surprises: that is its entropy. Text that avoids them pleases every judge. So we must
# measure variety as well.
#
# ### Exercise 4: distinct-n
#
# *Must · easy · 5 minutes*
#
# An *n-gram* is a sequence of *n* consecutive tokens. **Distinct-n** is the number of *different* n-grams in all texts,
# divided by the number of all n-grams. No n-gram crosses the end of a text.
#
# <details><summary>Hint 1: the idea</summary>List all n-grams of all rows, then count the different ones. A
# <code>set</code> keeps each only once.</details>
# <details><summary>Hint 2: the shape</summary>A row of 5 tokens has 4 pairs: they start at positions 0, 1, 2, 3. In
# general <code>range(len(row) - n + 1)</code>.</details>
# <details><summary>Hint 3: the code</summary>Lists cannot be in a set, tuples can: <code>tuple(row[i : i + n])</code>,
# for every i and every row.</details>


# %% tags=["exercise"]
def distinct(rows, n):
    """rows: lists of tokens. Returns the number of different n-grams / all n-grams."""
    return None  # your lines here


# %% tags=["solution"]
def distinct(rows, n):
    """rows: lists of tokens. Returns the number of different n-grams / all n-grams."""
    grams = [tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams)


# %%
check.distinct(distinct)

# %%
from diffuapriel.evaluation.samples import unigram_entropy

variety_of = use(check.distinct, distinct)
print("            perplexity  grammatical  distinct-2  entropy")
for name, rows in table.items():
    pieces = [pieces_of(row) for row in rows]
    texts = [tokenizer.decode(ids) for ids in pieces]
    grammatical = sum(tales.check(text, 3).grammatical for text in texts) / len(texts)
    variety = variety_of(pieces, 2) if any(len(ids) > 1 for ids in pieces) else 0.0
    entropy = unigram_entropy(token for ids in pieces for token in ids) if any(pieces) else 0.0
    print(
        f"{name:12}{perplexity[name][0]:10.2f}  {grammatical:11.0%}  {variety:10.2f}  {entropy:7.2f}"
    )
print("\nAt temperature 0:", tokenizer.decode(pieces_of(table["T = 0"][0])))

# %% [markdown]
# Read the last line of the table: the same true story again and again. By perplexity and grammar, this is a perfect
# writer. Only the measures of variety reveal it: distinct-2, and the entropy of single tokens in nats. Variety alone is
# no better: a writer that makes mistakes scores well there. **Each measure sees one side. It is easy to build a writer
# that is good on one side only.**
#
# For tales we can do even better. `tales.log_prob` is the exact log-probability of a story: on average, a good writer's
# stories cost as much as the grammar's entropy. Not more, and *not less*. With your interval, we can say which writers
# are told apart from it.

# %%
entropy = tales.entropy(3)
for name in ("true", "dull", "T = 1.0", "T = 0.5"):
    costs = [-tales.log_prob(tokenizer.decode(pieces_of(row)), 3) for row in table[name]]
    correct = torch.tensor([cost for cost in costs if cost < math.inf])
    print(f"{name:12} {len(correct)} of {len(costs)} correct", end="")
    if len(correct) > 1:
        mean, low, high = interval_of(correct)
        side = "below" if high < entropy else "above" if low > entropy else "not told apart from"
        print(
            f"; exact cost {mean:.1f} nats, from {low:.1f} to {high:.1f}: {side} the entropy",
            end="",
        )
    print()
print(f"the grammar's entropy: {entropy:.1f} nats per story")

# %%
score()

# %% [markdown]
# ## What you learned
#
# - A NELBO is an **estimate**: say how many draws it used, stratify them, and give the interval.
# - It is a **bound**: the mean cost over orders is never below the cost of the mean probability. It is exact for a
#   model that agrees with itself.
# - Nats, bits and perplexity measure the same thing; only **bits per byte** compares across tokenizers. Know the
#   entropy if you can.
# - An accuracy without its **interval** says little. Using the same masks for both answers removes chance from the
#   comparison.
# - **Generative perplexity rewards dullness.** Always report variety beside it.
#
# ## Going further
#
# - Tighten the bound: take the mean of exp(−cost) over *several* orders of a toy text. How many of the six are enough?
# - Repeat section 5 with `tales-diffutran` and the same masks. Is one model better? In how many pairs do they differ?
# - Write the dullest text you can think of, and let the judge score it. How low can generative perplexity become?
#
# **Papers.** The bound for masked diffusion: MDLM, [arXiv:2406.07524](https://arxiv.org/abs/2406.07524), and over
# orders, [arXiv:2406.03736](https://arxiv.org/abs/2406.03736). Zero-shot likelihood: LLaDA,
# [arXiv:2502.09992](https://arxiv.org/abs/2502.09992). Why to report entropy beside perplexity:
# [arXiv:2409.02908](https://arxiv.org/abs/2409.02908). Distinct-n:
# [arXiv:1510.03055](https://arxiv.org/abs/1510.03055).
