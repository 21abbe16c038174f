# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · Masked diffusion from nothing
#
# Most language models write from left to right, one token after another. A *masked diffusion* model writes differently.
# It starts with a row of masks and fills them in any order, and it sees both sides of every mask. In this lesson you
# write one: the noise, the loss and the heart of the sampler. Then you train it and watch it write.
#
# **You will be able to**
#
# - corrupt a text as a diffusion model needs it, and say what the time *t* means;
# - explain why the loss is weighted by *1/t*, and check it numerically;
# - train a small Mamba model until most of its short stories are correct;
# - turn that model into a writer, and say what a step costs and what you get for it.
#
# **You need** Python, a little PyTorch (tensors, a training loop), and to know what a probability is.
#
# | part | minutes |
# |---|---|
# | 1. Watch one write | 4 |
# | 2. The forward process: adding noise | 13 |
# | 3. The loss, and why 1/t | 18 |
# | 4. Training | 8 |
# | 5. A sampler by hand | 16 |
# | 6. The package's sampler, and the player | 10 |
# | 7. Filling holes | 4 |
#
# {{measured}}
#
# Now and then you are asked to **predict, then run**: the cell below the question shows buttons. Click a letter before
# you run the cell after it. A wrong guess teaches more than no guess. Five **exercises** check your answer, and the
# lesson then runs *your* code. Where you have none, ours takes its place, so you can always go on.

# %% [markdown]
# The next cell only prepares things. Run it.

# %%
import math
import random
import time

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from diffuapriel.lessons import QUICK, check, predict, prepare, score, show, use

prepare()

# %% [markdown]
# ## 1. Watch one write
#
# This project comes with a trained model. Its training texts are *tales*, short stories made for the project. Here we
# give it *Ben lost his* and then only masks. A mask is a special token called `[MASK]`. At every step the model looks
# at the whole row and turns one mask into text; all steps together take some seconds. Press play, drag the slider, and
# point at a token to see what else the model considered.

# %%
from diffuapriel import Canvas, Sampler, SamplerConfig, generate, get_schedule, load_checkpoint
from diffuapriel.checkpoint import bundled
from diffuapriel.trace.player.widget import Player

name = "tales-diffuapriel"
if name in bundled():
    trained, its_tokenizer = load_checkpoint(name)
    options = SamplerConfig(strategy="low_confidence", steps=4 if QUICK else 64, top_p=0.9)
    writer = Sampler(options, get_schedule("log-linear"), its_tokenizer.mask_id)
    canvas = Canvas.from_text("Ben lost his", its_tokenizer, length=64)
    trace = Player().record(writer, trained, canvas, its_tokenizer, model=name)
else:
    trace = None
    print(f"{name} is missing. Go on: in a few minutes you will have a model of your own.")

# %% [markdown]
# Watch the order. The text does not grow from left to right. What comes later fits what is already there, on both
# sides. And where the story **ends** is often settled first:

# %%
if trace:
    order = [position for frame in trace.frames for position in frame.revealed]
    ends = [trace.final[position] == its_tokenizer.eos_id for position in order]
    first = ends.index(False) if False in ends else len(ends)
    print(f"{first} end-of-text tokens before any word, at the positions", *order[:first])

# %% [markdown]
# ## 2. The forward process: adding noise
#
# ![Five rows of a sentence, from no masks to masks only](diagrams/process.svg)
#
# We train our own model on the simplest tales, of one sentence each.

# %%
from diffuapriel.tales import language as tales

rng = random.Random(0)
for _ in range(5):
    print(tales.generate(1, rng))
print(f"\nThere are {tales.count(1):,} different stories.")

# %% [markdown]
# A model sees numbers. A *tokenizer* cuts a text into tokens and gives each its number. Ours knows every word of the
# tales, so a token is a word with the space before it, or a full stop. (A tokenizer for any text cuts rare words into
# pieces: for the model of section 1, *Mark* is *M* and *ark*.) Two tokens are special: one marks the end of a text, the
# other is `[MASK]`. To make all rows equally long, we repeat the end-of-text token after each story.

# %%
from diffuapriel import get_tokenizer

tokenizer = get_tokenizer("tales-words")
EOS, MASK = tokenizer.eos_id, tokenizer.mask_id  # the two special tokens
LENGTH = 16  # tokens in a row: at most 11 for the story, the others for its end


def draw_stories(rows, rng):
    """New stories as a table of token ids, (rows, LENGTH)."""
    table = []
    for _ in range(rows):
        ids = tokenizer.encode(tales.generate(1, rng))
        table.append(ids + [EOS] * (LENGTH - len(ids)))
    return torch.tensor(table)


