# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · Against GPT
#
# Is a diffusion model better than GPT? Everybody asks, and the answer is not one word. In this lesson a diffusion model
# meets twins that write from left to right: the same stories, the same number of steps, nearly the same parameters. You
# measure four things: how well they predict, how they fill a hole, how many calls they need, and what they do with a
# text that is too small.
#
# **You will be able to**
#
# - make an autoregressive twin of a diffusion model, and check that it never looks ahead;
# - compare two models on the same texts, with a paired interval;
# - let a left-to-right model fill a hole, by Bayes, and say what that costs;
# - say in which of the four each kind of model is ahead.
#
# **You need** lesson 01 for the loss. Lesson 09 explains the blocks that this one uses.
#
# | part | minutes |
# |---|---|
# | 1. A twin that never looks ahead | 12 |
# | 2. Training all three | 8 |
# | 3. Who predicts better? | 12 |
# | 4. A hole with text on both sides | 12 |
# | 5. Calls per story | 8 |
# | 6. The same few stories again | 10 |
#
# {{measured}}
#
# Now and then you are asked to **predict, then run**. Three **exercises** check your answer. Later cells run *your*
# functions; where one is not right yet, they run the package's and say so.

# %% [markdown]
# The next cell only prepares things. Run it.

# %%
import random

import plotly.graph_objects as go
import torch
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
from diffuapriel.diffusion.blocks import block_nelbo
from diffuapriel.evaluation.interval import wilson_interval
from diffuapriel.lessons import QUICK, check, predict, prepare, score, show, use
from diffuapriel.tales import language as tales

prepare()
tokenizer = get_tokenizer("tales-words")
EOS, MASK, LENGTH = tokenizer.eos_id, tokenizer.mask_id, 12

# %% [markdown]
# The stories are those of [lesson 09](09_blocks.ipynb): tales of one sentence, in rows of 12 whole words. 400 of them
# are kept for measuring. The grammar knows the exact cost of each.


# %%
def draw_stories(rows, rng):
    """New one-sentence stories as a table of token ids, (rows, LENGTH)."""
    table = [tokenizer.encode(tales.generate(1, rng)) for _ in range(rows)]
    return torch.tensor([ids + [EOS] * (LENGTH - len(ids)) for ids in table])


def text_of(row):
    """The text before the first end-of-text token."""
    row = row.tolist()
    return tokenizer.decode(row[: row.index(EOS)] if EOS in row else row)


held_out = draw_stories(8 if QUICK else 400, random.Random(99))
exact = torch.tensor([-tales.log_prob(text_of(row), 1) for row in held_out])

# %% [markdown]
# ## 1. A twin that never looks ahead
#
# ![A GPT reads what is left of a token, a diffusion model reads both sides](diagrams/gpt.svg)
#
# GPT multiplies the probabilities of single tokens, each given those before it:
#
# $$-\log p(x) = \sum_i -\log p(x_i \mid x_1, \dots, x_{i-1})$$
#
# A model of blocks (lesson 09) with blocks of **one** token does exactly this. Its forward scan carries the past, and
# its reverse scan sees one token, the masked one. So the twin is the same class with another block length, and the
# comparison is about the objective and nothing else. A third model has attention in place of Mamba: a small GPT.


# %%
def new_model(architecture, block_length):
    """A small model that is trained with this block length; LENGTH is a diffusion model."""
    torch.manual_seed(0)
    shape = {"d_model": 128, "depth": 2, "expand": 1, "d_state": 32, "headdim": 64}
    options = {
        "tokenizer": "tales-words",
        "time_conditioning": False,
        "block_lengths": (block_length,),
    }
    return Denoiser(preset("nano", architecture, **shape, **options))


models = {
    "diffusion": new_model("diffuapriel", LENGTH),
    "left to right, Mamba": new_model("diffuapriel", 1),
    "left to right, attention": new_model("diffutran", 1),
}
for name, model in models.items():
    print(f"{name:25} {sum(p.numel() for p in model.parameters()):,} parameters")


