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
# - measure what a step buys, and whether quality costs variety, each with its interval;
# - choose temperature, top-k and top-p, and know what each of them does;
# - say why 32-bit random numbers spoil a diffusion model;
# - find a good sampler for a given number of model calls;
# - say how a model learns to fill many tokens per call, and what that may cost.
#
# **You need** lesson 01: masks, time *t*, and the sampler built there.
#
# | part | minutes |
# |---|---|
# | 1. A model, and eight strategies | 6 (2 more if it must be trained) |
# | 2. The rules by hand | 20 |
# | 3. What a step buys | 16 |
# | 4. Temperature, top-k, top-p | 13 |
# | 5. Correcting a mistake | 7 |
# | 6. Both sides of a mask | 5 |
# | 7. Why the noise has 64 bits | 9 |
# | 8. The best budget | 8 |
# | 9. Distilled to few passes | 12 |
#
# {{measured}}
#
# Now and then you are asked to **predict, then run**. Six **exercises** check your answer, and the lesson then runs
# *your* code; where you have none, ours takes its place.

# %% [markdown]
# The next cell only prepares things. Run it.

# %%
import copy
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
    generate,
    get_schedule,
    get_tokenizer,
    preset,
)
from diffuapriel.evaluation.interval import mean_interval, wilson_interval
from diffuapriel.lessons import QUICK, check, predict, prepare, score, show, use
from diffuapriel.lessons.figure import error_bars, side_by_side
from diffuapriel.tales import language as tales
from diffuapriel.trace.player.widget import Player

prepare()

# %% [markdown]
# ## 1. A model, and eight strategies
#
# ![Eight samplers, by whether they look at the probabilities](diagrams/samplers.svg)
#
# We use the model of lesson 01: tales of level 1, one sentence each, in rows of 16 tokens. It is small, so a hundred
# stories take seconds. And the grammar can check what it writes, so we can *measure* how good a sampler is.

# %%
tokenizer, schedule = get_tokenizer("tales-words"), get_schedule("log-linear")
EOS, MASK = tokenizer.eos_id, tokenizer.mask_id  # end of text, and mask
LENGTH = 16  # tokens in a row


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
# If you have run lesson 01, its model is there. If not, the next cell trains it again, which takes one to two minutes;
# read on while it runs.

# %%
from diffuapriel import load_checkpoint
from diffuapriel.diffusion.objective import corrupt, nelbo
from diffuapriel.lessons.progress import folder


def train(steps):
    """The model and the training of lesson 01."""
    shape = {"d_model": 128, "depth": 2, "expand": 1, "d_state": 32, "headdim": 64}
    model = Denoiser(preset("nano", "diffuapriel", tokenizer="tales-words", **shape))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    lr_schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, total_steps=steps, pct_start=0.05, cycle_momentum=False
    )
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    for _ in (bar := tqdm(range(steps))):
        loss = nelbo(model, draw_stories(32, rng), schedule, MASK, generator=generator).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        lr_schedule.step()
        bar.set_postfix_str(f"{loss.item() * LENGTH:.1f} nats per story")
    return model


if (folder() / "lesson-01").exists() and not QUICK:
    model, _ = load_checkpoint(folder() / "lesson-01")
    print("the model that you trained in lesson 01")
else:
    model = train(5 if QUICK else 900)
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
guess_1 = predict("A", "B", "C", "D", name="05.1")
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
guess_1.reveal()

# %% [markdown]
# Now the same three scores on a real sentence with masks. The sampler's `model_inputs` returns what the model is given:
# the ids, the noise level *sigma*, and which positions are masked. We remove `[MASK]` from the model's answers and turn
# them into probabilities. The numbers are float64, 64 bits each; section 7 explains why.

# %%
canvas = Canvas.from_text("[MASK] gave her [MASK:2] to [MASK].", tokenizer, length=LENGTH)
sampler = Sampler(SamplerConfig(strategy="low_confidence", steps=6), schedule, MASK)
state = sampler.start(canvas)
with torch.no_grad():
    logits = model(*sampler.model_inputs(state)).double()  # (masked, V + 1)
p = logits[:, :MASK].softmax(-1)

print(" pos.   best token           p   second         p  margin entropy")
for position, row in zip(canvas.masked.nonzero().flatten().tolist(), p):
    best, second = row.topk(2).indices.tolist()
    words = [repr(word) for word in tokenizer.token_strings([best, second])]
    numbers = f"{margin(row[None]).item():6.3f}  {-certainty(row[None]).item():6.3f}"
    print(
        f"{position:5}   {words[0]:16} {row[best]:.3f}   {words[1]:10} {row[second]:.3f}  {numbers}"
    )