def draw(ids):
    """Token ids as a line of text: ▁▁▁ is a [MASK], · an end of text."""
    signs = {MASK: " ▁▁▁", EOS: " ·"}
    return "".join(signs.get(i, tokenizer.token_strings([i])[0]) for i in ids.tolist())


story = draw_stories(1, random.Random(1))
print(story[0].tolist())
print(draw(story[0]))

# %% [markdown]
# For text, noise means hiding tokens. **The forward process** hides more and more of them as time *t* runs from 0 to 1.
#
# - At *t* = 0 nothing is hidden.
# - At time *t* each token has been replaced by `[MASK]` with probability *t*, independently of the others.
# - At *t* = 1 (nearly) everything is hidden.
#
# The probability that a token is still *visible* is called **alpha(t)**. We take alpha(t) = 1 − 0.999 *t*. The
# remaining thousandth keeps a logarithm finite later on; ignore it until then.
#
# ### Exercise 1: add the noise
#
# *Must · easy · 5 minutes*
#
# Write the forward process. You get a table of ids and one time for each row. Replace each token by `MASK` with the
# probability 1 − alpha(t) of its row, independently of all others. Leave `ids` itself unchanged.
#
# <details><summary>Hint 1: the idea</summary>Give each token a random number between 0 and 1. For which of them is the
# token hidden?</details>
# <details><summary>Hint 2: the shape</summary><code>torch.rand(ids.shape, generator=generator)</code> has the shape
# (rows, length), <code>t</code> has the shape (rows,). <code>t[:, None]</code> has the shape (rows, 1) and fits every
# column.</details>
# <details><summary>Hint 3: the code</summary><code>hidden = torch.rand(ids.shape, generator=generator) &lt; 0.999 *
# t[:, None]</code>. Then <code>ids.masked_fill(hidden, MASK)</code> returns a new table.</details>


# %% tags=["exercise"]
def my_corrupt(ids, t, generator):
    """ids (rows, length), t (rows,): one time per row. Returns ids with [MASK]s."""
    return None  # your lines here


# %% tags=["solution"]
def my_corrupt(ids, t, generator):
    """ids (rows, length), t (rows,): one time per row. Returns ids with [MASK]s."""
    alpha = 1 - 0.999 * t  # probability that a token stays visible
    hidden = torch.rand(ids.shape, generator=generator) < 1 - alpha[:, None]
    return ids.masked_fill(hidden, MASK)


# %%
check.corruption(my_corrupt)

# %% [markdown]
# If it says *Right*, everything that follows in this lesson hides tokens with your function.

# %%
corrupt = use(check.corruption, my_corrupt)
generator = torch.Generator().manual_seed(0)
for t in (0.0, 0.25, 0.5, 0.75, 1.0):
    print(f"t = {t:.2f}  {draw(corrupt(story, torch.tensor([t]), generator)[0])}")

# %% [markdown]
# The hidden share must be *t*, up to chance. The package has the same function. Given the same random numbers, does it
# hide exactly the same tokens?

# %%
from diffuapriel.diffusion import objective

schedule = get_schedule("log-linear")  # the package's name for our alpha(t)
many = story.repeat(5000, 1)
for t in (0.2, 0.5, 0.9):
    times = torch.full((5000,), t)
    mine = corrupt(many, times, torch.Generator().manual_seed(1))
    package = objective.corrupt(many, times, schedule, MASK, torch.Generator().manual_seed(1))
    same = "the same" if torch.equal(mine, package) else "other"
    share = (mine == MASK).float().mean()
    print(f"t = {t}: {share:.3f} of the tokens are hidden, {same} tokens as in the package")

# %% [markdown]
# ### Exercise 2: hide a fixed number of tokens
#
# *May · medium · 5 minutes*
#
# Sometimes we want to hide *exactly* `count` tokens in each row, with every choice of positions equally likely. Write
# this function. You may use `torch.rand` once. Section 6 uses it to damage stories.
#
# <details><summary>Hint 1: the idea</summary>Give every position a random number. How can you use these numbers to
# pick exactly <code>count</code> positions?</details>
# <details><summary>Hint 2: the shape</summary><code>scores.argsort(1)</code> lists the positions of each row from the
# smallest score to the largest, (rows, length). You need its first <code>count</code> columns.</details>
# <details><summary>Hint 3: the code</summary><code>positions = scores.argsort(1)[:, :count]</code>, then
# <code>ids.scatter(1, positions, MASK)</code>.</details>


# %% tags=["exercise"]
def mask_exactly(ids, count, generator):
    """ids (rows, length). Returns ids with exactly `count` [MASK]s in each row."""
    return None  # your lines here


