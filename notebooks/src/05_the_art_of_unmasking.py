# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · The art of unmasking
#
# A trained model predicts what may come at each masked position. It does not say which mask to fill first, how many at
# once, or how boldly to draw. The *sampler* decides that. It needs no training, and it decides whether the same model
# writes well or badly, fast or slowly, many stories or always the same one.
#
# **You will be able to**
#
# - explain eight strategies, and write the rules of five of them yourself;
# - measure what a step buys, and what quality costs in variety;
# - choose temperature, top-k and top-p, and know what each of them does;
# - say why 32-bit random numbers spoil a diffusion model;
# - find a good sampler for a given number of model calls.
#
# **You need** lesson 01: masks, time *t*, and the sampler built there.
#
# | part | minutes |
# |---|---|
# | 1. A model, and eight strategies | 8 (up to 3 of them waiting) |
# | 2. The rules by hand | 14 |
# | 3. What a step buys | 10 |
# | 4. Temperature, top-k, top-p | 12 |
# | 5. Correcting a mistake | 6 |
# | 6. Both sides of a mask | 6 |
# | 7. Why the noise has 64 bits | 10 |
# | 8. The best budget | 8 |
#
# {{measured}}
#
# Now and then you are asked to **predict, then run**. Three **exercises** check your answer.

# %% [markdown]
# The next cell only prepares things. Run it. `QUICK` is True only when the project's tests run the lesson.

# %%
import math
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
from diffuapriel.lessons import QUICK, check, predict, prepare, show
from diffuapriel.tales import language as tales
from diffuapriel.trace.player.widget import Player

prepare()

# %% [markdown]
# ## 1. A model, and eight strategies
#
# We use the model of lesson 01: tales of level 1, one sentence each, in rows of 18 tokens. It is small, so a hundred
# stories take seconds. And the grammar can check what it writes, so we can *measure* how good a sampler is.

# %%
tokenizer, schedule = get_tokenizer("gpt2-4k"), get_schedule("log-linear")
EOS, MASK = tokenizer.eos_id, tokenizer.mask_id  # end of text, and mask
LENGTH = 18  # tokens in a row


def draw_stories(rows, rng):
    """New stories as a table of token ids, (rows, LENGTH)."""
    table = []
    for _ in range(rows):
        ids = tokenizer.encode(tales.generate(1, rng))
        table.append(ids + [EOS] * (LENGTH - len(ids)))
    return torch.tensor(table)


def text_of(ids):
    """The text before the first end-of-text token."""
    ids = ids.tolist()
    return tokenizer.decode(ids[: ids.index(EOS)] if EOS in ids else ids)


for ids in draw_stories(3, random.Random(0)):
    print(text_of(ids))

# %% [markdown]
# The training is that of lesson 01 too, with the package's loss. Start the next cell. It takes two to three minutes;
# read on while it runs.

# %%
from diffuapriel.diffusion.objective import nelbo

config = preset("nano", "diffuapriel", depth=2, expand=1, d_state=32, headdim=64)
model = Denoiser(config)
STEPS = 5 if QUICK else 750
optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
lr_schedule = torch.optim.lr_scheduler.OneCycleLR(
    optimizer, max_lr=4e-3, total_steps=STEPS, pct_start=0.05, cycle_momentum=False
)
rng, generator = random.Random(0), torch.Generator().manual_seed(0)
for _ in (bar := tqdm(range(STEPS))):
    loss = nelbo(model, draw_stories(64, rng), schedule, MASK, generator=generator).loss
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    lr_schedule.step()
    bar.set_postfix_str(f"{loss.item() * LENGTH:.1f} nats per story")
_ = model.eval()

# %% [markdown]
# At each step a *strategy* looks at the masked positions and chooses which of them to fill now. The token itself is
# drawn afterwards, from the model's probabilities at that position. These are eight of the package's 13 strategies; the
# others are relatives of `threshold` (`factor`, `entropy_bound`) and of `remdm` (`remdm_rescale`, `remdm_conf`,
# `remdm_loop`).
#
# | strategy | which masked positions are filled now |
# |---|---|
# | `ancestral` | each with the same probability, so that the masked share follows the time (the reverse process) |
# | `random` | a fixed number, at random positions |
# | `low_confidence` | a fixed number, where the best token is the most probable |
# | `entropy` | a fixed number, where the probabilities are the least spread |
# | `margin` | a fixed number, where the best token leads the second by the most |
# | `threshold` | all whose best token is probable enough, few or many |
# | `remdm` | as `ancestral`, but a filled position may be masked again |
# | `first_hitting` | one per call: every mask draws the time at which it is filled, and the earliest comes next |
#
# There are two families. `ancestral`, `remdm` and `first_hitting` reverse the forward process: they do not look at the
# probabilities to choose a position, and are faithful to what the model believes. `random` belongs to this family too,
# except that its count is fixed. `low_confidence`, `entropy`, `margin` and `threshold` are *greedy about positions*:
# they fill those where the model is sure, and leave the difficult ones for later, when more is known.