# %% [markdown]
# Rules that fill a *fixed number* of positions take those with the best scores. So does `random`, whose score is a
# random number *u* for each position. `ancestral` decides for each position independently: it is filled if *u* < (t −
# s)/t, where the step goes from time *t* to *s*. If all steps have equal size and `steps_left` of them remain, that
# probability is 1/`steps_left`.
#
# ### Exercise 1: five strategies
#
# *Must · medium · 8 minutes*
#
# Write them, for the masks of one row. `strategy` is the name of one: `low_confidence`, `margin`, `entropy`, `random`
# or `ancestral`. The first four fill the `count` masks with the largest score; `ancestral` ignores `count`.
#
# <details><summary>Hint 1: the idea</summary>Four rules differ only in their score. The fifth is one comparison, and
# needs no score.</details>
# <details><summary>Hint 2: the shape</summary>A dictionary from the names to the scores, each (masked,):
# <code>confidence(p)</code>, <code>margin(p)</code>, <code>certainty(p)</code>, <code>u</code>. Then make a tensor of
# False, (masked,), and set the positions of the largest scores to True.</details>
# <details><summary>Hint 3: the code</summary><code>chosen = torch.zeros(len(p), dtype=torch.bool)</code>, then
# <code>chosen[scores.argsort(descending=True)[:count]] = True</code>. For ancestral, <code>u &lt; 1 /
# steps_left</code>.</details>


# %% tags=["exercise"]
def my_choice(strategy, p, u, count, steps_left):
    """One row: p (masked, V), u (masked,). Returns the positions to fill, (masked,) bool."""
    return None  # your lines here


# %% tags=["solution"]
def my_choice(strategy, p, u, count, steps_left):
    """One row: p (masked, V), u (masked,). Returns the positions to fill, (masked,) bool."""
    if strategy == "ancestral":
        return u < 1 / steps_left
    rules = {"low_confidence": confidence, "margin": margin, "entropy": certainty}
    scores = u if strategy == "random" else rules[strategy](p)
    order = scores.argsort(descending=True, stable=True)
    chosen = torch.zeros(len(p), dtype=torch.bool)
    chosen[order[:count]] = True
    return chosen


# %%
check.selection(my_choice)

# %% [markdown]
# The package keeps its rules in a dictionary, `SELECTORS`. Each rule gets a `StrategyInput`: the state, the model's
# answers and the random numbers. We give your rules and the package's the same fifty half-hidden stories. Do they
# choose the same positions?

# %%
from diffuapriel.sampling.strategies import SELECTORS