# %% tags=["solution"]
def mask_exactly(ids, count, generator):
    """ids (rows, length). Returns ids with exactly `count` [MASK]s in each row."""
    scores = torch.rand(ids.shape, generator=generator)
    positions = scores.argsort(1)[:, :count]
    return ids.scatter(1, positions, MASK)


# %%
check.mask_exactly(mask_exactly)

# %% [markdown]
# ## 3. The loss, and why 1/t
#
# ![Rows with 2, 4 and 8 masks; masks times weight is always 8](diagrams/weight.svg)
#
# The model's job is to undo the noise. It is given a corrupted story, and for each hidden position it answers with a
# probability for every token it knows. If it gave the right token the probability *p*, we charge it **−log p**. This is
# its *cost*, the cross-entropy. With the natural logarithm the unit is the *nat*: a guess that is certain and right
# costs 0, and a fair coin costs log 2 = 0.69.
#
# But at which *t* do we ask? Easy questions (small *t*) and hard ones (large *t*) need the right weights. To find them,
# imagine that the model writes the story **one token at a time, in random order**.
#
# 1. When *m* tokens are still hidden, the next one appears at one of these *m* positions. Its expected cost is the
#    *mean* cost over the hidden positions: the sum of their costs, times 1/*m*.
# 2. The cost of the story is the sum of this over *m* = length, ..., 2, 1.
# 3. Hiding with probability *t* hides about *m* = *t* · length tokens. When *t* runs evenly from 0 to 1, *m* runs
#    evenly from 0 to length. So the sum over *m* is length times the average over *t*, and
#    length · 1/*m* = length · 1/(*t* · length) = **1/t**.
#
# In one line, where $x$ is the story, $x_t$ the story corrupted at time $t$, and $\mathbb{E}_t$ the average over $t$:
#
# $$\mathrm{NELBO}(x) \;=\; \mathbb{E}_t\Big[\,\frac{1}{t} \sum_{i \text{ hidden}} -\log p(x_i \mid x_t)\Big]$$
#
# The name stands for *negative evidence lower bound*. It is a bound because it charges the average over all orders of
# writing, while the model may write the same story in any of them: the true cost is at most this much.
#
# <details><summary>For those who want it exactly</summary>Step 3 is more than a rule of thumb. If every token is hidden
# with probability t, exactly m of L are hidden with probability C(L, m) t<sup>m</sup> (1 − t)<sup>L−m</sup>. Times 1/t
# and averaged over t, that is the integral of C(L, m) t<sup>m−1</sup> (1 − t)<sup>L−m</sup> from 0 to 1, which is 1/m:
# the weight of step 1. For another schedule alpha(t) the weight is −alpha′(t) / (1 − alpha(t)), and the bound is the
# same; only its chance error differs. The derivations, D3PM and SEDD beside them, and a program that compares the
# package's schedules are in <code>docs/mathematics.md</code> (linked at the end).</details>
#
# We divide by the number of **all** tokens, hidden or not. Then the unit is nats per token, or nats/token.

# %% [markdown]
# **Predict, then run.** There are $V$ possible answers. A model that knows nothing gives all of them the same
# probability, $1/V$. What is its loss in nats/token?
#
# - **A** · it depends on the story
# - **B** · log V / 2, because on average half of the tokens are hidden
# - **C** · log V
# - **D** · more than log V, because 1/t can be large

# %%
guess_1 = predict("A", "B", "C", "D", name="01.1")
guess_1

# %% [markdown]
# ### Exercise 3: the loss
#
# *Must · medium · 8 minutes*
#
# Write the loss. The model is any function of three things: the corrupted ids, a *noise level* for each row
# (−log alpha(t), which the package calls *sigma*: another way to tell the time), and the positions at which we want
# answers. It answers with *logits*, (hidden tokens, V + 1): numbers that the softmax turns into probabilities. `[MASK]`
# is not a valid answer, so cut off its column, the last one. Weight each token's cost by 1/*t* of its row, and divide
# by the number of all tokens.
#
# <details><summary>Hint 1: the idea</summary>Corrupt the ids, ask the model at the hidden positions, and add up the
# weighted costs of the right tokens.</details>
# <details><summary>Hint 2: the shape</summary><code>hidden = noisy == MASK</code> is a table of True and False.
# <code>ids[hidden]</code> are the right tokens, in the same order as the rows of <code>model(noisy, sigma,
# hidden)</code>.</details>
# <details><summary>Hint 3: the code</summary><code>F.cross_entropy(logits[:, :MASK], ids[hidden],
# reduction="none")</code> is −log p of each, and <code>(1 / t)[:, None].expand(ids.shape)[hidden]</code> its
# weight.</details>


