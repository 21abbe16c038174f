# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · Which backbone learns?
#
# Three backbones do the same job: Mamba-2 in every block, Mamba-2 with some attention, and attention in every block.
# Which of them learns best? The question is easy to ask and easy to answer wrongly. In this lesson you train all three
# side by side. You learn what a fair comparison needs, and how much of a difference is luck.
#
# **You will be able to**
#
# - match models in parameters and in data, and say why this matters;
# - show that one learning rate for all models is unfair, and find the best rate for each;
# - read learning curves against tokens and against seconds, and compare them with the best possible loss;
# - tell a difference between two models from noise, and from the luck of a seed.
#
# **You need** lesson 01 (the loss, training). Lessons 02 and 03 explain what is inside the models; here they are black
# boxes.
#
# | part | minutes |
# |---|---|
# | 1. Equal parameters | 10 |
# | 2. Equal tokens, in the same order | 12 |
# | 3. A learning rate for each | 12 |
# | 4. The race: tokens, seconds and the entropy | 10 |
# | 5. A difference, or noise? | 12 |
# | 6. Real text | 6 |
# | 7. What this can and cannot tell | 9 |
#
# {{measured}}
#
# Where you read **predict, then run**, click a letter before you run the next cell. Three **exercises** check your
# answer, and the lesson then runs *your* code; where you have none, ours takes its place.

# %% [markdown]
# The next cell only prepares things. Run it.

# %%
import math
import random
import time
from dataclasses import dataclass, field

import plotly.graph_objects as go
import torch
from IPython.display import Markdown, display
from tqdm.auto import tqdm

from diffuapriel import Denoiser, get_schedule, get_tokenizer, preset
from diffuapriel.charts.palette import COLORS
from diffuapriel.lessons import QUICK, check, predict, prepare, score, show, use
from diffuapriel.lessons.figure import error_bars

prepare()
tokenizer, schedule = get_tokenizer("gpt2-4k"), get_schedule("log-linear")
EOS, MASK = tokenizer.eos_id, tokenizer.mask_id

# %% [markdown]
# ## 1. Equal parameters
#
# The three backbones:
#
# | name | what mixes the tokens | MLP |
# |---|---|---|
# | `diffuapriel` | bidirectional Mamba-2 in every block | 2 times as wide inside |
# | `diffuapriel-h` | the same, with a few attention blocks (H is for hybrid) | 2 times |
# | `diffutran` | attention in every block | 4 times |
#
# A larger model usually learns better, whatever is inside. So the three must be equally large. What does *large* mean?
# The usual measure is the number of **parameters**, the numbers that training adjusts. Equal depth and width are not
# enough, because the blocks differ.

# %%

for name in COLORS:
    same_shape = preset("nano", name, d_model=128, depth=6)
    print(f"{name:14} d_model 128, depth 6: {same_shape.parameters / 1e6:.2f} million parameters")

# %% [markdown]
# ### Exercise 1: match a budget
#
# *Must · easy · 4 minutes*
#
# A *shape* is a pair (d_model, depth). You are given a function that counts the parameters of a shape, a target, and a
# list of shapes. Find the shape whose count is closest to the target.
#
# <details><summary>Hint 1: the idea</summary>The closest count may be a little above the target or a little below it.
# Which number is small for a good shape?</details>
# <details><summary>Hint 2: the shape</summary><code>min(shapes, key=...)</code> takes a function that gives each shape
# a number, and returns the shape with the smallest number. A shape is a pair, and <code>count(*shape)</code> is its
# count.</details>
# <details><summary>Hint 3: the code</summary>The number is <code>abs(count(*shape) - target)</code>; <code>lambda
# shape: ...</code> makes a function of it.</details>


# %% tags=["exercise"]
def closest_shape(count, target, shapes):
    """count(d_model, depth) gives parameters; shapes is a list of (d_model, depth). Returns one of them."""
    return None  # your line here


# %% tags=["solution"]
def closest_shape(count, target, shapes):
    """count(d_model, depth) gives parameters; shapes is a list of (d_model, depth). Returns one of them."""
    return min(shapes, key=lambda shape: abs(count(*shape) - target))


# %%
check.closest_shape(closest_shape)

# %% [markdown]
# The models of this lesson must learn within a minute, so they are smaller than *nano*. Most parameters of such a small
# model are in its two tables: the embedding (one row per input token) and the head (one row per output token). Both
# grow with the width, `d_model`. So we use the same width for all: the tables are equal, and only the blocks have to
# match. The depth of DiffuTran comes from exercise 1. The hybrid's attention block is smaller than its Mamba blocks; to
# make up for it, its Mamba blocks get a larger state.