# %%
@torch.no_grad()
def predictions(model, ids):
    """Log-probabilities of each token given those before it, (rows, LENGTH, V)."""
    level = torch.zeros(ids.shape)  # these models are not told the noise level
    masks = torch.full_like(ids, MASK)
    logits = model(masks, level, clean=ids, block_length=1)
    return logits[..., :MASK].log_softmax(-1)


probe = new_model("diffuapriel", 1)
for parameter in probe.parameters():  # fresh gates are zero: nothing would flow
    torch.nn.init.normal_(parameter, std=0.1)
edited = held_out[:1].clone()
edited[0, 6] = tokenizer.encode(" park")[0]
moved = (predictions(probe, held_out[:1]) != predictions(probe, edited)).any(2)[0]
print("token 6 edited; predictions that move:", "".join("x" if m else "." for m in moved))
assert not moved[:7].any() and moved[7:].any()
twin = models["left to right, Mamba"]

# %% [markdown]
# ### Exercise 1: the exact likelihood
#
# *Must · easy · 4 minutes*
#
# For a twin there is no bound and nothing is drawn. Add up the costs of the tokens that are really there.
#
# <details><summary>Hint 1: the idea</summary>Of the V numbers at each position, only one matters: that of the token
# which stands there.</details>
# <details><summary>Hint 2: the shape</summary>Pick one entry along the last axis: (rows, length, V) becomes (rows,
# length). Then sum over the length.</details>
# <details><summary>Hint 3: the code</summary><code>logp.gather(2, ids[..., None])</code> picks them; the last axis
# then has size 1.</details>


# %% tags=["exercise"]
def exact_nats(logp, ids):
    """logp (rows, length, V): of each token given those before it; ids (rows, length).

    Returns the nats of each row, (rows,).
    """
    return None  # your line here


# %% tags=["solution"]
def exact_nats(logp, ids):
    """logp (rows, length, V): of each token given those before it; ids (rows, length).

    Returns the nats of each row, (rows,).
    """
    return -logp.gather(2, ids[..., None])[..., 0].sum(1)


# %%
check.exact_nats(exact_nats)

# %% [markdown]
# ## 2. Training all three
#
# One loop, one loss: `block_nelbo` of the package, at the block length of each model. The same stories in the same
# order. It takes about a minute; read on while it runs.