# %% tags=["exercise"]
def my_loss(model, ids, t, generator):
    """NELBO in nats/token; ids (rows, length), t (rows,). Use corrupt(ids, t, generator)."""
    return None  # your lines here


# %% tags=["solution"]
def my_loss(model, ids, t, generator):
    """NELBO in nats/token; ids (rows, length), t (rows,). Use corrupt(ids, t, generator)."""
    noisy = corrupt(ids, t, generator)
    hidden = noisy == MASK
    sigma = -torch.log(1 - 0.999 * t)
    logits = model(noisy, sigma, hidden)[:, :MASK]  # (hidden tokens, V)
    cost = F.cross_entropy(logits, ids[hidden], reduction="none")  # -log p of the right token
    weight = (1 / t)[:, None].expand(ids.shape)[hidden]  # 1/t of the token's row
    return (weight * cost).sum() / ids.numel()


# %%
check.loss(my_loss)

# %%
loss_of = use(check.loss, my_loss)


def my_times(rows, generator):
    """One time per row, one in each slice of (0, 1]: every batch has easy and hard rows."""
    slices = torch.arange(rows) + torch.rand(rows, generator=generator)
    return 0.001 + 0.999 * slices / rows


# %% [markdown]
# Now the model that knows nothing.


# %%
def knows_nothing(ids, sigma, positions):
    """All logits are equal: every token is equally likely."""
    return torch.zeros(int(positions.sum()), MASK + 1)


generator = torch.Generator().manual_seed(0)
losses = [
    loss_of(knows_nothing, draw_stories(250, rng), my_times(250, generator), generator)
    for _ in range(20)
]
measured, exact = torch.stack(losses).mean().item(), math.log(MASK)
print(f"measured {measured:.2f} nats/token, log V = {exact:.2f}, V = {MASK:,}")
assert abs(measured - exact) < 0.05 * exact
guess_1.reveal()

# %% [markdown]
# On average half of the tokens are hidden, and 1/*t* makes up for exactly that. Without it you would get answer B. (The
# loss is a little noisy, because large weights are rare. And the thousandth in alpha makes it a thousandth smaller.)
#
# The package has the same loss and the same times, called `nelbo` and `stratified_t`. Do they agree with yours on the
# same batch?

# %%
from diffuapriel.diffusion.objective import nelbo, stratified_t

ids = draw_stories(64, rng)
t = my_times(64, torch.Generator().manual_seed(3))
torch.testing.assert_close(t, stratified_t(64, torch.Generator().manual_seed(3)))


def some_model(ids, sigma, positions):
    """Nonsense, but not uniform: the logits depend on the neighbors and on the time."""
    wave = torch.sin(torch.arange(MASK + 1) * ids.roll(1, 1)[positions][:, None].float())
    return wave * sigma[positions.nonzero()[:, 0]][:, None]


mine = loss_of(some_model, ids, t, torch.Generator().manual_seed(4))
same = torch.Generator().manual_seed(4)
package = nelbo(some_model, ids, schedule, MASK, t=t, generator=same).loss
print(f"yours {mine:.6f}, the package {package:.6f}")
if abs(mine - package) > 1e-4:
    print(
        "Other tokens of the batch are hidden: your noise uses its random numbers in another way."
    )

# %% [markdown]
# ## 4. Training
#
# Now a model that can learn. A `Denoiser` takes ids, sigma and positions, as above. It is a stack of *blocks* with
# Mamba-2 layers inside, which read the row in both directions; lessons 02 and 03 open them. We take the smallest size,
# *nano*, and make it smaller still, so that it trains in a minute or two: two blocks, and a small state.

# %%
from diffuapriel import Denoiser, preset

shape = {"d_model": 128, "depth": 2, "expand": 1, "d_state": 32, "headdim": 64}
config = preset("nano", "diffuapriel", tokenizer="tales-words", **shape)
model = Denoiser(config)
print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters")

# %% [markdown]
# The loop is the usual one: draw stories, corrupt, predict, improve. The learning rate rises, then falls to nearly zero
# (`OneCycleLR`). Each step draws new stories, so the model can hardly learn any of them by heart. This cell takes one
# to two minutes. Meanwhile, think about this: how small can the loss become?

# %%
STEPS, ROWS = (12 if QUICK else 900), 32
optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
lr_schedule = torch.optim.lr_scheduler.OneCycleLR(
    optimizer, max_lr=4e-3, total_steps=STEPS, pct_start=0.05, cycle_momentum=False
)
generator = torch.Generator().manual_seed(0)
history, began = [], time.perf_counter()