# %% [markdown]
# ## 2. The rules by hand
#
# Three strategies measure how sure the model is, but each of them defines *sure* differently. Here are three masked
# positions with invented probabilities:
#
# | position | best token | second | the rest |
# |---|---|---|---|
# | 1 | 0.55 | 0.45 | nothing |
# | 2 | 0.50 | 0.05 | nine more tokens with 0.05 |
# | 3 | 0.60 | 0.20 | twenty tokens with 0.01 |
#
# `low_confidence` takes the largest probability. `margin` takes the largest lead of the best token over the second.
# `entropy` takes the smallest *entropy*, the mean of −log p: it is 0 if one token is certain, and log *n* for *n*
# equally likely tokens.
#
# **Predict, then run.** Which position does each rule fill first?
#
# - **A** · all three rules fill position 3
# - **B** · confidence and margin fill position 3, entropy fills position 1
# - **C** · confidence fills position 3, margin fills position 2, entropy fills position 1
# - **D** · confidence fills position 3, margin and entropy fill position 2

# %%
guess_1 = predict("A", "B", "C", "D")
guess_1


# %%
def confidence(p):
    """p (masked, V): probability of the best token, (masked,)."""
    return p.amax(-1)


def margin(p):
    """Probability of the best token minus that of the second, (masked,)."""
    best, second = p.topk(2).values.unbind(-1)
    return best - second


def certainty(p):
    """Minus the entropy in nats, (masked,): the largest is the surest."""
    return (p * p.clamp_min(1e-300).log()).sum(-1)


invented = torch.zeros(3, 22, dtype=torch.float64)
invented[0, :2] = torch.tensor([0.55, 0.45])
invented[1, :11] = torch.tensor([0.50] + [0.05] * 10)
invented[2] = torch.tensor([0.60, 0.20] + [0.01] * 20)
assert torch.allclose(invented.sum(1), torch.ones(3, dtype=torch.float64))
first = {}
for rule in (confidence, margin, certainty):
    scores = rule(invented)
    first[rule.__name__] = 1 + int(scores.argmax())
    print(
        f"{rule.__name__:10} {[round(s, 2) for s in scores.tolist()]}  position {scores.argmax() + 1}"
    )
assert first == {"confidence": 3, "margin": 2, "certainty": 1}
guess_1.reveal("C", "Sure can mean a large best, a large lead, or a short list.")

# %% [markdown]
# Now the same three scores on a real sentence with masks. The sampler's `model_inputs` returns what the model is given:
# the ids, the noise level *sigma*, and which positions are masked. We remove `[MASK]` from the model's answers and turn
# them into probabilities. The numbers are float64, 64 bits each; section 7 explains why.

# %%
canvas = Canvas.from_text("[MASK:2] gave her [MASK:2] to [MASK:2].", tokenizer, length=LENGTH)
sampler = Sampler(SamplerConfig(strategy="low_confidence", steps=6), schedule, MASK)
state = sampler.start(canvas)
with torch.no_grad():
    logits = model(*sampler.model_inputs(state)).double()  # (masked, V + 1)
p = logits[:, :MASK].softmax(-1)

print(" pos.  best token     p     second       p     margin  entropy")
for position, row in zip(canvas.masked.nonzero().flatten().tolist(), p):
    best, second = row.topk(2).indices.tolist()
    words = [repr(word) for word in tokenizer.token_strings([best, second])]
    numbers = f"{margin(row[None]).item():6.3f}  {-certainty(row[None]).item():6.3f}"
    print(
        f"{position:4}   {words[0]:12} {row[best]:.3f}   {words[1]:10} {row[second]:.3f}   {numbers}"
    )

# %% [markdown]
# Rules that fill a *fixed number* of positions take those with the best scores. So does `random`, whose score is a
# random number *u* for each position. `ancestral` decides for each position independently: it is filled if *u* < (t −
# s)/t, where the step goes from time *t* to *s*. If all steps have equal size and `steps_left` of them remain, that
# probability is 1/`steps_left`.


# %%
def my_choice(strategy, p, u, count, steps_left):
    """One row: p (masked, V), u (masked,). Returns the positions to fill, (masked,) bool."""
    if strategy == "ancestral":
        return u < 1 / steps_left
    scores = {
        "low_confidence": confidence(p),
        "margin": margin(p),
        "entropy": certainty(p),
        "random": u,
    }[strategy]
    order = scores.argsort(descending=True, stable=True)
    chosen = torch.zeros(len(p), dtype=torch.bool)
    chosen[order[:count]] = True
    return chosen