# %%
def train(model, steps, stories=None, after=None):
    """Train in place; `stories`: only these, again and again. after(step): called now and then."""
    S = model.config.block_lengths[0]
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, total_steps=steps, pct_start=0.05, cycle_momentum=False
    )
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    for step in (bar := tqdm(range(1, steps + 1))):
        rows = rng.choices(range(len(stories)), k=64) if stories is not None else None
        ids = draw_stories(64, rng) if stories is None else stories[rows]
        loss = block_nelbo(model, ids, MASK, S, generator=generator).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        bar.set_postfix_str(f"{LENGTH * loss.item():.1f} nats per story")
        if after and step % (steps // 5) == 0:
            after(step)
    return model.eval()


STEPS = 5 if QUICK else 200
for model in models.values():
    train(model, STEPS)

# %% [markdown]
# ## 3. Who predicts better?
#
# All three are measured on the same 400 new stories. That allows a *paired* comparison: some stories are long and cost
# every model more, so the difference per story varies far less than the costs themselves.
#
# ### Exercise 2: a paired interval
#
# *Must · easy · 4 minutes*
#
# Return the mean of the differences a − b, and a 95 % interval: the mean ± 1.96 standard errors. The standard error is
# the standard deviation of the differences over √n.
#
# <details><summary>Hint 1: the idea</summary>First subtract, story by story. Then forget a and b.</details>
# <details><summary>Hint 2: the shape</summary>Three numbers: mean, lower end, upper end.</details>
# <details><summary>Hint 3: the code</summary><code>d = a - b</code>, and <code>1.96 * d.std() / len(d) ** 0.5</code>
# is half the interval.</details>


# %% tags=["exercise"]
def paired_interval(a, b):
    """a and b (stories,): nats of two models on the same stories. Returns (mean, low, high)."""
    return None  # your lines here


# %% tags=["solution"]
def paired_interval(a, b):
    """a and b (stories,): nats of two models on the same stories. Returns (mean, low, high)."""
    d = a - b
    half = 1.96 * (d.std() / len(d) ** 0.5).item()
    return d.mean().item(), d.mean().item() - half, d.mean().item() + half


# %%
check.paired_interval(paired_interval)

# %% [markdown]
# **Predict, then run.** On new stories, which model needs fewer nats per story?
#
# - **A** · diffusion: it sees both sides
# - **B** · left to right
# - **C** · they cannot be told apart

# %%
guess_1 = predict("A", "B", "C", name="10.1")
guess_1

# %%
likelihood = use(check.exact_nats, exact_nats)
compare = use(check.paired_interval, paired_interval)


@torch.no_grad()
def cost(model, ids, draws=16):
    """Nats of each story: exact from left to right, else the mean of several draws of the bound."""
    if model.config.block_lengths == (1,):
        return likelihood(predictions(model, ids), ids)
    generator = torch.Generator().manual_seed(1)
    return torch.stack(
        [block_nelbo(model, ids, MASK, 0, generator=generator).nats for _ in range(draws)]
    ).mean(0)


costs = {name: cost(model, held_out, 2 if QUICK else 16) for name, model in models.items()}
print(f"the stories themselves: {exact.mean():.2f} nats")
for name, nats in costs.items():
    mean, low, high = compare(nats, exact)
    print(f"{name:25} {mean:+.2f} nats per story  [{low:+.2f}, {high:+.2f}]")
mean, low, high = compare(costs["diffusion"], costs["left to right, Mamba"])
print(f"diffusion minus its twin: {mean:+.2f} [{low:+.2f}, {high:+.2f}]")
letter = "C" if low < 0 < high else "B" if mean > 0 else "A"
guess_1.reveal(letter)

# %% [markdown]
# Where diffusion needs more nats, part of it is not a worse model: its number is a *bound*, the mean over all orders
# in which the tokens can be revealed. Most orders are harder than left to right. But it is also a harder task for the
# same network: to predict any token from any set of others.
#
# ## 4. A hole with text on both sides
#
# Now the name at the beginning is hidden: *▁▁▁ lost her red ball in the park.* The word *her* says which names fit. The
# diffusion model reads it. A left-to-right model must choose the name before it has seen anything.
#
# **Predict, then run.** In how many of a hundred such stories does the name fit, if the twin draws it from the left?
#
# - **A** · about 50
# - **B** · about 75
# - **C** · more than 95

# %%
guess_2 = predict("A", "B", "C", name="10.2")
guess_2

# %%
holes = [row for row in held_out if any(f" {word} " in text_of(row) for word in ("her", "his"))]
holes = torch.stack(holes or [held_out[0]])
hidden = holes.clone()
hidden[:, 0] = MASK  # each story begins with a name of one token
draw = torch.Generator().manual_seed(3)


def consistent(rows):
    """How many of these stories are consistent, with the interval, in percent."""
    good = sum(tales.check(text_of(row), 1).consistent for row in rows)
    return [100 * value for value in (good / len(rows), *wilson_interval(good, len(rows)))]


def fill_first(p):
    """The stories with a first token drawn from p (rows, V)."""
    filled = holes.clone()
    filled[:, 0] = torch.multinomial(p, 1, generator=draw)[:, 0]
    return filled


with torch.no_grad():
    at_hole = models["diffusion"](hidden, torch.zeros(len(holes)), hidden == MASK)
results = {
    "diffusion, one call": consistent(fill_first(at_hole[:, :MASK].softmax(-1))),
    "left to right, one call": consistent(fill_first(predictions(twin, holes)[:, 0].exp())),
}
for name, (rate, low, high) in results.items():
    print(f"{name:25} {rate:3.0f} % consistent  [{low:.0f}, {high:.0f}]  of {len(holes)}")
rate = results["left to right, one call"][0]
guess_2.reveal("A" if rate < 65 else "B" if rate < 90 else "C", f"Here it was {rate:.0f} %.")

# %% [markdown]
# But be fair to the twin. It gives a probability to every *whole* story. So it can try each name, and ask which whole
# story is the most probable. That is Bayes:
#
# $$p(\text{name} \mid \text{rest}) = \frac{p(\text{name, rest})}{\sum_{\text{names}} p(\text{name, rest})}$$
#
# ### Exercise 3: from whole stories to a hole
#
# *May · medium · 5 minutes*
#
# For each story you get the nats of the *whole* story with each name in the hole. Return the probability of each name,
# given the rest.
#
# <details><summary>Hint 1: the idea</summary>Nats are −log p of the whole story. The sum below the fraction makes the
# probabilities of a row add up to 1.</details>
# <details><summary>Hint 2: the shape</summary>(rows, names) in, (rows, names) out; each row sums to 1.</details>
# <details><summary>Hint 3: the code</summary>It is the softmax of minus the nats. With <code>exp</code> and a
# division, very unlikely stories would become 0 / 0.</details>


# %% tags=["exercise"]
def posterior(nats):
    """nats (rows, names): of the whole story with each name. Returns p(name | rest), (rows, names)."""
    return None  # your line here


# %% tags=["solution"]
def posterior(nats):
    """nats (rows, names): of the whole story with each name. Returns p(name | rest), (rows, names)."""
    return (-nats).softmax(-1)


# %%
check.posterior(posterior)

# %%
bayes = use(check.posterior, posterior)
names = sorted({row[0].item() for row in draw_stories(1000, random.Random(5))})
table = []
for name in tqdm(names[:4] if QUICK else names):
    tried = holes.clone()
    tried[:, 0] = name
    table.append(cost(twin, tried))
p = torch.zeros(len(holes), MASK)
p[:, names[: len(table)]] = bayes(torch.stack(table, 1))
results[f"left to right, {len(table)} calls"] = consistent(fill_first(p))
for name, (rate, low, high) in results.items():
    print(f"{name:25} {rate:3.0f} % consistent  [{low:.0f}, {high:.0f}]")

# %% [markdown]
# So a left-to-right model *knows* which name fits. It cannot say so in one call. With one hidden word the price is one
# call per candidate; with two holes it would be one for every pair. Diffusion answers in one call, because it was
# trained for this very question. Is it as reliable as the twin with all its calls? Compare the two intervals: after a
# training this short, it is not.
#
# ## 5. Calls per story
#
# From left to right every token costs a call, here 12 per story. (Each of them is cheap: lesson 09.) Diffusion may
# reveal several tokens per call. How many, before the stories break?


# %%
def write(steps, rows):
    """Stories of the diffusion model with this many calls."""
    config = SamplerConfig(strategy="low_confidence", steps=steps, seed=0)
    sampler = Sampler(config, get_schedule("log-linear"), MASK)
    state = sampler.start([Canvas.from_text("", tokenizer, LENGTH)] * rows)
    while not sampler.done(state):
        state = sampler.advance(models["diffusion"], state)
    return state.ids


ROWS, calls = (4, [2, 12]) if QUICK else (200, [2, 3, 4, 6, 12])
rates = [consistent(write(steps, ROWS)) for steps in tqdm(calls)]
figure = go.Figure(layout={"xaxis_title": "calls per story", "yaxis_title": "% consistent"})
y, low, high = zip(*rates)
bars = {"array": [h - r for r, h in zip(y, high)], "arrayminus": [r - v for r, v in zip(y, low)]}
figure.add_scatter(
    x=calls,
    y=y,
    error_y=bars,
    name="diffusion",
    line_color=COLORS["diffuapriel"],
    mode="lines+markers",
)
for steps, (rate, low, high) in zip(calls, rates):
    print(f"{'diffusion':25} {steps:2} calls: {rate:3.0f} % consistent [{low:.0f}, {high:.0f}]")


# %%
@torch.no_grad()
def write_left_to_right(model, rows):
    """Stories of a twin, one token per call."""
    ids = torch.full((rows, LENGTH), EOS)
    for i in range(LENGTH):
        p = predictions(model, ids)[:, i].exp()
        ids[:, i] = torch.multinomial(p, 1, generator=draw)[:, 0]
    return ids


for name, color in (("Mamba", COLORS["diffuapriel-h"]), ("attention", COLORS["diffutran"])):
    rate, *ends = consistent(write_left_to_right(models[f"left to right, {name}"], ROWS))
    bars = {"array": [ends[1] - rate], "arrayminus": [rate - ends[0]]}
    label = f"left to right, {name}"
    figure.add_scatter(
        x=[12], y=[rate], error_y=bars, name=label, marker_color=color, mode="markers"
    )
    print(f"{label:25} 12 calls: {rate:3.0f} % consistent [{ends[0]:.0f}, {ends[1]:.0f}]")
figure.update_yaxes(range=[0, 105]).update_xaxes(tickvals=calls)
show(figure)

# %% [markdown]
# Read the intervals before you name a winner, and compare at equal calls: at 12, which model is ahead? What is certain:
# a twin has one point, and diffusion has a *curve*. It can trade quality for calls, and a twin cannot. The curve need
# not rise at every point: what counts is also *which* tokens fall into one call. Three calls take four tokens each,
# four calls take three, and words that must agree may be drawn together in one case and not in the other.
#
# ## 6. The same few stories again
#
# Good text is scarce. So train both on 100 stories only, again and again, and test on new stories.
#
# **Predict, then run.** After more than a hundred passes over the same hundred stories, which model is better on *new*
# stories?
#
# - **A** · left to right, as above
# - **B** · diffusion
# - **C** · they cannot be told apart

# %%
guess_3 = predict("A", "B", "C", name="10.3")
guess_3

# %%
few = draw_stories(100, random.Random(7))
scarce, curves = {}, {}
for name, block_length in (("diffusion", LENGTH), ("left to right, Mamba", 1)):
    model = new_model("diffuapriel", block_length)
    curve = curves[name] = []

    def test(step, model=model, curve=curve):
        curve.append((step, cost(model, held_out, 1 if QUICK else 4).mean().item()))

    scarce[name] = train(model, STEPS, few, test)
figure = go.Figure(layout={"xaxis_title": "steps", "yaxis_title": "nats per new story"})
for name, color in (("diffusion", "diffuapriel"), ("left to right, Mamba", "diffuapriel-h")):
    x, y = zip(*curves[name])
    figure.add_scatter(x=x, y=y, name=name, line_color=COLORS[color], mode="lines+markers")
figure.add_hline(y=tales.entropy(1), line_dash="dash", annotation_text="entropy")
figure.update_yaxes(rangemode="tozero")
show(figure)
again = {name: cost(model, held_out, 2 if QUICK else 16) for name, model in scarce.items()}
mean, low, high = compare(again["diffusion"], again["left to right, Mamba"])
print(f"diffusion minus its twin, on new stories: {mean:+.1f} nats [{low:+.1f}, {high:+.1f}]")
letter = "C" if low < 0 < high else "A" if mean > 0 else "B"
guess_3.reveal(letter)

# %% [markdown]
# A story of 12 tokens can be masked in 4,095 ways, and read from left to right in one. So the diffusion model sees a
# new exercise at each pass over the same hundred stories: *data augmentation* that comes with the objective.
# Published studies at large scale find diffusion ahead when data is repeated many times. Whether it shows here, the
# interval says.

# %%
score()

# %% [markdown]
# ## What you learned
#
# - An autoregressive twin is the same model with **blocks of one token**; the comparison is then about the objective.
# - In nats per new story a diffusion model is charged a **bound**: the mean over all orders of filling.
# - With **text on both sides** diffusion answers in one call what costs a twin one call per candidate; the twin's
#   answer may still be the better one.
# - Diffusion has a curve of **quality against calls**; a twin has one point.
# - With **scarce text** each masking of a story is a new exercise; from left to right there is one.
#
# ## Going further
#
# - How many nats does the bound lose? Measure the twin of lesson 09, the mixed model, at S = 1 and S = 12.
# - Hide two words that must agree, the name and the pronoun. How many calls would Bayes need?
# - Repeat section 6 with 30 and with 1,000 stories. With how many are the two models equal?
# - In the app's tab *Race*, let a block model run with block length 1 beside the whole canvas.
#
# **Papers.** Masked diffusion and its bound: [arXiv:2406.07524](https://arxiv.org/abs/2406.07524). Blocks between the
# two: [arXiv:2503.09573](https://arxiv.org/abs/2503.09573). Diffusion when data is repeated:
# [arXiv:2507.15857](https://arxiv.org/abs/2507.15857). The code: `diffuapriel/diffusion/blocks.py`.