for _ in (bar := tqdm(range(STEPS))):
    loss = loss_of(model, draw_stories(ROWS, rng), my_times(ROWS, generator), generator)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    lr_schedule.step()
    history.append(loss.item() * LENGTH)  # nats per story
    bar.set_postfix_str(f"{history[-1]:.1f} nats per story")

print(f"{STEPS * ROWS:,} stories in {time.perf_counter() - began:.0f} seconds")

# %% [markdown]
# How small can the loss become? The stories are random, and no model can know which name or color comes next. Even a
# perfect model must pay the **entropy** of the stories. For most text nobody knows the entropy. Here we do: the stories
# come from a grammar, and every choice in it has a known probability. A row holds one story, and the padding after it
# is no surprise, so on average a row cannot cost less than the entropy of one story. This is the lowest dashed line.
# The other lines are the costs of models that know only a little, computed from 3,000 stories.

# %%
entropy = tales.entropy(1)
counted = draw_stories(300 if QUICK else 3000, random.Random(2))


def nats_by_counts(table):
    """Nats per row of a code that knows how frequent each value of a table (rows, length) is."""
    _, which, counts = torch.unique(table, return_inverse=True, return_counts=True)
    return -(counts[which] / table.numel()).log().sum().item() / len(table)


left = torch.cat([torch.full_like(counted[:, :1], MASK), counted[:, :-1]], dim=1)
pairs = left * (MASK + 1) + counted  # one number for each pair of neighbors
lines = {
    "every token alike": LENGTH * math.log(MASK),
    "how frequent each token is": nats_by_counts(counted),
    "which token follows which": nats_by_counts(pairs) - nats_by_counts(left),
    "entropy": entropy,
}

# %%
window = min(50, STEPS)
smooth = torch.tensor(history).unfold(0, window, 1).mean(1).tolist()
steps = list(range(1, STEPS + 1))

figure = go.Figure(layout={"xaxis_title": "step", "yaxis_title": "nats per story, log scale"})
figure.add_scatter(x=steps, y=history, name="one batch", line_color="silver")
figure.add_scatter(x=steps[window - 1 :], y=smooth, name=f"mean of {window}")
for name, nats in lines.items():
    label = {"annotation_text": f"{name}: {nats:.1f}", "annotation_position": "right"}
    figure.add_hline(y=nats, line_dash="dash", **label)
figure.update_yaxes(type="log").update_layout(legend={"orientation": "h", "y": 1.15}, margin_r=220)
show(figure)
for name, nats in lines.items():
    below = next((step for step, mean in zip(steps[window - 1 :], smooth) if mean < nats), None)
    print(f"{name:27} {nats:6.1f} nats per story;", end=" ")
    print(f"the mean is below from step {below:,}" if below else "the mean stays above")

# %% [markdown]
# The printed steps say when your model knew more than each of these. What is left between *which token follows which*
# and the entropy is what must agree over a distance. A single batch is noisy, so we score new stories, many times each:

# %%
with torch.no_grad():
    fresh = draw_stories(50 if QUICK else 500, random.Random(12345))
    repeats = range(1 if QUICK else 8)
    scores = [nelbo(model, fresh, schedule, MASK, generator=generator).loss for _ in repeats]
bound = torch.stack(scores).mean().item() * LENGTH
print(f"this model  {bound:.2f} nats per story")
print(f"at best     {entropy:.2f} nats per story, the entropy")
print(f"excess      {bound - entropy:.2f} nats per story")

# %% [markdown]
# Lesson 05 continues with this model, so keep it (about 3 MB, in the project's folder `runs/lessons`).

# %%
from diffuapriel.checkpoint import save_checkpoint
from diffuapriel.lessons.progress import folder

if not QUICK:
    folder().mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder() / "lesson-01", model, card="The model of lesson 01: tales of level 1.")

# %% [markdown]
# ## 5. A sampler by hand
#
# Training went from text to noise. Writing goes the other way: **start with masks only, and reveal a few at each
# step.** Which ones? A good rule is to reveal where the model is most *confident*, that is, where its best token has
# the largest probability. Revealed tokens stay.
#
# ### Exercise 4: one turn of the sampler
#
# *Must · medium · 8 minutes*
#
# You get the ids, and the model's probabilities `p` at every position (all 0 where nothing is hidden). In each row,
# fill the `count` most confident positions: with the best token if `greedy`, otherwise with a token drawn from the
# probabilities there. Return new ids.
#
# <details><summary>Hint 1: the idea</summary>The confidence of a position is the largest of its probabilities. Visible
# positions have confidence 0, so they are never chosen.</details>
# <details><summary>Hint 2: the shape</summary><code>p.amax(-1).topk(count).indices</code> are the chosen positions,
# (rows, count). With <code>row = torch.arange(len(ids))[:, None]</code>, <code>p[row, positions]</code> has the shape
# (rows, count, V).</details>
# <details><summary>Hint 3: the code</summary><code>torch.multinomial(q, 1)</code> draws one token per row of a table
# <code>q</code>. So flatten the first two axes, draw, and write into a clone: <code>new[row, positions] =
# tokens.view(positions.shape)</code>.</details>