choose = use(check.selection, my_choice)
half = draw_stories(4 if QUICK else 50, random.Random(5))
half[:, ::2] = MASK  # every second token
for strategy in ("low_confidence", "margin", "entropy", "random", "ancestral"):
    sampler = Sampler(SamplerConfig(strategy=strategy, steps=4), schedule, MASK)
    state = sampler.start([Canvas(row, row != MASK, MASK) for row in half])
    with torch.no_grad():
        logits = model(*sampler.model_inputs(state)).double()
    u = sampler.noise(state).for_positions  # (rows, LENGTH)
    package = SELECTORS[strategy](sampler.strategy_input(state, logits, u)).reveal
    by_row, equal = logits[:, :MASK].softmax(-1).split((half == MASK).sum(1).tolist()), 0
    for row, p in enumerate(by_row):
        masked = half[row] == MASK
        u_here = torch.from_numpy(u[row])[masked]
        mine = choose(strategy, p, u_here, len(p) // 4, 4)
        equal += torch.equal(mine, torch.from_numpy(package[row])[masked])
    print(
        f"{strategy:14} the same choice in {equal} of {len(half)} stories; {package.sum()} filled"
    )

# %% [markdown]
# ### Exercise 2: how many per step
#
# *May · easy · 4 minutes*
#
# With 9 masks and 3 steps, fill 3 per step. But what about 18 masks and 4 steps? LLaDA's rule is: as equal as possible,
# with **the remainder first**. So 18 masks in 4 steps are 5, 5, 4, 4.
#
# <details><summary>Hint 1: the idea</summary>Every step fills at least <code>masked // steps</code>. How many masks
# are then left over, and which steps take one more?</details>
# <details><summary>Hint 2: the shape</summary><code>divmod(18, 4)</code> is (4, 2): two steps take 4 + 1, and the
# other two take 4. The list has <code>steps</code> entries.</details>
# <details><summary>Hint 3: the code</summary>A list times a number repeats it: <code>[each + 1] * left + [each] *
# (steps - left)</code>.</details>


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
# ### Exercise 3: a threshold
#
# *Must · easy · 4 minutes*
#
# `threshold` has no fixed number of steps. It fills **all** masks whose best token has at least a given probability,
# the threshold, such as 0.9. In an easy text these are many in one call. If no mask reaches the threshold, it must
# still go on: **the best one is always filled**.
#
# <details><summary>Hint 1: the idea</summary>Two conditions, joined by <code>|</code> (or): the mask reaches the
# threshold, or it is the best.</details>
# <details><summary>Hint 2: the shape</summary>Both are tensors of True and False, (masked,).
# <code>best.argmax()</code> is the index of the best mask.</details>
# <details><summary>Hint 3: the code</summary><code>(best >= threshold) | (torch.arange(len(best)) ==
# best.argmax())</code>.</details>


# %% tags=["exercise"]
def threshold_choice(best, threshold):
    """best (masked,): probability of each best token. Returns the masks to fill, (masked,) bool."""
    return None  # your lines here


# %% tags=["solution"]
def threshold_choice(best, threshold):
    """best (masked,): probability of each best token. Returns the masks to fill, (masked,) bool."""
    surest = torch.arange(len(best)) == best.argmax()
    return (best >= threshold) | surest


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
tables = {"one call": one_call, "two calls": two_calls}
squares = {name: table.tolist() for name, table in tables.items()}
figure = side_by_side(squares, verbs, articles, zmin=0, zmax=0.6, colorscale="Blues")
figure.update_layout(height=250)
show(figure)
for name, table in tables.items():
    agree = table[0, 0] + table[1, 1]
    print(f"{name}: 'found a' or 'lost her' with probability {agree:.0%}")

# %% [markdown]
# In one call the squares are a *product*: dark wherever both words are likely, whether they fit or not. In two calls
# only pairs that fit are dark. Taken one by one, the words are equally good in both.
#
# How much does this matter for whole stories? To find out we must write many, and measure them.
#
# ### Exercise 4: measure a sampler
#
# *Must · easy · 5 minutes*
#
# You get texts. How many per cent of them are *grammatical* (every word is of a kind that may appear there), how many
# *consistent* (everything also agrees), and how many *different*? If two texts are equal, they count as one different
# text. `tales.check(text, 1)` has the attributes `grammatical` and `consistent`.
#
# <details><summary>Hint 1: the idea</summary>Three shares of the number of texts, times 100.</details>
# <details><summary>Hint 2: the shape</summary><code>found = [tales.check(text, 1) for text in texts]</code> is a list
# with an entry per text; a <code>set</code> of the texts keeps each only once.</details>
# <details><summary>Hint 3: the code</summary><code>100 * sum(c.consistent for c in found) / len(texts)</code>, the
# same for grammatical, and <code>100 * len(set(texts)) / len(texts)</code>.</details>


# %% tags=["exercise"]
def my_quality(texts):
    """Returns (per cent grammatical, per cent consistent, per cent different) of a list of texts."""
    return None  # your lines here


# %% tags=["solution"]
def my_quality(texts):
    """Returns (per cent grammatical, per cent consistent, per cent different) of a list of texts."""
    found = [tales.check(text, 1) for text in texts]
    grammatical = sum(c.grammatical for c in found)
    consistent = sum(c.consistent for c in found)
    return tuple(100 * n / len(texts) for n in (grammatical, consistent, len(set(texts))))


# %%
check.quality(my_quality)

# %% [markdown]
# Quality is one side, **variety** the other: a sampler that always writes the same story has none. We measure it twice.
# The *entropy of the tokens* is over all stories together. And the grammar knows the exact probability of every correct
# story: true stories cost `tales.entropy(1)` nats on average. A sampler whose stories cost clearly less prefers the
# likely ones. (Beware: a wrong story has no cost. Where one kind of story goes wrong more often than the others, the
# mean of the right ones moves, too.)

# %%
from diffuapriel.evaluation.samples import unigram_entropy

quality_of, N = use(check.quality, my_quality), 4 if QUICK else 100


def describe(table):
    """Quality (in per cent, with intervals) and variety of stories given as ids (rows, LENGTH)."""
    texts = [text_of(ids) for ids in table]
    grammatical, consistent, different = quality_of(texts)
    costs = [-tales.log_prob(text, 1) for text in texts]
    costs = [cost for cost in costs if cost < math.inf]
    return {
        "grammatical": grammatical,
        "consistent": consistent,
        "interval": wilson_interval(consistent / 100 * len(texts), len(texts)),
        "different": different,
        "entropy": unigram_entropy(i for ids in table.tolist() for i in ids if i != EOS),
        "cost": mean_interval(costs) if len(costs) > 2 else (math.nan, (math.nan, math.nan)),
        "texts": texts,
    }


true = describe(draw_stories(N, random.Random(99)))
shares = ", ".join(
    f"{true[name]:.0f} % {name}" for name in ("grammatical", "consistent", "different")
)
mean, (low, high) = true["cost"]
print(f"true stories: {shares}; entropy of the tokens {true['entropy']:.2f} nats")
print(f"they cost {mean:.2f} nats each, from {low:.2f} to {high:.2f}")

# %% [markdown]
# Now your own sampler, from your parts: how many per step, which positions, and later which tokens.

# %%
counts_of = use(check.reveal_counts, reveal_counts)
reach = use(check.threshold_choice, threshold_choice)


@torch.no_grad()
def my_writer(n, rule, steps=LENGTH, threshold=None, top_p=None, seed=0):
    """Write n stories from masks only and describe them; with a threshold, `steps` is ignored."""
    generator = torch.Generator().manual_seed(seed)
    ids, calls, counts = torch.full((n, LENGTH), MASK), 0, counts_of(LENGTH, steps)
    for step in range(LENGTH if threshold else steps):
        rows = (ids == MASK).any(1).nonzero().flatten()
        if not len(rows):
            break
        hidden, calls = ids[rows] == MASK, calls + len(rows)
        sigma = -torch.log(1 - hidden.float().mean(1).clamp(max=0.999))
        p = model(ids[rows], sigma, hidden)[:, :MASK].double().softmax(-1)
        for row, q in zip(rows.tolist(), p.split(hidden.sum(1).tolist())):
            if threshold:
                chosen = reach(confidence(q), threshold)
            else:
                u = torch.rand(len(q), generator=generator)
                chosen = choose(rule, q, u, counts[step], steps - step)
            positions, q = (ids[row] == MASK).nonzero().flatten()[chosen], q[chosen]
            if top_p:
                q = torch.stack([keep(one, top_p) for one in q])
            if len(q):
                ids[row, positions] = torch.multinomial(q, 1, generator=generator)[:, 0]
    return describe(ids) | {"calls": calls / n}


# %%
budget = [1, 6] if QUICK else [1, 2, 4, 8, 16]
compared = ["random", "ancestral", "low_confidence", "entropy", "margin"]
curves = {
    strategy: [my_writer(N, strategy, steps) for steps in budget] for strategy in tqdm(compared)
}
thresholds = [0.3, 0.9] if QUICK else [0.3, 0.5, 0.7, 0.95]
curves["threshold"] = [my_writer(N, "threshold", threshold=value) for value in thresholds]

figure = go.Figure(layout={"xaxis_title": "model calls", "yaxis_title": "% consistent"})
for strategy, points in curves.items():
    x, y = [m["calls"] for m in points], [m["consistent"] for m in points]
    bars = error_bars(y, [m["interval"] for m in points], scale=100)
    figure.add_scatter(x=x, y=y, name=strategy, mode="lines+markers", error_y=bars)
show(figure)
for strategy in compared:
    m = curves[strategy][-2]
    low, high = m["interval"]
    print(
        f"{strategy:15} {m['calls']:4.1f} calls: {m['consistent']:3.0f} % consistent [{low:.0%}, {high:.0%}]"
    )

# %% [markdown]
# Read it from left to right: **steps buy agreement**, for every strategy. Then compare the curves at equal numbers of
# calls, and look at the thin lines, Wilson's 95 % intervals: where they overlap, a hundred stories cannot tell two
# strategies apart. (`remdm` comes in section 5. `first_hitting` has no setting: it fills one token per call.)
#
# Does a fixed number per call have a weakness? The surest tokens of all are the end-of-text tokens at the end of the
# row. A rule that fills the surest positions first fills them early, two or three per call, and the words that must
# agree are left for the last calls, together. Is that so? We test it in two ways, at six calls. First, the rows get the
# true **end** of a story: the full stop and the tail are given, and only the words are masked. Second, **blocks**
# (`block_length`): the sampler fills the row in blocks from left to right, so the tail cannot come first.


# %%
@torch.no_grad()
def measure(n=N, canvases=None, writer=model, **options):
    """Write n stories with the package's sampler (from masks only, or on canvases); describe them."""
    engine = Sampler(SamplerConfig(**options), schedule, MASK)
    state = engine.start(canvases or [Canvas.masks(LENGTH, tokenizer)] * n)
    while not engine.done(state):
        state = engine.advance(writer, state)
    return describe(torch.from_numpy(state.ids.copy())) | {"calls": state.nfe.mean()}


STORIES = 4 if QUICK else 400
known = draw_stories(STORIES, random.Random(4))
end = (known == EOS) | (known == tokenizer.encode(".")[0])
known = [Canvas(row.masked_fill(~its, MASK), its, MASK) for row, its in zip(known, end)]
surest = {"strategy": "low_confidence", "steps": 6}
tail = {
    "no blocks": measure(STORIES, **surest),
    "end given": measure(STORIES, known, **surest),
    **{f"blocks of {n}": measure(STORIES, block_length=n, **surest) for n in (8, 4)},
}

# %%
figure = go.Figure(layout={"yaxis_title": "% consistent at six calls"})
bars = error_bars(
    [m["consistent"] for m in tail.values()], [m["interval"] for m in tail.values()], 100
)
figure.add_bar(x=list(tail), y=[m["consistent"] for m in tail.values()], error_y=bars)
show(figure)
for name, m in tail.items():
    low, high = m["interval"]
    apart = low > tail["no blocks"]["interval"][1] or high < tail["no blocks"]["interval"][0]
    told = "clearly different from no blocks" if apart else "cannot be told from no blocks"
    print(
        f"{name:14} {m['calls']:4.1f} calls {m['consistent']:4.0f} % [{low:.0%}, {high:.0%}]",
        end="",
    )
    print(f"  {told}" if name != "no blocks" else "")

# %% [markdown]
# If the row with the end given is far ahead, the tail is what costs: without it, all six calls are spent on words.
# Blocks put the tail last too, but in so short a row they are no remedy: every block gets the same share of the calls,
# those of the tail as well, and neighbors, which must agree the most, are filled together. Blocks are made for long
# texts (lesson 09). `threshold` takes another way: it fills many tokens where it is sure, and one at a time where it is
# not. Section 8 compares them at about ten calls.
#
# Does the quality cost variety? Here is the exact cost of the correct stories.

# %%
entropy = tales.entropy(1)
figure = go.Figure(layout={"xaxis_title": "model calls", "yaxis_title": "nats per correct story"})
for strategy, points in curves.items():
    points = [m for m in points if m["cost"][0] == m["cost"][0]]  # where three are correct
    y, intervals = [m["cost"][0] for m in points], [m["cost"][1] for m in points]
    bars = error_bars(y, intervals)
    x = [m["calls"] for m in points]
    figure.add_scatter(x=x, y=y, name=strategy, mode="lines+markers", error_y=bars)
figure.add_hline(
    y=entropy,
    line_dash="dash",
    annotation_text=f"true stories: {entropy:.2f}",
    annotation_position="bottom left",
)
show(figure)
for strategy in curves:
    last = curves[strategy][-1]
    mean, (low, high) = last["cost"]
    side = "below" if high < entropy else "above" if low > entropy else "cannot be told from"
    print(
        f"{strategy:14} {last['calls']:5.1f} calls  {last['different']:3.0f} % different  cost {mean:.2f}, "
        f"from {low:.2f} to {high:.2f}: {side} the true {entropy:.2f}"
    )

# %% [markdown]
# Where an interval contains the dashed line, no loss of variety is seen: at temperature 1, as here, none is to be
# expected. An interval *above* it means that a kind of story that costs little is missing among the right ones. Which
# one? With few calls hardly any story is correct: the intervals are wide, and where fewer than three are correct there
# is no point.

# %%
for verb in ("found", "lost", "gave", "took", "had"):
    kind = [text for text in curves["low_confidence"][-1]["texts"] if f" {verb} " in text]
    right = sum(tales.check(text, 1).consistent for text in kind)
    print(f"{verb:6} {len(kind):3} stories, {right:3} right")

# %% [markdown]
# *Had seven eggs, ate three and kept four*: three numbers must agree, and this small model cannot subtract.

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
# Note two things. *All others* are hundreds of tokens that cannot come there; each has almost no probability, but a
# high temperature raises them all. And top-k cuts at a fixed number: it may keep nonsense at one position and drop good
# words at the next. Top-p adapts to the shape of the distribution.
#
# ### Exercise 5: top-p
#
# *May · hard · 6 minutes*
#
# Keep the fewest tokens, best first, whose probabilities together reach `share`. The others get 0. Then rescale the
# rest to sum to 1.
#
# <details><summary>Hint 1: the idea</summary>Sort from large to small. A token stays if the tokens <b>before</b> it
# have not yet reached the share. So the best one always stays.</details>
# <details><summary>Hint 2: the shape</summary><code>ordered, indices = p.sort(descending=True)</code> are both (V,).
# <code>ordered.cumsum(0) - ordered</code> is the sum before each token.</details>
# <details><summary>Hint 3: the code</summary><code>ordered = torch.where(before &lt; share, ordered, 0)</code>, and
# <code>torch.zeros_like(p).scatter(0, indices, ordered / ordered.sum())</code> restores the order.</details>


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

# %%
keep = use(check.keep_top_p, keep_top_p)
cut = my_writer(N, "low_confidence", top_p=0.9)
print(
    f"your sampler, one token per call, with top-p 0.9: {cut['consistent']:.0f} % consistent,",
    end=" ",
)
print(f"without: {curves['low_confidence'][-1]['consistent']:.0f} %")

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
guess_2 = predict("A", "B", "C", name="05.2")
guess_2

# %%
cold = measure(strategy="low_confidence", steps=LENGTH, temperature=0)
different = len(set(cold["texts"]))
print(f"{N} stories, {different} different; {cold['consistent']:.0f} % are consistent")
print(cold["texts"][0])
guess_2.reveal()

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
# Most strategies never take back what they wrote. Suppose a finished story says *Tom lost her kite*. A model that sees
# both sides should notice. So hide a few tokens of the finished story at random, fill them again, and repeat: each time
# the mistake is among them, the model sees all the rest.
#
# We plant a mistake in each of many true stories, *her* for *his* or *his* for *her*, and give the sampler eight rounds
# with a fifth of the tokens hidden. As a control, the same rounds run on the same stories without the mistake.

# %%
SWAP = {tokenizer.encode(" his")[0]: tokenizer.encode(" her")[0]}
SWAP |= {his: her for her, his in SWAP.items()}


def plant(rows):
    """Stories as ids and the same with one wrong pronoun; keeps those that are then not consistent."""
    good, bad, where = [], [], []
    for row in rows:
        for position in [i for i, token in enumerate(row.tolist()) if token in SWAP][:1]:
            changed = row.clone()
            changed[position] = SWAP[row[position].item()]
            found = tales.check(text_of(changed), 1)
            if found.grammatical and not found.consistent:
                good, bad, where = [*good, row], [*bad, changed], [*where, position]
    return torch.stack(good), torch.stack(bad), torch.tensor(where)


def rounds_of(rows, count, t=0.2):
    """The rows after each round of hiding a share t and filling again, (rounds + 1, rows, LENGTH)."""
    after, noise = [rows], torch.Generator().manual_seed(3)
    for number in range(count):
        options = SamplerConfig(strategy="low_confidence", steps=4, top_p=0.9, seed=number)
        noisy = corrupt(after[-1], torch.full((len(rows),), t), schedule, MASK, noise)
        after.append(generate(Sampler(options, schedule, MASK), model, noisy))
    return torch.stack(after)


# %%
good, bad, where = plant(draw_stories(40 if QUICK else 400, random.Random(6)))
ROUNDS, row = (2 if QUICK else 8), torch.arange(len(bad))
mended, control = rounds_of(bad, ROUNDS), rounds_of(good, ROUNDS)
survives = [(ids[row, where] == bad[row, where]).float().mean().item() for ids in mended]
figure = go.Figure(layout={"xaxis_title": "rounds", "yaxis_title": "% of the stories"})
for name, tables in (("consistent, mistake planted", mended), ("consistent, control", control)):
    points = [describe(ids) for ids in tables]
    y = [m["consistent"] for m in points]
    bars = error_bars(y, [m["interval"] for m in points], scale=100)
    figure.add_scatter(
        x=list(range(ROUNDS + 1)), y=y, name=name, mode="lines+markers", error_y=bars
    )
    low, high = points[-1]["interval"]
    print(
        f"{name:28} {y[0]:3.0f} % before, {y[-1]:3.0f} % after {ROUNDS} rounds [{low:.0%}, {high:.0%}]"
    )
figure.add_scatter(y=[100 * s for s in survives], name="the planted word is there", line_dash="dot")
figure.update_yaxes(range=[-3, 103])
show(figure)
print(f"the planted word is still there in {survives[-1]:.0%} of {len(bad)} stories")

# %% [markdown]
# Does the share of right stories rise towards the control? And is the planted word still there in more stories than are
# wrong now? Then the model changed the *other* side of some: *Tom* became *Ana*, and *her* is no mistake any more. The
# model cannot know which of the two was meant.
#
# `remdm` does this while it writes: at every step a filled position may be masked again, with a small probability, at
# most `remask_cap`. Then the model predicts it again, from all that is written by then. The price is more steps. Is it
# worth it? Compare with as many calls from an empty canvas, and with fewer.

# %%
few, many = (4, 6) if QUICK else (16, 64)
for strategy, steps in (
    ("low_confidence", few),
    ("ancestral", few),
    ("remdm", few),
    ("remdm", many),
):
    m = measure(STORIES // 2, strategy=strategy, steps=steps, remask_cap=0.1, top_p=0.9)
    low, high = m["interval"]
    print(
        f"{strategy:15} {m['calls']:4.1f} calls: {m['consistent']:3.0f} % consistent [{low:.0%}, {high:.0%}]"
    )

# %%
options = SamplerConfig(strategy="remdm", steps=many, remask_cap=0.1, top_p=0.9, seed=2)
sampler, blank = Sampler(options, schedule, MASK), Canvas.masks(LENGTH, tokenizer)
trace = Player().record(sampler, model, blank, tokenizer, model="my model")

# %% [markdown]
# Compare `remdm` with `ancestral`, which it resembles: are its further calls worth anything? Look at the intervals.
# `low_confidence` is ahead of both with a quarter of these calls: it never had to correct what it did not write.
#
# Press play, and watch tokens disappear and come back. Early on there is little text that could correct a token, so
# what comes back may begin another story. Late, when nearly everything is there, few tokens are hidden at once, and
# what comes back must fit.

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
# From the left, all five are possible. The word that decides, *to* or *in*, comes four tokens later. The same holds for
# a mask at the very beginning: *her* says that the name must be a girl's. Nothing special is needed for this: tokens
# may be given at any position.

# %%
canvas = Canvas.from_text("[MASK] lost her [MASK] hat [MASK:3].", tokenizer, length=LENGTH)
sampler = Sampler(SamplerConfig(strategy="low_confidence", steps=LENGTH, seed=3), schedule, MASK)
trace = Player().record(sampler, model, canvas, tokenizer, model="my model")

# %%
m = measure(N, [canvas] * N, strategy="low_confidence", steps=LENGTH, top_p=0.9)
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
guess_3 = predict("A", "B", "C", name="05.3")
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

# %%
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
guess_3.reveal()

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
# You may call the model about **ten times** per story. Which strategy, how many steps, how much sharpening? The cell
# below is your workbench. Change its lines, add your own, and run it again. Beat the best line without losing variety.

# %%
tries = [
    {"strategy": "low_confidence", "steps": 10},
    {"strategy": "low_confidence", "steps": 10, "top_p": 0.9},
    {"strategy": "low_confidence", "steps": 10, "block_length": 4},
    {"strategy": "random", "steps": 10},
    {"strategy": "random", "steps": 10, "top_p": 0.9},
    {"strategy": "threshold", "threshold": 0.8},
    {"strategy": "threshold", "threshold": 0.8, "top_p": 0.9},
]
print(
    f"{STORIES} stories each; calls, consistent with its interval, entropy (true {true['entropy']:.2f})"
)
results = []
for options in tqdm(tries):
    m = measure(STORIES, seed=2, **options)
    (low, high), words = m["interval"], ", ".join(f"{k} {v}" for k, v in options.items())
    results.append((m["consistent"], low, high, words))
    print(
        f"{m['calls']:5.1f}  {m['consistent']:3.0f} % [{low:.0%}, {high:.0%}]  {m['entropy']:.2f}   {words}"
    )
best = max(results)
rivals = [words for _, _, high, words in results if high > best[1] and words != best[3]]
print(f"\nthe best line: {best[3]}")
print("not told apart from it:", "; ".join(rivals) or "none: it is clearly ahead")

# %% [markdown]
# Compare lines that differ in one thing: with and without top-p; with and without blocks; a fixed number of steps and a
# threshold. Which of the differences are larger than their intervals? Only these are findings.
#
# The package has such a benchmark too: `plan` lists the points, and `quality_events` measures them one by one, with
# confidence intervals. It is stricter than ours: it reads the text after the first end of text as another story. The
# app draws its curves with the same functions.

# %%
from diffuapriel.evaluation.steps_quality import plan as plan_points
from diffuapriel.evaluation.steps_quality import quality_events

steps = [2] if QUICK else [3, 6, 12]
configs = plan_points(["low_confidence", "random", "threshold"], steps, LENGTH, threshold=0.8)
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
# ## 9. Distilled to few passes
#
# A rule chooses how many tokens a call fills, but it can fill many only where the model is *sure*. Here that is late:
# any name may begin a story, and each word depends on the ones before it. Can the model learn to be sure earlier?
# **Distillation to few passes** trains a copy of the model, the *student*, on what the *teacher* wrote slowly, one
# token per call:
#
# - **Certainty forcing** (dParallel, d3LLM). The student sees a state of the teacher's own writing: the tokens that the
#   teacher filled first; the rest is masked. It learns the teacher's tokens at the masks, and to be *sure* of those
#   that it has right.
# - **Self-distillation through time** (SDTT). The student learns in one call the probabilities that the teacher had for
#   each token some calls later, when it filled it.
#
# We take the first. The teacher writes, and we keep the order in which it filled its tokens.

# %%
from diffuapriel.training.distillation import write_trajectories

careful = SamplerConfig(strategy="low_confidence", steps=LENGTH, top_p=0.9, seed=5)
written, order = write_trajectories(model, tokenizer, careful, 8 if QUICK else 1024, LENGTH, 256)
words = tokenizer.token_strings(written[0].tolist())
for known in (4, 9, 12):
    shown = [word if rank < known else " ▁" for word, rank in zip(words, order[0].tolist())]
    print(f"after {known:2} calls:", "".join(shown).replace("<|endoftext|>", " ·"))

# %% [markdown]
# ### Exercise 6: to be sure
#
# *May · medium · 6 minutes*
#
# Write the loss. It has two terms: the mean of −log *p* of the teacher's tokens, and `weight` times the mean *entropy*
# of the student's probabilities, **over the masks where its best token is the teacher's**. Where it is wrong, it is not
# to be sure. If it is right nowhere, the second term is 0.
#
# <details><summary>Hint 1: the idea</summary>The first term picks one entry per row. For the second, an entropy per
# row, and a mean over some of the rows.</details>
# <details><summary>Hint 2: the shape</summary><code>right = log_p.argmax(1) == tokens</code> and <code>entropy =
# -(log_p.exp() * log_p).sum(1)</code> are both (masks,). The mean over the right ones is their sum over their number,
# which may be 0.</details>
# <details><summary>Hint 3: the code</summary><code>-log_p[torch.arange(len(tokens)), tokens].mean()</code>, plus
# <code>weight * (right * entropy).sum() / right.sum().clamp_min(1)</code>.</details>


# %% tags=["exercise"]
def my_certainty(log_p, tokens, weight):
    """log_p (masks, V) of the student, tokens (masks,) of the teacher. Returns the loss, a tensor of shape ()."""
    return None  # your lines here


# %% tags=["solution"]
def my_certainty(log_p, tokens, weight):
    """log_p (masks, V) of the student, tokens (masks,) of the teacher. Returns the loss, a tensor of shape ()."""
    right = log_p.argmax(1) == tokens
    entropy = -(log_p.exp() * log_p).sum(1)
    sure = (right * entropy).sum() / right.sum().clamp_min(1)
    return -log_p[torch.arange(len(tokens)), tokens].mean() + weight * sure


# %%
check.certainty(my_certainty)

# %% [markdown]
# Three students learn from the same stories: one without the second term (weight 0), one with a little of it (0.3), one
# with all of it (1). All write by the same rule, `threshold` 0.97.
#
# **Predict, then run.** What does the student of weight 1 gain over its teacher, and what does it lose?
#
# - **A** · fewer calls, but fewer consistent stories
# - **B** · fewer calls and as many consistent stories, but less variety
# - **C** · fewer calls, and nothing is lost

# %%
guess_4 = predict("A", "B", "C", name="05.4")
guess_4

# %%
sure_loss = use(check.certainty, my_certainty)


def distill(weight, steps=3 if QUICK else 200):
    """A copy of the model, trained to be sure of what the model wrote."""
    student = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(student.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    lr_schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-4, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(0)
    for _ in tqdm(range(steps), desc=f"weight {weight:g}"):
        rows = torch.randint(len(written), (32,), generator=generator)
        known = (torch.rand(32, 1, generator=generator) * LENGTH).long()
        ids, masked = written[rows], order[rows] >= known
        sigma = -torch.log(1 - masked.float().mean(1).clamp(max=0.999))
        logits = student(ids.masked_fill(masked, MASK), sigma, masked)[:, :MASK]
        loss = sure_loss(logits.log_softmax(-1), ids[masked], weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        lr_schedule.step()
    return student.eval()


writers = {"teacher": model}
writers |= {f"student, weight {weight:g}": distill(weight) for weight in (0, 0.3, 1)}

# %%
few = {"strategy": "threshold", "threshold": 0.97, "top_p": 0.9, "seed": 1}
wrote = {name: measure(STORIES, writer=writer, **few) for name, writer in writers.items()}
for name, m in wrote.items():
    low, high = m["interval"]
    print(
        f"{name:19} {m['calls']:5.2f} calls {m['consistent']:4.0f} % consistent [{low:.0%}, {high:.0%}] "
        f"{m['different']:4.0f} % different  entropy {m['entropy']:.2f}"
    )
before, after = wrote["teacher"], wrote["student, weight 1"]
lost = before["entropy"] - after["entropy"]
worse = after["interval"][1] < before["interval"][0]
guess_4.reveal(
    "A" if worse else "B" if lost > 0.1 else "C", f"The entropy fell by {lost:.2f} nats."
)

# %% [markdown]
# The student of weight 0 is its teacher's equal: to read its own stories again teaches a model nothing. The term of
# certainty saves calls and mistakes, and takes variety for it: the student is sure of the likeliest name and the
# likeliest thing, as at a low temperature. That is the trap of this method. A student that always wrote one story would
# need a single call, and every story would be right.
#
# Is it worth it in a larger model? `tales-blocks-diffuapriel` writes whole stories of the full grammar. Six students of
# it were trained on a GPU (`diffuapriel train --teacher`), and `diffuapriel tune` measured teacher and students alike:
# in blocks of 16, temperature 0.5, `threshold` from cautious to bold. The figures are in the repository. A call counts
# always, a token only if it is text: padding is none.

# %%
import json

from diffuapriel import assets

file = assets.path("results", "distilled.json")
distilled = json.loads(file.read_text(encoding="utf-8"))
measured = {"teacher": distilled["teacher"], **distilled["students"]}
figure = go.Figure(layout={"xaxis_title": "tokens per call", "yaxis_title": "% consistent"})
for name, found in measured.items():
    points = [found["frontier"]["reference"], *found["frontier"]["points"]]
    x = [point["tokens_per_pass"] for point in points]
    y = [100 * point["quality"][0]["value"] for point in points]
    bars = error_bars(y, [point["quality"][0]["ci95"] for point in points], scale=100)
    figure.add_scatter(x=x, y=y, name=name, mode="lines+markers", error_y=bars)
show(figure)

# %%
for name, found in measured.items():
    slow, fast = (
        found["one"],
        found.get("choice"),
    )  # one token per call; the fastest rule without loss
    speed = f"{fast['tokens_per_pass']:.2f} tokens per call" if fast else "loses at any threshold"
    print(
        f"{name:34} {speed:24} {slow['consistent']:.0%} consistent  entropy {slow['token_entropy']:.2f}  "
        f"plots {slow['plots_chi2'] / slow['stories']:.1f}"
    )

# %% [markdown]
# The last three columns are with one token per call; *plots* is the chi-square of the plots against the grammar's own
# probabilities, per story. The larger students repeat what yours showed: certainty makes stories consistent, and more
# alike. Of speed they gain next to nothing. A careful rule already fills all that the teacher is sure of; what is left
# are the free choices of a story, and to be sure of those is to choose always the same.
#
# Lesson 09 takes another way: a model of blocks drafts many tokens and *verifies* them in the same call. It writes 5 to
# 6 tokens per call, and exactly the text of one token per call.

# %%
score()

# %% [markdown]
# ## What you learned
#
# - A **strategy** chooses the positions; temperature, top-k and top-p shape what is drawn there.
# - Tokens filled in one call do not know about each other. **Calls buy agreement**. A fixed number per call may spend
#   many of them on the end of a row: a row whose end is known needs fewer.
# - Quality alone can be bought with sameness. **Look at variety with every figure.**
# - A finished story with a mistake can be corrected: hide a little, fill again. `remdm` does so while it writes, for
#   more calls.
# - **32-bit random numbers** cut off rare tokens, which works like a hidden low temperature.
# - **Distillation** makes a model sure in fewer calls. Compare the student's variety with its teacher's before its
#   speed.
#
# ## Going further
#
# - Which positions does `low_confidence` fill first, and which last? Collect `frame.revealed` over many traces.
# - Write a ninth strategy, such as *from left to right*, and compare it at 16 steps. Is such a story easier to write in
#   some order?
# - Section 9: lower the threshold step by step. At which value does each student lose its stories, and at which its
#   teacher?
# - Repeat section 3 with the bundled `tales-diffuapriel` on long stories. Does the ranking of the strategies hold?
#
# **Papers.** Confidence: MaskGIT, [arXiv:2202.04200](https://arxiv.org/abs/2202.04200), and LLaDA,
# [arXiv:2502.09992](https://arxiv.org/abs/2502.09992). Entropy: Dream,
# [arXiv:2508.15487](https://arxiv.org/abs/2508.15487). Margin: [arXiv:2502.06768](https://arxiv.org/abs/2502.06768).
# Threshold: Fast-dLLM, [arXiv:2505.22618](https://arxiv.org/abs/2505.22618). Ancestral: MDLM,
# [arXiv:2406.07524](https://arxiv.org/abs/2406.07524). Remasking: ReMDM,
# [arXiv:2503.00307](https://arxiv.org/abs/2503.00307). First hitting, and the noise:
# [arXiv:2409.02908](https://arxiv.org/abs/2409.02908). Top-p: [arXiv:1904.09751](https://arxiv.org/abs/1904.09751).
# Distillation: dParallel, [arXiv:2509.26488](https://arxiv.org/abs/2509.26488), d3LLM,
# [arXiv:2601.07568](https://arxiv.org/abs/2601.07568), and SDTT,
# [arXiv:2410.21035](https://arxiv.org/abs/2410.21035).