# %%
small = {"d_model": 64, "depth": 3, "expand": 1, "headdim": 16}
CONFIGS = {
    "diffuapriel": preset("nano", "diffuapriel", d_state=32, **small),
    "diffuapriel-h": preset("nano", "diffuapriel-h", d_state=64, **small),
}
pick = use(check.closest_shape, closest_shape)
target = CONFIGS["diffuapriel"].parameters


def parameters_of(d_model, depth):
    """Parameters of a DiffuTran of this shape."""
    return preset("nano", "diffutran", d_model=d_model, depth=depth).parameters


d_model, depth = pick(parameters_of, target, [(64, depth) for depth in range(1, 9)])
CONFIGS["diffutran"] = preset("nano", "diffutran", d_model=d_model, depth=depth)
print(f"DiffuTran gets {depth} blocks")
counts = {name: config.parameters for name, config in CONFIGS.items()}
tables = 2 * 64 * CONFIGS["diffutran"].padded_vocab_size
for name, config in CONFIGS.items():
    print(
        f"{name:14} {counts[name]:,} parameters, {counts[name] - tables:,} without the tables;"
        f" blocks: {', '.join(config.layer_kinds)}"
    )
spread = max(counts.values()) / min(counts.values()) - 1
print(f"\nThe largest is {spread:.1%} larger than the smallest.")
assert spread < 0.02

# %% [markdown]
# Look at the second column too: without the equal tables, the difference is relatively larger. Anyone who reports a
# match should say what was counted.

# %% [markdown]
# ## 2. Equal tokens, in the same order
#
# The text is that of lesson 01: tales of one sentence, each in its own row, padded with end-of-text tokens. Here a
# tokenizer for any text cuts it, because section 6 needs one: rare words become several tokens.

# %%
from diffuapriel.tales import language as tales

LENGTH = 18  # tokens in a row


def draw_stories(rows, rng):
    """New stories as a table of token ids, (rows, LENGTH)."""
    table = []
    for _ in range(rows):
        ids = tokenizer.encode(tales.generate(1, rng))
        table.append(ids + [EOS] * (LENGTH - len(ids)))
    return torch.tensor(table)


def tales_batch(step, rows=16):
    """The batch of a step: the same for every model."""
    return draw_stories(rows, random.Random(f"train {step}"))


print(tokenizer.decode(tales_batch(0)[0].tolist()).replace("<|endoftext|>", " ·"))

# %% [markdown]
# Luck enters a training run in three ways: through the initial weights, the stories, and the noise (which time *t*,
# which tokens are hidden). We cannot remove luck, but we can give all models the *same* luck. They see the same stories
# in the same order, with the same noise.
#
# The learning rate follows a schedule: a **warm-up**, in which it rises linearly from nearly 0 to its **peak**, then a
# **cosine** down to a tenth of the peak. The warm-up protects the untrained model from large steps in directions that
# are still mostly noise. The decay lets it settle.

# %% [markdown]
# ### Exercise 2: warm-up and cosine
#
# *Must · medium · 6 minutes*
#
# Write the schedule. Steps count from 0. In the warm-up, step 0 has the rate peak/warmup, and the last step of the
# warm-up (step warmup − 1) has the peak. From step `warmup` on, the rate follows half a cosine wave: at step `warmup`
# it is the peak, and at step `total` it would be a tenth of the peak.
#
# <details><summary>Hint 1: the idea</summary>Write the two parts separately: a line up, then half a wave
# down.</details>
# <details><summary>Hint 2: the shape</summary>For the second part, first compute how much of the way from
# <code>warmup</code> to <code>total</code> is done, a number from 0 to 1. <code>0.5 * (1 + math.cos(math.pi *
# done))</code> falls from 1 to 0.</details>
# <details><summary>Hint 3: the code</summary>The line is <code>peak * (step + 1) / warmup</code>. The wave, times 0.9
# and plus 0.1, falls from 1 to 0.1; multiply it by the peak.</details>


# %% tags=["exercise"]
def my_rate(step, peak, warmup, total):
    """The learning rate of a step, 0 <= step < total."""
    return None  # your lines here