# %% tags=["exercise"]
def my_turn(ids, p, count, greedy):
    """ids (rows, length), p (rows, length, V). Returns ids with `count` more tokens in each row."""
    return None  # your lines here


# %% tags=["solution"]
def my_turn(ids, p, count, greedy):
    """ids (rows, length), p (rows, length, V). Returns ids with `count` more tokens in each row."""
    row = torch.arange(len(ids))[:, None]
    positions = p.amax(-1).topk(count).indices  # (rows, count), the most confident
    chosen = p[row, positions].flatten(0, 1)  # (rows x count, V)
    tokens = chosen.argmax(-1) if greedy else torch.multinomial(chosen, 1)
    ids = ids.clone()
    ids[row, positions] = tokens.view(positions.shape)
    return ids


# %%
check.turn(my_turn)

# %% [markdown]
# Around your turn there is a loop that asks the model. In training, the noise level matched the hidden share, so we
# give the model the level that matches what it sees.

# %%
turn = use(check.turn, my_turn)


@torch.no_grad()
def my_sampler(model, ids, steps, greedy=False):
    """Fill the [MASK]s of ids (rows, length), the same number in each row, in `steps` steps."""
    for steps_left in range(steps, 0, -1):
        hidden = ids == MASK
        count = math.ceil(int(hidden[0].sum()) / steps_left)  # to reveal now, in each row
        if count == 0:
            break
        sigma = -torch.log(1 - hidden.float().mean(1).clamp(max=0.999))
        p = torch.zeros(*ids.shape, MASK)  # (rows, length, V), 0 where nothing is hidden
        p[hidden] = model(ids, sigma, hidden)[:, :MASK].softmax(-1)
        ids = turn(ids, p, count, greedy)
    return ids


blank = torch.full((8, LENGTH), MASK)
for ids in my_sampler(model, blank, steps=LENGTH):
    print(draw(ids))

# %% [markdown]
# Are they good? The grammar can tell. `tales.check` calls a story *grammatical* if every word is of a kind that may
# appear there. It calls it *consistent* if everything also agrees: Tom lost *his* kite, and if he had seven eggs and
# ate three, he kept *four*.


# %%
def text_of(ids):
    """The text before the first end-of-text token."""
    ids = ids.tolist()
    return tokenizer.decode(ids[: ids.index(EOS)] if EOS in ids else ids)


def count_good(table):
    """How many rows are grammatical, and how many are consistent."""
    checks = [tales.check(text_of(ids), 1) for ids in table]
    return sum(c.grammatical for c in checks), sum(c.grammatical and c.consistent for c in checks)


N = 4 if QUICK else 100
written = my_sampler(model, torch.full((N, LENGTH), MASK), steps=LENGTH)
grammatical, consistent = count_good(written)
print(f"of {N} stories, {grammatical} are grammatical and {consistent} of these consistent\n")
bad = [text_of(ids) for ids in written if not tales.check(text_of(ids), 1).consistent]
for text in bad[:4]:
    print(f"{text!r}\n    {tales.check(text, 1).message}")

# %% [markdown]
# **Predict, then run.** We revealed one token per step: as many steps, and model calls, as there are tokens. We could
# also reveal all of them in a single step. Of 100 stories, how many would be grammatical then?
#
# - **A** · almost none
# - **B** · about half as many as before
# - **C** · just as many: the model knows the probability of each token at each position

# %%
guess_2 = predict("A", "B", "C", name="01.2")
guess_2

# %%
from diffuapriel.evaluation.interval import wilson_interval
from diffuapriel.lessons.figure import error_bars

budget = [1, 2, 4, 8, 16]
good = [count_good(my_sampler(model, torch.full((N, LENGTH), MASK), steps)) for steps in budget]
rates = [[100 * g / N, 100 * c / N] for g, c in good]