# %% [markdown]
# The package keeps its rules in a dictionary, `SELECTORS`. Each rule gets a `StrategyInput`: the state, the model's
# answers and the random numbers. We give our rules and the package's the same fifty half-hidden stories. They must
# choose exactly the same positions.

# %%
from diffuapriel.sampling.strategies import SELECTORS

half = draw_stories(4 if QUICK else 50, random.Random(5))
half[:, ::2] = MASK  # every second token
for strategy in ("low_confidence", "margin", "entropy", "random", "ancestral"):
    sampler = Sampler(SamplerConfig(strategy=strategy, steps=3), schedule, MASK)
    state = sampler.start([Canvas(row, row != MASK, MASK) for row in half])
    with torch.no_grad():
        logits = model(*sampler.model_inputs(state)).double()
    u = sampler.noise(state).for_positions  # (rows, LENGTH)
    package = SELECTORS[strategy](sampler.strategy_input(state, logits, u)).reveal
    by_row = logits[:, :MASK].softmax(-1).split((half == MASK).sum(1).tolist())
    for row, p in enumerate(by_row):
        masked = half[row] == MASK
        u_here = torch.from_numpy(u[row])[masked]
        mine = my_choice(strategy, p, u_here, count=len(p) // 3, steps_left=3)
        assert torch.equal(mine, torch.from_numpy(package[row])[masked])
    print(f"{strategy:14} the same choice in {len(half)} stories; {package.sum()} filled")

# %% [markdown]
# ### Exercise 1: how many per step
#
# With 9 masks and 3 steps, fill 3 per step. But what about 18 masks and 4 steps? LLaDA's rule is: as equal as possible,
# with **the remainder first**. So 18 masks in 4 steps are 5, 5, 4, 4.
#
# <details><summary>Hint 1</summary>Every step fills at least <code>masked // steps</code>. How many masks are then left
# over, and which steps take one more?</details>
# <details><summary>Hint 2</summary><code>divmod(18, 4)</code> is (4, 2): two steps take 4 + 1, and the other two take
# 4. A list times a number repeats it: <code>[5] * 2</code>.</details>


# %% tags=["exercise"]
def reveal_counts(masked, steps):
    """How many of `masked` masks to fill in each step: a list of `steps` whole numbers."""
    return None  # your lines here


# %% tags=["solution"]
def reveal_counts(masked, steps):
    """How many of `masked` masks to fill in each step: a list of `steps` whole numbers."""
    each, left = divmod(masked, steps)
    return [each + 1] * left + [each] * (steps - left)


# %%
check.reveal_counts(reveal_counts)

# %% [markdown]
# ### Exercise 2: a threshold
#
# `threshold` has no fixed number of steps. It fills **all** masks whose best token has at least a given probability,
# the threshold, such as 0.9. In an easy text these are many in one call. If no mask reaches the threshold, it must
# still go on: **the best one is always filled**.
#
# <details><summary>Hint 1</summary>Two conditions, joined by <code>|</code> (or): the mask reaches the threshold, or it
# is the best.</details>
# <details><summary>Hint 2</summary><code>confidence.argmax()</code> is the index of the best mask. Compare
# <code>torch.arange(len(confidence))</code> with it.</details>


# %% tags=["exercise"]
def threshold_choice(confidence, threshold):
    """confidence (masked,): of each best token. Returns the masks to fill, (masked,) bool."""
    return None  # your lines here


# %% tags=["solution"]
def threshold_choice(confidence, threshold):
    """confidence (masked,): of each best token. Returns the masks to fill, (masked,) bool."""
    best = torch.arange(len(confidence)) == confidence.argmax()
    return (confidence >= threshold) | best


# %%
check.threshold_choice(threshold_choice)

# %% [markdown]
# ## 3. What a step buys
#
# Why not fill all masks at once? Two masks are enough to see it: *Mia ▁▁▁ ▁▁▁ red ball in the park.* Stories say *found
# a* or *lost her*. The model gives each mask its own probabilities. In **one** call both tokens are drawn from these,
# and neither knows about the other. In **two** calls the second draw has seen the first. We can compute both cases
# exactly.


# %%
def row_of(text):
    """A row of ids from a text with [MASK]s, padded with the end-of-text token."""
    ids = Canvas.from_text(text, tokenizer).ids.tolist()
    return torch.tensor(ids + [EOS] * (LENGTH - len(ids)))


@torch.no_grad()
def answers(ids):
    """The model's probabilities at the masks of one row, (masked, V)."""
    hidden = (ids == MASK)[None]
    sigma = -torch.log(1 - hidden.float().mean(1))
    return model(ids[None], sigma, hidden)[:, :MASK].double().softmax(-1)


verbs, articles = ["found", "lost"], ["a", "her", "his"]
token_of = {word: tokenizer.encode(" " + word)[0] for word in verbs + articles}
columns = [token_of[word] for word in articles]
row = row_of("Mia [MASK] [MASK] red ball in the park.")
at_verb, at_article = answers(row)
one_call, two_calls = torch.zeros(2, 3), torch.zeros(2, 3)
for i, verb in enumerate(verbs):
    chance = at_verb[token_of[verb]]
    known = row.clone()
    known[(row == MASK).nonzero()[0]] = token_of[verb]  # the first mask is filled now
    one_call[i] = chance * at_article[columns]
    two_calls[i] = chance * answers(known)[0, columns]

# %%
for name, table in (("one call", one_call), ("two calls", two_calls)):
    figure = go.Figure(layout={"title": name, "height": 250})
    figure.add_heatmap(z=table.tolist(), x=articles, y=verbs, zmin=0, zmax=0.6, colorscale="Blues")
    show(figure)
    agree = table[0, 0] + table[1, 1]
    print(f"{name}: 'found a' or 'lost her' with probability {agree:.0%}")

# %% [markdown]
# In one call the squares are a *product*: dark wherever both words are likely, whether they fit or not. In two calls
# only pairs that fit are dark. Taken one by one, the words are equally good in both.
#
# The next function measures how much this matters for whole stories. It writes `n` stories and returns the number of
# model calls, how many stories are *grammatical*, how many are also *consistent*, and two measures of **variety**: the
# share of different stories, and the *entropy* of the tokens over all stories together. A sampler that always writes
# the same has little variety.

# %%
from diffuapriel.evaluation.samples import unigram_entropy

N = 4 if QUICK else 100


@torch.no_grad()
def measure(n=N, canvas=None, **options):
    """Write n stories (on `canvas`, or from masks only) and describe them."""
    engine = Sampler(SamplerConfig(**options), schedule, MASK)
    state = engine.start([canvas or Canvas.masks(LENGTH, tokenizer)] * n)
    while not engine.done(state):
        state = engine.advance(model, state)
    return describe(torch.from_numpy(state.ids.copy())) | {"calls": state.nfe.mean()}


def describe(table):
    """Quality (in per cent) and variety of stories given as ids (rows, LENGTH)."""
    texts = [text_of(ids) for ids in table]
    found = [tales.check(text, 1) for text in texts]
    return {
        "grammatical": 100 * sum(c.grammatical for c in found) / len(texts),
        "consistent": 100 * sum(c.consistent for c in found) / len(texts),
        "different": 100 * len(set(texts)) / len(texts),
        "entropy": unigram_entropy(
            token for ids in table.tolist() for token in ids if token != EOS
        ),
        "texts": texts,
    }


true = describe(draw_stories(N, random.Random(99)))
print({name: value for name, value in true.items() if name != "texts"}, "true stories")

# %%
budget = [1, 6] if QUICK else [1, 2, 4, 8, 18]
compared = ["random", "ancestral", "low_confidence", "entropy", "margin"]
curves = {
    strategy: [measure(strategy=strategy, steps=steps) for steps in budget]
    for strategy in tqdm(compared)
}
thresholds = [0.3, 0.9] if QUICK else [0.3, 0.5, 0.7, 0.95]
curves["threshold"] = [measure(strategy="threshold", threshold=value) for value in thresholds]

figure = go.Figure(layout={"xaxis_title": "model calls", "yaxis_title": "% consistent"})
for strategy, points in curves.items():
    x, y = [m["calls"] for m in points], [m["consistent"] for m in points]
    figure.add_scatter(x=x, y=y, name=strategy, mode="lines+markers")
show(figure)

# %% [markdown]
# Read it from left to right: **steps buy agreement**, for every strategy. Then compare the curves at equal numbers of
# calls. (`remdm` comes in section 5. `first_hitting` has no setting: it fills one token per call.) But a hundred
# stories are few. How far off may a rate be? The package has Wilson's interval:

# %%
from diffuapriel.evaluation.interval import wilson_interval

low, high = wilson_interval(50, 100)
print(f"50 of 100: between {low:.0%} and {high:.0%}, with 95 % confidence")

# %% [markdown]
# So small differences between the curves mean nothing. And a fair comparison is between points with equal numbers of
# calls.
#
# A fixed number of tokens per call is a poor plan for rules that fill the surest position first. The surest tokens of
# all are the end-of-text tokens at the end of the row. They could all be filled in one call without harm. But with two
# or three per call they take the early calls, and the words that must agree are left for the last calls, together.
# `random` at least mixes them. `threshold` fills many tokens where it is sure, and one at a time where it is not: the
# idea is to **spend calls where they are needed**. Section 8 compares it with others at about eleven calls.
#
# Does the quality cost variety? Here is the variety of the same stories.

# %%
figure = go.Figure(
    layout={"xaxis_title": "model calls", "yaxis_title": "entropy of the tokens, nats"}
)
for strategy, points in curves.items():
    x, y = [m["calls"] for m in points], [m["entropy"] for m in points]
    figure.add_scatter(x=x, y=y, name=strategy, mode="lines+markers")
figure.add_hline(y=true["entropy"], line_dash="dash", annotation_text="true stories")
show(figure)
for strategy in curves:
    last = curves[strategy][-1]
    print(
        f"{strategy:10} {last['calls']:5.1f} calls  {last['consistent']:3.0f} % consistent  "
        f"{last['different']:3.0f} % different  entropy {last['entropy']:.2f}"
    )

# %% [markdown]
# Well above the dashed line there is *noise*: tokens that do not belong in such stories. Well below it there is
# *sameness*: the sampler avoids what is rare. But look at the scale of the axis: the dashed line comes from N stories
# too, so differences of a few hundredths mean nothing. At temperature 1, as here, no strategy has to lose variety.

# %% [markdown]
# ## 4. Temperature, top-k, top-p
#
# The strategy has chosen a position. Which token goes there? We can reshape the model's probabilities *p* before
# drawing.
#
# - **Temperature** *T*: every probability becomes *p* to the power 1/*T*, and all are rescaled to sum to 1. *T* below 1
#   sharpens, *T* above 1 flattens, and *T* = 0 always takes the best token.
# - **Top-k**: only the *k* most probable tokens stay.
# - **Top-p**: only the most probable tokens stay, the smallest number whose probabilities together reach *p*.
#
# This is what they do at one position, the word after *Mia* in a story that is otherwise all masks.


# %%
def temperature(p, T):
    """p (V,) at temperature T."""
    q = p ** (1 / T)
    return q / q.sum()


def top_k(p, k):
    """Only the k most probable tokens of p (V,)."""
    kept = torch.zeros_like(p).scatter(0, p.topk(k).indices, p.topk(k).values)
    return kept / kept.sum()


canvas = Canvas.from_text("Mia", tokenizer, length=LENGTH)
verb = answers(canvas.ids)[0]
best = verb.topk(8).indices
labels = [*tokenizer.token_strings(best.tolist()), "all others"]
shapes = {
    "T = 0.5": temperature(verb, 0.5),
    "T = 2": temperature(verb, 2),
    "top-k 3": top_k(verb, 3),
}
for names in (["T = 0.5", "T = 2"], ["top-k 3"]):
    figure = go.Figure(layout={"yaxis_title": "probability", "barmode": "group", "height": 300})
    for name in ["unchanged", *names]:
        shown = shapes.get(name, verb)[best].tolist()
        figure.add_bar(x=labels, y=[*shown, 1 - sum(shown)], name=name)
    show(figure)

# %% [markdown]
# The package works with weights, which need not sum to 1, instead of probabilities. After rescaling, its top-k equals
# ours.

# %%
from diffuapriel.sampling.tokens import keep_top_k

weights = keep_top_k(verb[None], 3)[0]
torch.testing.assert_close(top_k(verb, 3), weights / weights.sum())
torch.testing.assert_close(temperature(verb, 0.5), (verb.log() / 0.5).softmax(0))

# %% [markdown]
# Note two things. *All others* are thousands of tokens that cannot come there; each has almost no probability, but a
# high temperature raises them all. And top-k cuts at a fixed number: it may keep nonsense at one position and drop good
# words at the next. Top-p adapts to the shape of the distribution.
#
# ### Exercise 3: top-p
#
# Keep the fewest tokens, best first, whose probabilities together reach `share`. The others get 0. Then rescale the
# rest to sum to 1.
#
# <details><summary>Hint 1</summary>Sort from large to small. A token stays if the tokens <b>before</b> it have not yet
# reached the share. So the best one always stays.</details>
# <details><summary>Hint 2</summary><code>ordered, indices = p.sort(descending=True)</code>, and <code>ordered.cumsum(0)
# - ordered</code> is the sum before each token. To restore the order: <code>torch.zeros_like(p).scatter(0, indices,
# ordered)</code>.</details>


# %% tags=["exercise"]
def keep_top_p(p, share):
    """p (V,) probabilities. Returns (V,) probabilities in which the unlikely tail is 0."""
    return None  # your lines here


# %% tags=["solution"]
def keep_top_p(p, share):
    """p (V,) probabilities. Returns (V,) probabilities in which the unlikely tail is 0."""
    ordered, indices = p.sort(descending=True)
    before = ordered.cumsum(0) - ordered
    ordered = torch.where(before < share, ordered, 0)
    return torch.zeros_like(p).scatter(0, indices, ordered / ordered.sum())


# %%
check.keep_top_p(keep_top_p)

# %% [markdown]
# If you set `top_p=0.9` in a `SamplerConfig`, the package does this at every position. The same goes for `top_k` and
# `temperature`.
#
# **Predict, then run.** We write 100 stories from masks only, with the strategy `low_confidence`, one token per step,
# at temperature 0. How many *different* stories will there be?
#
# - **A** · 1
# - **B** · about 20, one for each likely name
# - **C** · nearly 100, because the seed changes from row to row

# %%
guess_2 = predict("A", "B", "C")
guess_2

# %%
cold = measure(strategy="low_confidence", steps=LENGTH, temperature=0)
different = len(set(cold["texts"]))
print(f"{N} stories, {different} different; {cold['consistent']:.0f} % are consistent")
print(cold["texts"][0])
guess_2.reveal("A", "Nothing is drawn at random: neither the position nor the token.")

# %% [markdown]
# Depending on that one story, the quality is 100 % or 0 %, and says nothing. **Never quote quality without variety.**
# So we plot both: higher is better, and the dashed line is the variety of true stories.

# %%
settings = {
    "temperature": [0.4, 0.7, 1.0, 1.3],
    "top_k": [2, 12],
    "top_p": [0.4, 0.8, 0.9, 0.97],
}
figure = go.Figure(
    layout={"xaxis_title": "entropy of the tokens, nats", "yaxis_title": "% consistent"}
)
for option, values in tqdm(settings.items()):
    values = values[:2] if QUICK else values
    points = [
        measure(strategy="low_confidence", steps=LENGTH, seed=1, **{option: value})
        for value in values
    ]
    x, y = [m["entropy"] for m in points], [m["consistent"] for m in points]
    figure.add_scatter(x=x, y=y, name=option, mode="lines+markers")
    for value, m in zip(values, points):
        print(
            f"{option:11} {value:5}  {m['consistent']:3.0f} % consistent  "
            f"{m['different']:3.0f} % different  entropy {m['entropy']:.2f}"
        )
figure.add_vline(x=true["entropy"], line_dash="dash")
show(figure)

# %% [markdown]
# The best point is at the top, on the dashed line. A little sharpening (the app's default top-p is 0.9) removes mostly
# tokens that cannot come there. More sharpening buys correctness with sameness.

# %% [markdown]
# ## 5. Correcting a mistake
#
# Most strategies never take back what they wrote. Suppose the sampler began with *Tom lost her*, an unlucky draw.
# Nothing that follows can make this right. `remdm` can replace it: at every step a filled position may be masked again,
# with a small probability, at most `remask_cap`. Then the model predicts it again, from all that is written by then.
#
# We plant the mistake. On a canvas, `fixed` says which tokens can never change. Here no token is fixed.

# %%
begun = Canvas.from_text("Tom lost her", tokenizer, length=LENGTH)
planted = Canvas(begun.ids, torch.zeros(LENGTH, dtype=torch.bool), MASK)
few, many = (4, 6) if QUICK else (18, 72)
for strategy, steps, cap in (
    ("low_confidence", few, 0.0),
    ("ancestral", many, 0.0),
    ("remdm", few, 0.1),
    ("remdm", many, 0.1),
):
    m = measure(canvas=planted, strategy=strategy, steps=steps, remask_cap=cap, top_p=0.9)
    print(f"{strategy:10} {steps:3} steps: {m['consistent']:3.0f} % consistent  {m['texts'][0]!r}")

# %%
sampler = Sampler(
    SamplerConfig(strategy="remdm", steps=many, remask_cap=0.1, top_p=0.9, seed=2), schedule, MASK
)
trace = Player().record(sampler, model, planted, tokenizer, model="my model")

# %% [markdown]
# Press play, and watch tokens disappear and come back. When was *her* replaced: while the row was still almost empty,
# or when the rest of the story was there? Early on there is little text that could correct it, so the sampler may
# simply begin another story. A token that does not fit gets a chance to be replaced each time it is masked. The price
# is more steps.

# %% [markdown]
# ## 6. Both sides of a mask
#
# A model that writes from left to right knows only what comes before a mask. Ours knows both sides. How much is that
# worth? After *Mia* comes a verb. We ask for it three times: once with the rest of the row hidden, and with two
# different endings visible.

# %%
verbs = ["found", "lost", "gave", "took", "had"]
left_only = row_of("Mia [MASK]")
left_only[left_only == EOS] = MASK  # what follows is hidden
rows = {
    "left side only": left_only,
    "... her green hat to Tom.": row_of("Mia [MASK] her green hat to Tom."),
    "... her green hat in the park.": row_of("Mia [MASK] her green hat in the park."),
}
figure = go.Figure(layout={"yaxis_title": "probability", "barmode": "group"})
for name, row in rows.items():
    p = answers(row)[0]
    chances = [p[tokenizer.encode(" " + verb)[0]].item() for verb in verbs]
    figure.add_bar(x=verbs, y=chances, name=name)
show(figure)

# %% [markdown]
# From the left, all five are possible. The word that decides, *to* or *in*, comes five tokens later. The same holds for
# a mask at the very beginning: *her* says that the name must be a girl's. Nothing special is needed for this: tokens
# may be given at any position.

# %%
canvas = Canvas.from_text("[MASK:2] lost her [MASK] hat [MASK:3].", tokenizer, length=LENGTH)
sampler = Sampler(SamplerConfig(strategy="low_confidence", steps=LENGTH, seed=3), schedule, MASK)
trace = Player().record(sampler, model, canvas, tokenizer, model="my model")

# %%
m = measure(canvas=canvas, strategy="low_confidence", steps=LENGTH, top_p=0.9)
print(f"{m['consistent']:.0f} % of {N} are consistent, {m['different']:.0f} % different, such as")
for text in m["texts"][:4]:
    print("   ", text)

# %% [markdown]
# ## 7. Why the noise has 64 bits
#
# There is an elegant way to draw a token. Give each token the number log *p* + *g*, where *g* = −log(−log *u*) and *u*
# is uniform between 0 and 1. Then each token has the largest number with probability exactly *p*. *g* is called
# **Gumbel noise**, and many samplers use it for every token at every position.
#
# A rare token wins only if its *g* is very large, that is, if *u* is very close to 1. How close can it be? A float32
# has 24 bits of precision, a float64 has 53.

# %%
for dtype, bits in ((torch.float32, 24), (torch.float64, 53)):
    u = torch.tensor(1.0, dtype=dtype) - torch.tensor(
        2.0**-bits, dtype=dtype
    )  # the largest number below 1
    print(
        f"{dtype}: largest u = 1 - 2^-{bits}, so g is {-math.log(-math.log(u.item())):.2f} at most"
    )
drawn = torch.rand(10_000 if QUICK else 20_000_000, generator=torch.Generator().manual_seed(0))
print(f"largest of {len(drawn):,} float32 draws: {-math.log(-math.log(drawn.max().item())):.2f}")

# %% [markdown]
# In float32 no *g* is above about 16.6. That seems a lot. But consider one step of many. At the first of 1,000 steps a
# mask stays masked with probability 0.999. Only 0.001 is left for all tokens together, and there are tens of thousands
# of them.
#
# Imagine a model that gives one common token the probability 1/2, while 50,000 rare ones share the other half equally.
# In each step the sampler draws with Gumbel noise among *stay masked*, the common token and the rare tokens.
#
# **Predict, then run.** Take 1,000 steps and float32 noise. What share of the filled-in tokens is rare? (According to
# the model it should be one half.)
#
# - **A** · one half, because the noise is random
# - **B** · about 40 %
# - **C** · less than 10 %

# %%
guess_3 = predict("A", "B", "C")
guess_3

# %% [markdown]
# Drawing 50,000 numbers a million times is slow. A shortcut does the same: the largest of *n* uniform numbers is
# distributed as $u^{1/n}$. Rounded down to 24 bits, it is the largest of *n* float32 numbers. So each draw needs three
# numbers: one for the mask, one for the common token, and one for the best of the rare tokens.

# %%
RARE, DRAWS = 50_000, 10_000 if QUICK else 2_000_000


def rare_share(steps, bits, seed=0):
    """Share of rare tokens among those filled in, for uniform numbers of this many bits."""
    u = torch.rand(3, DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    u[2] = u[2] ** (1 / RARE)
    u = (u * 2**bits).floor() / 2**bits
    g = -torch.log(-torch.log(u))
    chances = [1 - 1 / steps, 0.5 / steps, 0.5 / steps / RARE]  # mask, common, a rare one
    winner = (g + torch.tensor(chances, dtype=torch.float64).log()[:, None]).argmax(0)
    return (winner == 2).sum().item() / max(1, (winner > 0).sum().item())


counts = [2, 10, 30, 100, 200, 400, 1000]
shares = {bits: [rare_share(steps, bits) for steps in counts] for bits in (24, 53)}
figure = go.Figure(
    layout={"xaxis_title": "steps", "yaxis_title": "share of rare tokens", "xaxis_type": "log"}
)
figure.add_scatter(x=counts, y=shares[24], name="float32", mode="lines+markers")
figure.add_scatter(x=counts, y=shares[53], name="float64", mode="lines+markers")
figure.update_yaxes(range=[0, 0.7])
show(figure)


def entropy_of(share):
    """Entropy in nats of the kind of token and of the choice among the rare ones."""
    kinds = -sum(x * math.log(x) for x in (share, 1 - share) if x > 0)
    return kinds + share * math.log(RARE)


print(f"at {counts[-1]:,} steps, float32: {shares[24][-1]:.1%} rare")
for name, share in (("the model's", 0.5), ("float32", shares[24][-1]), ("float64", shares[53][-1])):
    print(f"entropy of a filled token, {name:12} {entropy_of(share):.2f} nats")
guess_3.reveal("C", "A rare token would need a g that float32 cannot represent.")

# %% [markdown]
# **This noise works like a low temperature**, which gets lower the more steps you take. Published samples seemed better
# with more steps, by a measure that favors common tokens, but had lost their variety
# ([arXiv:2409.02908](https://arxiv.org/abs/2409.02908)).
#
# The package avoids this in two ways. One uniform number decides *whether* a mask is filled and another one *which*
# token it gets, so the small probability of a step is never multiplied by the small probabilities of tokens. And both
# numbers have 53 bits:

# %%
from diffuapriel.sampling.tokens import Noise

noise = Noise.draw(seed=0, first_row=0, rows=2, step=0, length=LENGTH)
print(noise.for_positions.shape, noise.for_positions.dtype, noise.for_tokens.dtype)

# %% [markdown]
# ## 8. The best budget
#
# You may call the model about **eleven times** per story. Which strategy, how many steps, how much sharpening? The cell
# below is your workbench. Change its lines, add your own, and run it again. Beat the best line without losing variety.

# %%
tries = [
    {"strategy": "low_confidence", "steps": 11},
    {"strategy": "random", "steps": 11},
    {"strategy": "random", "steps": 11, "top_p": 0.9},
    {"strategy": "threshold", "threshold": 0.5},
    {"strategy": "threshold", "threshold": 0.5, "top_p": 0.9},
    {"strategy": "threshold", "threshold": 0.4, "top_p": 0.8},
]
print(f"calls  consistent  different  entropy (true stories: {true['entropy']:.2f})")
for options in tqdm(tries):
    m = measure(seed=2, **options)
    print(
        f"{m['calls']:5.1f}  {m['consistent']:8.0f} %  {m['different']:7.0f} %  {m['entropy']:.2f}"
        f"     {', '.join(f'{k} {v}' for k, v in options.items())}"
    )

# %% [markdown]
# A little sharpening helps, because then one bad draw less often spoils a whole story. Whether it also helps to spend
# calls where tokens must agree is harder to see: with a hundred stories per line, each rate may be off by about ten
# percentage points.
#
# The package has such a benchmark too: `plan` lists the points, and `quality_events` measures them one by one, with
# confidence intervals. It is stricter than ours: it reads the text after the first end of text as another story. The
# app draws its curves with the same functions.

# %%
from diffuapriel.evaluation.steps_quality import plan as plan_points
from diffuapriel.evaluation.steps_quality import quality_events

steps = [2] if QUICK else [3, 6, 12]
configs = plan_points(["low_confidence", "random", "threshold"], steps, LENGTH, threshold=0.5)
*_, last = quality_events(
    model, tokenizer, configs, level=1, length=LENGTH, num_sequences=max(4, N)
)
for point in last.points:
    if point.consistent is not None:
        low, high = point.consistent_ci95
        print(
            f"{point.strategy:10}  {point.calls:4.1f} calls  {point.consistent:4.0%} consistent  "
            f"[{low:.0%}, {high:.0%}]"
        )

# %% [markdown]
# ## What you learned
#
# - A **strategy** chooses the positions; temperature, top-k and top-p shape what is drawn there.
# - Tokens filled in one call do not know about each other. **Calls buy agreement**. A fixed number per call spends many
#   of them on the end of a row.
# - Quality alone can be bought with sameness. **Look at variety with every figure.**
# - A strategy that never takes a token back cannot correct it. `remdm` can, for more steps.
# - **32-bit random numbers** cut off rare tokens, which works like a hidden low temperature.
#
# ## Going further
#
# - Which positions does `low_confidence` fill first, and which last? Collect `frame.revealed` over many traces.
# - Write a ninth strategy, such as *from left to right*, and compare it at 18 steps. Is such a story easier to write in
#   some order?
# - Repeat section 3 with the bundled `tales-diffuapriel` on long stories. Does the ranking of the strategies hold?
#
# **Papers.** Confidence: MaskGIT, [arXiv:2202.04200](https://arxiv.org/abs/2202.04200), and LLaDA,
# [arXiv:2502.09992](https://arxiv.org/abs/2502.09992). Entropy: Dream,
# [arXiv:2508.15487](https://arxiv.org/abs/2508.15487). Margin: [arXiv:2502.06768](https://arxiv.org/abs/2502.06768).
# Threshold: Fast-dLLM, [arXiv:2505.22618](https://arxiv.org/abs/2505.22618). Ancestral: MDLM,
# [arXiv:2406.07524](https://arxiv.org/abs/2406.07524). Remasking: ReMDM,
# [arXiv:2503.00307](https://arxiv.org/abs/2503.00307). First hitting, and the noise:
# [arXiv:2409.02908](https://arxiv.org/abs/2409.02908). Top-p: [arXiv:1904.09751](https://arxiv.org/abs/1904.09751).