# %% tags=["solution"]
def my_rate(step, peak, warmup, total):
    """The learning rate of a step, 0 <= step < total."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / (total - warmup)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


# %%
check.warmup_cosine(my_rate)

# %% [markdown]
# The package has the same schedule (`learning_rate` in `diffuapriel.training.optimizer`), and `make_optimizer` returns
# AdamW as the package uses it for all training. `noise_seed` turns the number of a step into the seed of its noise.
#
# Now the loop. It takes several **runs**, each a model with its own peak rate, and trains them **interleaved**: one
# step of the first, one step of the second, and so on, all on the same batch. So the loop itself guarantees equal
# tokens. And when the computer is slow for a moment, it is slow for all of them.

# %%
from diffuapriel.diffusion.objective import nelbo
from diffuapriel.training.loop import noise_seed
from diffuapriel.training.optimizer import make_optimizer

rate_of = use(check.warmup_cosine, my_rate)


@dataclass
class Run:
    """One model in training: `losses` in nats/token, `seconds` of each step."""

    name: str
    peak: float  # learning rate
    seed: int = 0  # of the initial weights
    losses: list = field(default_factory=list)
    seconds: list = field(default_factory=list)

    def __post_init__(self):
        torch.manual_seed(self.seed)
        self.model = Denoiser(CONFIGS[self.name])
        self.optimizer = make_optimizer(
            self.model, learning_rate=self.peak, betas=(0.9, 0.95), weight_decay=0.0
        )


# %%
def one_step(run, ids, step, total):
    """One training step of one run on the batch `ids`; records its loss and its seconds."""
    began = time.perf_counter()
    rate = rate_of(step, run.peak, max(1, total // 10), total)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    noise = torch.Generator().manual_seed(noise_seed(0, step))  # the same for every run
    loss = nelbo(run.model, ids, schedule, run.model.config.mask_id, generator=noise).loss
    run.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    run.losses.append(loss.item())
    run.seconds.append(time.perf_counter() - began)


def train_side_by_side(runs, batch, total, what):
    """Train all runs on the same `total` batches, interleaved."""
    for step in tqdm(range(total), desc=what):
        ids = batch(step)
        for run in runs:
            one_step(run, ids, step, total)


# %% [markdown]
# Can we repeat it? A result that nobody can repeat is an anecdote. The same seed must give the same losses, to the last
# digit:

# %%
first, second = ([Run(name, 4e-3) for name in CONFIGS] for _ in range(2))
train_side_by_side(first, tales_batch, 3, "once")
train_side_by_side(second, tales_batch, 3, "again")
for one, other in zip(first, second):
    print(f"{one.name:14}", " ".join(f"{loss:.6f}" for loss in one.losses))
    assert one.losses == other.losses

# %% [markdown]
# ## 3. A learning rate for each
#
# The learning rate is usually the most important setting. If it is too small, the model learns slowly. If it is too
# large, training becomes unstable. The right value depends on the architecture, the size and the length of the run. So
# we try four rates for each backbone. This is called a **sweep**. Every run has its full length, so we can use the best
# ones in the race later.
#
# **Predict, then run.** Suppose somebody compares all models at one shared rate, and picks this rate from the four. How
# much does the pick change the difference between DiffuApriel and DiffuTran?
#
# - **A** · hardly at all: by less than 1 nat per story
# - **B** · it changes how large the difference is, but not who wins
# - **C** · it even changes who wins

# %%
guess_1 = predict("A", "B", "C", name="04.1")
guess_1

# %% [markdown]
# The cell after the next one trains all of them and takes about two minutes. So here is a second question first,
# about the best run of each backbone. **Predict.** After the first quarter of the tokens, which one has the lowest
# loss?
#
# - **A** · DiffuApriel
# - **B** · DiffuApriel-H, the hybrid
# - **C** · DiffuTran

# %%
guess_2 = predict("A", "B", "C", name="04.2")
guess_2

# %%
RATES = [1.5e-3, 4.5e-3, 1.35e-2, 4e-2]
STEPS = 4 if QUICK else 220
sweep = [Run(name, rate) for name in CONFIGS for rate in RATES]
train_side_by_side(sweep, tales_batch, STEPS, f"{len(sweep)} runs")

# %% [markdown]
# We judge a run by its mean loss over the last steps. Look for the lowest point of each curve. It should not be at the
# edge: if the best rate is the largest or the smallest that we tried, the sweep was too narrow.

# %%
tail = max(1, STEPS // 10)
final = {
    (run.name, run.peak): LENGTH * sum(run.losses[-tail:]) / tail for run in sweep
}  # nats per story
best = {name: min(RATES, key=lambda rate: final[name, rate]) for name in CONFIGS}

figure = go.Figure(
    layout={"xaxis_title": "peak learning rate", "yaxis_title": "nats per story", "height": 400}
)
for name, color in COLORS.items():
    curve = [final[name, rate] for rate in RATES]
    rates = [f"{rate:g}" for rate in RATES]
    figure.add_scatter(x=rates, y=curve, name=name, line_color=color, mode="lines+markers")
figure.update_xaxes(type="category")
show(figure)
for name, rate in best.items():
    edge = ": at the edge, the sweep is too narrow for it" if rate in (RATES[0], RATES[-1]) else ""
    print(f"{name:14} best at {rate:g}{edge}")

# %% [markdown]
# Now the comparison at each shared rate, and the fair one, each model at its own best rate:

# %%
shared = {rate: final["diffutran", rate] - final["diffuapriel", rate] for rate in RATES}
fair = final["diffutran", best["diffutran"]] - final["diffuapriel", best["diffuapriel"]]
for rate, ahead in shared.items():
    print(f"both at {rate:<7g}  DiffuApriel is ahead by {ahead:6.1f} nats per story")
print(f"each at its best DiffuApriel is ahead by {fair:6.1f} nats per story")

span = max(shared.values()) - min(shared.values())
answer = "A" if span < 1 else "C" if min(shared.values()) < 0 < max(shared.values()) else "B"
guess_1.reveal(
    answer, f"The choice of the rate alone moves the difference by {span:.1f} nats per story."
)

# %% [markdown]
# So a comparison at one shared rate also measures the choice of the rate, which may put one of the models at a
# disadvantage. The fair question is: how well does each model learn at *its* best rate? The same holds for everything
# else that is tuned.
#
# If two backbones share their best rate, that is a result of the sweep; we could not have known it before. Two
# warnings. Longer runs usually need smaller rates, so the best rates are right only for runs of this length. And each
# score has its own noise: two rates with similar scores are equally good.
#
# ## 4. The race: tokens, seconds and the entropy
#
# The best run of each backbone enters the race. Each backbone also enters a **second** time, at the same rate but with
# other initial weights (seed 1). You will see why. This takes a minute.

# %%
race = [run for run in sweep if run.peak == best[run.name]]
again = [Run(name, best[name], seed=1) for name in CONFIGS]
train_side_by_side(again, tales_batch, STEPS, "with another seed")
race += again

# %% [markdown]
# The dashed line is the **entropy** of these stories, known exactly (lesson 01). On average no model can get below it.
# Each point of a curve is a mean over the last steps, because a single batch is noisy. Dotted lines are seed 1. Look at
# the small bumps: they are at the same steps in all curves. A hard batch was hard for every model.

# %%
WINDOW = 20  # steps
entropy = tales.entropy(1)
tokens = [16 * LENGTH * (step + 1) for step in range(STEPS)]


def smooth(values):
    """The mean of the last WINDOW values, from the first full window on."""
    return torch.tensor(values).double().unfold(0, min(WINDOW, len(values)), 1).mean(1)


def draw_curves(runs, x_of, x_title, y_title, scale):
    """One curve per run: smoothed loss times `scale` against x_of(run)."""
    figure = go.Figure(layout={"xaxis_title": x_title, "yaxis_title": y_title, "height": 420})
    for run in runs:
        y = (scale * smooth(run.losses)).tolist()
        dash, label = (
            ("solid", run.name) if run.seed == 0 else ("dot", f"{run.name}, seed {run.seed}")
        )
        figure.add_scatter(x=list(x_of(run))[-len(y) :], y=y, name=label)
        figure.data[-1].line = {"color": COLORS[run.name], "dash": dash}
    return figure


# %%
figure = draw_curves(race, lambda run: tokens, "tokens", "nats per story", LENGTH)
figure.add_hline(y=entropy, line_dash="dash", annotation_text=f"entropy: {entropy:.2f}")
figure.update_yaxes(range=[0.5 * entropy, 6 * entropy])
show(figure)

# %%
quarter = STEPS // 4
early = {
    run.name: LENGTH * smooth(run.losses)[max(0, quarter + 1 - WINDOW)].item() for run in race[:3]
}
for name, nats in early.items():
    print(f"{name:14} {nats:5.1f} nats per story after {tokens[quarter]:,} tokens")
letter = dict(zip(CONFIGS, "ABC"))
first = min(early, key=early.get)
guess_2.reveal(letter[first])

# %% [markdown]
# If a Mamba model starts faster, a likely reason is this. From the first step, a Mamba layer sees mostly the neighbors
# of a token: its short convolution and its fading memory look nearby. Attention starts by looking everywhere at once,
# and must first *learn* that neighbors matter. That is a head start, and it need not last.
#
# **Predict, then run.** Now the same curves, but against **seconds**. On such short rows, DiffuTran has the fastest
# steps of the three. We let all three train until DiffuTran has finished its steps, then stop the clock. Which one is
# ahead?
#
# - **A** · still a Mamba model, although it has made fewer steps
# - **B** · DiffuTran, thanks to its faster steps

# %%
guess_3 = predict("A", "B", name="04.3")
guess_3

# %%
from itertools import accumulate  # running sums

figure = draw_curves(race, lambda run: accumulate(run.seconds), "seconds", "nats per story", LENGTH)
figure.add_hline(y=entropy, line_dash="dash", annotation_text=f"entropy: {entropy:.2f}")
figure.update_yaxes(range=[0.5 * entropy, 6 * entropy])
show(figure)

clock = min(sum(run.seconds) for run in race[:3])
ahead = {}
for run in race[:3]:
    done = max(1, sum(moment <= clock for moment in accumulate(run.seconds)))
    ahead[run.name] = LENGTH * sum(run.losses[max(0, done - WINDOW) : done]) / min(WINDOW, done)
    speed = 1000 * sum(run.seconds) / STEPS
    print(
        f"{run.name:14} {speed:4.0f} ms per step, {done} steps, {ahead[run.name]:5.1f} nats per story"
    )
winner = min(ahead, key=ahead.get)
guess_3.reveal(
    "B" if winner == "diffutran" else "A", f"The clock stopped after {clock:.0f} seconds."
)

# %% [markdown]
# Two axes, two questions. **Against tokens**: which model learns more from the same text? That is a property of the
# architecture. **Against seconds**: which model is finished sooner? That depends on the computer, the program and the
# length of the rows. Here the rows have only a few tokens. On long rows the ranking by speed reverses, which lesson 06
# measures. (The dotted curves were trained after the solid ones, so compare their seconds only with each other.)
#
# ## 5. A difference, or noise?
#
# The training losses are noisy, and each was measured on a model that has changed since. For a verdict we score all
# models on the same new stories, with the same tokens hidden. And training leaves out a thousandth of the masked shares
# at each end. So here we draw the *number* *l* of hidden tokens, 1 to *L* equally often, and weight their cost by
# *L*/*l*: the NELBO with nothing left out (lesson 07). The result is one number per story and model.

# %%
from diffuapriel.evaluation.masks import draw_masks, masked_nats

STORIES, NUM_MC_SAMPLES = (20, 2) if QUICK else (300, 6)


@torch.no_grad()
def nats_of_rows(model, ids):
    """The NELBO of each row in nats, (rows,), averaged over NUM_MC_SAMPLES sets of hidden tokens."""
    same = torch.Generator().manual_seed(1)  # the same for every model
    sets = draw_masks(ids.shape[1], NUM_MC_SAMPLES, same, rows=len(ids)).unbind(1)
    scores = [
        ids.shape[1] / hidden.sum(1) * masked_nats(model, ids, hidden, MASK) for hidden in sets
    ]
    return torch.stack(scores).mean(0)


validation = draw_stories(STORIES, random.Random("held out"))
nats = {(run.name, run.seed): nats_of_rows(run.model, validation) for run in tqdm(race)}
for (name, seed), values in nats.items():
    print(
        f"{name:14} seed {seed}: {values.mean():5.2f} nats per story, the entropy is {entropy:.2f}"
    )

# %% [markdown]
# A mean over some stories is not the mean over all stories. A **95 % interval** says how far off it may be: about 95 of
# 100 such intervals contain the true mean. It is the mean plus and minus 1.96 standard errors. The standard error is
# the standard deviation of the stories' scores, divided by the square root of their number.
#
# To compare two models, there is a better way than putting two intervals side by side. Both were scored on the *same*
# stories, and a story that is hard for one is hard for the other. So first take the difference *for each story*. What
# both have in common cancels. This is called a **paired** comparison.

# %% [markdown]
# ### Exercise 3: a paired interval
#
# *Must · medium · 6 minutes*
#
# Given the scores of two models on the same stories, compute the mean of the difference *a* − *b* and its 95 %
# interval.
#
# <details><summary>Hint 1: the idea</summary>Forget that there are two models: work with <code>a - b</code>, one
# number per story.</details>
# <details><summary>Hint 2: the shape</summary>The mean and the standard error are one number each. The interval
# reaches 1.96 standard errors to either side.</details>
# <details><summary>Hint 3: the code</summary>The standard error is <code>(a - b).std() / len(a) ** 0.5</code>. Return
# mean, mean − 1.96 of it, mean + 1.96 of it.</details>


# %% tags=["exercise"]
def paired(a, b):
    """a, b (stories,): scores of two models. Returns (mean of a - b, lower end, upper end)."""
    return None  # your lines here


# %% tags=["solution"]
def paired(a, b):
    """a, b (stories,): scores of two models. Returns (mean of a - b, lower end, upper end)."""
    difference = a - b
    mean, error = difference.mean().item(), difference.std().item() / len(a) ** 0.5
    return mean, mean - 1.96 * error, mean + 1.96 * error


# %%
check.paired(paired)

# %% [markdown]
# The package's `mean_interval` does the same, and is a little wider for few values. First, the benefit of pairing:

# %%
from diffuapriel.evaluation.interval import mean_interval

paired_of = use(check.paired, paired)


def compare(one, other):
    """Mean difference in nats per story between two runs, paired, and its interval."""
    mean, low, high = paired_of(nats[one], nats[other])
    return mean, (low, high)


a, b = nats["diffuapriel", 0], nats["diffuapriel-h", 0]
mean, (low, high) = compare(("diffuapriel", 0), ("diffuapriel-h", 0))
unpaired = 1.96 * (a.var() / len(a) + b.var() / len(b)).sqrt().item()
print(f"paired    {mean:+.2f}, from {low:+.2f} to {high:+.2f}")
print(f"unpaired  {mean:+.2f}, from {mean - unpaired:+.2f} to {mean + unpaired:+.2f}")

# %% [markdown]
# Now all the comparisons at once. If an interval contains 0, these stories cannot tell the two models apart. Look
# carefully at the last three lines. They compare a backbone **with itself**: only the seed differs.

# %%
pairs = [
    (("diffutran", 0), ("diffuapriel", 0)),
    (("diffutran", 0), ("diffuapriel-h", 0)),
    (("diffuapriel-h", 0), ("diffuapriel", 0)),
] + [((name, 0), (name, 1)) for name in CONFIGS]
results = [compare(*pair) for pair in pairs]
for (one, other), (mean, (low, high)) in zip(pairs, results):
    verdict = "cannot tell" if low < 0 < high else "a difference"
    names = f"{one[0]} (seed {one[1]}) - {other[0]} (seed {other[1]})"
    print(f"{names:44} {mean:+6.2f}, from {low:+6.2f} to {high:+6.2f}   {verdict}")

# %%
figure = go.Figure(layout={"yaxis_title": "difference in nats per story"})
labels = [
    f"{one[0]} − {other[0]}" if one[0] != other[0] else f"{one[0]}, seeds" for one, other in pairs
]
means, intervals = [mean for mean, _ in results], [interval for _, interval in results]
bars = error_bars(means, intervals)
figure.add_scatter(x=labels, y=means, mode="markers", error_y=bars, marker_size=9)
figure.add_hline(y=0, line_dash="dash")
show(figure)

by_seed = max(abs(mean) for mean, _ in results[3:])
difference = abs(results[2][0])
word = "smaller" if difference < by_seed else "larger"
display(
    Markdown(
        f"The seed alone moved a backbone by up to **{by_seed:.1f}** nats per story. DiffuApriel and its hybrid are "
        f"**{difference:.1f}** apart, which is {word} than that; DiffuTran and DiffuApriel are "
        f"**{abs(results[0][0]):.1f}** apart."
    )
)

# %% [markdown]
# There are two kinds of noise, and the interval covers only one of them.
#
# - **Measurement noise**: other stories and other masks give another mean. The interval covers it, and more stories
#   make it smaller.
# - **Training noise**: another seed gives another model. The interval does not cover it. Even if the interval is far
#   from 0, the difference may come only from the seed. More stories do not help; more *seeds* do.
#
# So the interval answers "is this *model* better than that *model*?". For "is this *backbone* better?", the difference
# must also be large compared with the differences between seeds. You need at least two seeds to see this at all.

# %% [markdown]
# ## 6. Real text
#
# Tales are artificial. Does the ranking hold for real text? Every Python comes with a large text: its own standard
# library, which is code and English. Nothing has to be downloaded. `open_corpus` splits it by module into a training
# split and a validation split, and returns sequences of any length.

# %%
from diffuapriel import open_corpus

corpus = open_corpus("stdlib", tokenizer)
for split, documents in corpus.splits.items():
    print(
        f"{split:10} {len(documents):,} files, {sum(map(len, documents)) / 1e6:.1f} million characters"
    )
print(tokenizer.decode(corpus.batch(1, split="train", batch_size=1, length=64, seed=0)[0].tolist()))

# %% [markdown]
# We use the same loop, the same seed, and the rates of section 3. Those rates were found on other text; that is a
# shortcut, and a careful comparison would sweep again. Nobody knows the entropy of this text. As a yardstick, the
# dotted line shows the cost of a model that knows only how frequent each token is. A model above it has not learned
# anything about the order of tokens.

# %%
REAL_STEPS, REAL_LENGTH = (4 if QUICK else 100), 64


def real_batch(step, rows=8):
    """The batch of a step from the standard library, (rows, REAL_LENGTH)."""
    return corpus.batch(step, split="train", batch_size=rows, length=REAL_LENGTH, seed=0)


real = [Run(name, best[name]) for name in CONFIGS]
train_side_by_side(real, real_batch, REAL_STEPS, "standard library")

# %%
seen = torch.cat([real_batch(step) for step in range(REAL_STEPS)]).flatten()
share = (torch.bincount(seen, minlength=MASK) + 0.1) / (len(seen) + 0.1 * MASK)  # no token has 0
validation = corpus.batch(
    0, split="validation", batch_size=8 if QUICK else 64, length=REAL_LENGTH, seed=0
)
frequencies = -share[validation].log().mean().item()

x = [8 * REAL_LENGTH * (step + 1) for step in range(REAL_STEPS)]
figure = draw_curves(real, lambda run: x, "tokens", "nats/token", 1)
figure.add_hline(y=frequencies, line_dash="dot", annotation_text="frequencies only")
show(figure)

# %% [markdown]
# Now the verdict on sequences from the validation split, scored by the function of section 5. First each model against
# the yardstick. Only a model that is clearly below it has learned anything about the order of tokens, and only such
# models can be compared.

# %%
cost = {run.name: nats_of_rows(run.model, validation) / REAL_LENGTH for run in tqdm(real)}
by_row = -share[validation].log().mean(1)  # the yardstick, for each sequence
learned = []
for name, values in cost.items():
    mean, (low, high) = mean_interval((values - by_row).tolist())
    told = "has left the yardstick" if high < 0 else "has NOT left the yardstick"
    learned += [name] if high < 0 else []
    print(f"{name:14} {values.mean():.2f} nats/token; {mean:+.2f} from the frequencies", end="")
    print(f" [{low:+.2f}, {high:+.2f}]: {told}")
print(f"{'frequencies':14} {frequencies:.2f} nats/token\n")
for name in learned[1:]:
    mean, (low, high) = mean_interval((cost[name] - cost[learned[0]]).tolist())
    print(f"{name} − {learned[0]}: {mean:+.2f}, from {low:+.2f} to {high:+.2f}")
if len(learned) < len(cost):
    print(
        "A model that has not left it says nothing about its backbone: it needs more steps, or its own rate."
    )

# %% [markdown]
# Pairing removes that sequences of code and of English cost very different amounts. And since nobody knows the entropy
# of this text, nobody can say how much there is left to learn: the yardstick is all we have.

# %% [markdown]
# ## 7. What this can and cannot tell
#
# Your models have less than a million parameters and saw a few thousand stories. What happens with more? The models
# that come with this project were trained on the full tales, much longer, on a GPU. Their checkpoints store their
# measured loss and the exact entropy of the same stories:

# %%
from diffuapriel.checkpoint import bundled, inspect_checkpoint
from diffuapriel.evaluation import NelboEstimate

all_tales = [info for info in map(inspect_checkpoint, bundled()) if info.corpus == "tales:3"]
# Models of blocks come in lesson 09.
whole_texts = [info for info in all_tales if not info.config.block_lengths]
for info in whole_texts:
    recipe, found = info.extra["recipe"], NelboEstimate.from_dict(info.extra["evaluation"])
    low, high = found.ci95
    print(
        f"{info.name:19} {info.config.parameters / 1e6:.2f} million parameters, "
        f"{recipe['tokens'] / 1e6:.0f} million tokens:\n{'':19} {found.nats_per_token:.3f} nats/token, "
        f"from {low:.3f} to {high:.3f}; entropy {found.entropy:.3f}"
    )

# %% [markdown]
# How much of the head start is left? Do the intervals overlap? A race that stops early favors the model that starts
# fast. So always say where it stopped, and how far from the entropy.
#
# An equal loss does not mean equal in everything. Show each model a text of [MASK]s only. How much do its predictions
# differ between two positions, at most?

# %%
from diffuapriel import load_checkpoint

all_hidden = torch.tensor([6.9])  # the noise level
for info in whole_texts:
    model, its_tokenizer = load_checkpoint(info.name)
    nothing_yet = torch.full((1, 64), its_tokenizer.mask_id)
    with torch.no_grad():
        logits = model(nothing_yet, all_hidden)[0]
    print(f"{info.name:19} {(logits - logits[0]).abs().max().item():8.4f}")

# %% [markdown]
# DiffuTran predicts the same everywhere. Its only sense of position is RoPE, which tells attention how *far apart* two
# tokens are, and so how to weight them. But if all tokens are [MASK]s, any weighted mean of them is the same. Until the
# first word is there, the model does not know where the text begins. A scan does: its memory is empty at the edge. This
# matters at few noise levels, so the loss hardly shows it, but every text that is written from nothing begins there.
# The remedy is small: a learned vector at both ends of the text, `edge_embedding`. New models of the package have it,
# those of sections 3 to 6 too; these three were trained without it. Does it help? We train two small DiffuTrans that
# differ in nothing else, with your schedule and on whole words (`tales-words`), which are learned faster. Then each
# writes stories from masks only. Guess how many will be grammatical, with the edges and without. It takes a minute.

# %%
words = get_tokenizer("tales-words")
shape = {"d_model": 64, "depth": 4, "tokenizer": "tales-words"}
for name, edges in (("no edges", False), ("edges", True)):
    CONFIGS[name] = preset("nano", "diffutran", edge_embedding=edges, **shape)


def words_batch(step, rows=32, length=12):
    """The batch of a step, in whole words."""
    rng = random.Random(f"words {step}")
    table = [words.encode(tales.generate(1, rng)) for _ in range(rows)]
    return torch.tensor([ids + [words.eos_id] * (length - len(ids)) for ids in table])


pair = [Run(name, 4e-3) for name in ("no edges", "edges")]
train_side_by_side(pair, words_batch, 4 if QUICK else 600, "with and without edges")

# %%
from diffuapriel import Sampler, SamplerConfig, generate
from diffuapriel.evaluation.interval import wilson_interval

WRITTEN = 4 if QUICK else 200
sampler = Sampler(SamplerConfig(strategy="low_confidence", steps=12), schedule, words.mask_id)
for run in pair:
    table = generate(sampler, run.model.eval(), torch.full((WRITTEN, 12), words.mask_id))
    texts = [words.decode(row).split("<|endoftext|>")[0] for row in table.tolist()]
    good = sum(tales.check(text, 1).grammatical for text in texts)
    low, high = wilson_interval(good, WRITTEN)
    nats = 12 * smooth(run.losses)[-1].item()
    print(f"{run.name:9} {nats:4.1f} nats per story at the end of training;", end=" ")
    print(f"{good / WRITTEN:4.0%} of its stories are grammatical [{low:.0%}, {high:.0%}]")
    print("         ", " / ".join(texts[:2]))

# %% [markdown]
# So *Transformers write nonsense* would have been the wrong conclusion. It was the fault of one model, and a vector at
# both ends mends most of it. The project found the same at a larger size (`docs/results.md`, *Where a text begins*):
# 90 % grammatical stories with it, and 29 % without.
#
# - **It can tell** which model learns faster at the start, on short rows, at this size, and how to find that out
#   properly.
# - **It cannot tell** which model wins at the end, at a larger size, on long texts, or on other text.
#
# For 1.3 billion parameters, the DiffuApriel paper reports a perplexity of 22.89 for the hybrid and 25.01 for
# DiffuTran, each trained on the amount of text that suits its size. Perplexity is the exponential of the nats per
# token. (Since its third version the paper calls its models DiffuMamba.) Neither learning rates nor rankings need to
# carry over from one size to another, so a small experiment like yours cannot confirm or refute such a result.

# %%
score()

# %% [markdown]
# ## What you learned
#
# - **Equal parameters, equal tokens in the same order, equal noise**: anything that is not equal is measured too.
# - **Each model at its own learning rate.** One shared rate is a hidden disadvantage for some of them.
# - **Tokens and seconds** are two questions. The entropy says how much there is left to learn.
# - **Pairing** removes what both models have in common. An interval over stories covers the stories, not the seed.
#
# ## Going further
#
# - Run the race of section 4 for 2,000 steps. Does DiffuTran catch up, and when?
# - Run it with five seeds for each backbone. Apply `mean_interval` to the five means: an interval over seeds.
# - Sweep the rates for the standard library too. Does the ranking of section 6 change?
# - Match the models in seconds per step instead of parameters. Is this fairer? For which model?
#
# **Papers.** DiffuApriel, [arXiv:2511.15927](https://arxiv.org/abs/2511.15927). Mamba-2,
# [arXiv:2405.21060](https://arxiv.org/abs/2405.21060). The loss: MDLM,
# [arXiv:2406.07524](https://arxiv.org/abs/2406.07524). How much text suits a size: Chinchilla,
# [arXiv:2203.15556](https://arxiv.org/abs/2203.15556).