figure = go.Figure(
    layout={"xaxis_title": "steps", "yaxis_title": "% of the stories", "height": 400}
)
for i, name in enumerate(("grammatical", "consistent")):
    y = [rate[i] for rate in rates]
    bars = error_bars(y, [wilson_interval(counts[i], N) for counts in good], scale=100)
    figure.add_bar(x=[str(steps) for steps in budget], y=y, name=name, error_y=bars)
figure.update_yaxes(range=[0, 105])
show(figure)
for steps, (g, c) in zip(budget, rates):
    print(f"{steps:2} steps: {g:3.0f} % grammatical, {c:3.0f} % consistent")
guess_2.reveal()

# %% [markdown]
# The thin lines are 95 % intervals: with a hundred stories, a rate may be off by that much. Tokens revealed in the same
# step do not know about each other. The model may consider both *Tom* and *Sara* for the
# name, and both *his* and *her* further on. Drawn one after the other, they agree; drawn together, they agree only by
# luck. **Steps buy agreement**, and each step costs one model call. This is the most important setting of a diffusion
# model.

# %% [markdown]
# ## 6. The package's sampler, and the player
#
# The package has this sampler too: it is the strategy `low_confidence`, one of 13. Tokens are drawn at random, so
# two runs differ. But if both samplers always take the best token, they must agree (up to ties). We let both repair the
# same damaged stories; your exercise 2 damages them.

# %%
sampler = Sampler(
    SamplerConfig(strategy="low_confidence", steps=12, temperature=0),
    schedule,
    tokenizer.mask_id,
)
some = draw_stories(6, random.Random(7))
hide = use(check.mask_exactly, mask_exactly)
damaged = hide(some, 12, torch.Generator().manual_seed(9))  # 12 of the 16 tokens of each row
mine = my_sampler(model, damaged, steps=12, greedy=True)
package = generate(sampler, model, damaged)
print(draw(damaged[0]), draw(mine[0]), sep="\n")
print(f"{(mine == package).float().mean():.1%} of the tokens agree with the package's sampler")

# %% [markdown]
# **Predict, then run.** The canvas holds only masks. Which tokens will the model reveal first?
#
# - **A** · the name, because stories begin with it
# - **B** · the color and the thing, because they carry the meaning
# - **C** · any of them, in random order
# - **D** · the end-of-text tokens at the end of the row

# %%
guess_3 = predict("A", "B", "C", "D", name="01.3")
guess_3

# %%
sampler = Sampler(
    SamplerConfig(strategy="low_confidence", steps=LENGTH, seed=1), schedule, tokenizer.mask_id
)
trace = Player().record(
    sampler, model, Canvas.masks(LENGTH, tokenizer), tokenizer, model="my model"
)

# %% [markdown]
# Your model runs in this cell, and the player shows each step as it happens. Now press play to see it again, slower.
# Color by step to see the order. Point at a token to see its alternatives at that moment.

# %%
order = [
    draw(torch.tensor([frame.ids[position]]))
    for frame in trace.frames
    for position in frame.revealed
]
print(" |".join(order))
late = [text.strip() for text in order if text.strip() not in ("·", ".")][-4:]
found = tales.check(text := text_of(torch.tensor(trace.final)), 1)
print(f"the last four tokens: {', '.join(late)}\n{text!r}: {found.message or 'everything agrees'}")
guess_3.reveal()

# %% [markdown]
# The full stop and small words like *the* come early too. Whatever is open, a name or a color, comes late, and then it
# must fit what is there: *his* or *her*, a number of eggs. The last line says whether it did. Run the player with other
# seeds: where a story is wrong, is the word that breaks it among the last?

# %% [markdown]
# ### Exercise 5: the reverse process
#
# *May · easy · 4 minutes*
#
# Confidence is a practical rule. The rule that reverses the forward process *exactly* is called **ancestral**: going
# from time *t* to an earlier time *s*, it reveals each masked token with the same probability. Which one?
#
# At time *t* a share *t* of the tokens is hidden; at time *s* only a share *s* must be. (Ignore the thousandth.)
#
# <details><summary>Hint 1: the idea</summary>Of 100 tokens, 80 are hidden at t = 0.8. At s = 0.6, 60 must be hidden.
# How many of the 80 are revealed?</details>
# <details><summary>Hint 2: the shape</summary>20 of 80. So the answer is a quotient: the tokens revealed between the
# two times, of those hidden at t.</details>
# <details><summary>Hint 3: the code</summary>The share revealed is <code>t - s</code>, the share hidden was
# <code>t</code>.</details>


# %% tags=["exercise"]
def reveal_chance(t, s):
    """Probability that a token hidden at time t is revealed by the earlier time s."""
    return None  # your line here


# %% tags=["solution"]
def reveal_chance(t, s):
    """Probability that a token hidden at time t is revealed by the earlier time s."""
    return (t - s) / t


# %%
check.reveal_chance(reveal_chance)

# %% [markdown]
# With your chance, the exact reverse process is a short loop. The package's strategy `ancestral` does the same. For
# comparison, `random` reveals one token per step, at a random position.

# %%
chance = use(check.reveal_chance, reveal_chance)


@torch.no_grad()
def my_ancestral(model, ids, steps):
    """Fill the [MASK]s of ids (rows, length) by the reverse process, in `steps` steps of equal size."""
    for step in range(steps, 0, -1):
        hidden, t = ids == MASK, step / steps
        if hidden.any():
            sigma = torch.full((len(ids),), -math.log(1 - 0.999 * t))
            tokens = ids.clone()
            p = model(ids, sigma, hidden)[:, :MASK].softmax(-1)
            tokens[hidden] = torch.multinomial(p, 1)[:, 0]
            reveal = hidden & (torch.rand(ids.shape) < chance(t, (step - 1) / steps))
            ids = torch.where(reveal, tokens, ids)
    return ids


blanks = torch.full((N, LENGTH), MASK)
tables = {"ancestral, by hand": my_ancestral(model, blanks, LENGTH)}
for strategy in ("ancestral", "random", "low_confidence"):
    options = SamplerConfig(strategy=strategy, steps=LENGTH)
    tables[strategy] = generate(Sampler(options, schedule, MASK), model, blanks)
for name, table in tables.items():
    grammatical, consistent = count_good(table)
    low, high = wilson_interval(consistent, N)
    print(f"{name:18}  of {N}: {grammatical:3} grammatical, {consistent:3} consistent", end="")
    print(f"  [{low:.0%}, {high:.0%}]")

# %% [markdown]
# With the same number of steps, `ancestral` sometimes reveals several tokens at once, which costs agreement. `random`
# never does, but it also reveals tokens where the model is unsure. Where the intervals overlap, a hundred stories
# cannot tell two rules apart. Lesson 05 is about such choices.

# %% [markdown]
# ## 7. Filling holes
#
# A model that writes from left to right sees only what comes before a hole. Ours sees both sides and needs nothing new
# to fill it: some tokens are given, the rest are masks. The package calls this a *canvas*. `[MASK:5]` is five masks.

# %%
canvas = Canvas.from_text("Mia found a [MASK:5].", tokenizer, length=LENGTH)
for seed in range(5):
    sampler = Sampler(
        SamplerConfig(strategy="low_confidence", steps=LENGTH, seed=seed), schedule, MASK
    )
    text = text_of(generate(sampler, model, canvas)[0])
    print(f"{text:50} {tales.check(text, 1).message or 'a correct story'}")

# %%
canvas = Canvas.from_text("[MASK] gave her [MASK:2] to Tom.", tokenizer, length=LENGTH)
sampler = Sampler(SamplerConfig(strategy="low_confidence", steps=LENGTH), schedule, MASK)
trace = Player().record(sampler, model, canvas, tokenizer, model="my model")

# %% [markdown]
# Does the name at the front fit *her*, which comes after it? Change the text in the cell above and try your own holes.

# %% [markdown]
# How did it go?

# %%
score()

# %% [markdown]
# ## What you built
#
# - **Corruption**: each token is hidden with probability *t*.
# - **Loss**: −log p of the hidden tokens, times 1/*t*, over all tokens. But for the thousandth in alpha, its mean is an
#   upper bound on the cost of a story, and over many stories it cannot be smaller than the entropy.
# - **Sampler**: start with masks only, reveal a few at each step. Steps buy agreement.
#
# Nothing here depends on the model being a Mamba. Any network that looks in both directions would do. The other lessons
# measure which one is better, and which one is faster on long texts.
#
# ## Going further
#
# - Train for 3,000 steps. Which mistakes go away first, and which stay?
# - Replace `low_confidence` in section 6 by `entropy`, `margin` or `remdm`.
# - Set `tales.generate(2, ...)`, `tales.check(..., 2)`, `tales.entropy(2)` and `LENGTH = 64`: stories of several
#   sentences. What is hard about them?
#
# **Papers.** The loss and the name: MDLM, [arXiv:2406.07524](https://arxiv.org/abs/2406.07524). The layers inside:
# Mamba-2, [arXiv:2405.21060](https://arxiv.org/abs/2405.21060). The two together: DiffuApriel,
# [arXiv:2511.15927](https://arxiv.org/abs/2511.15927) (called DiffuMamba since version 3). Revealing by confidence:
# LLaDA, [arXiv:2502.09992](https://arxiv.org/abs/2502.09992).
