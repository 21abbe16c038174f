# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12 · Learning from a verifier
#
# A model that imitates a text learns what usually follows. A *verifier* says something else: whether the result is
# right. Language models learn from such rewards after their training, and diffusion models can, too. Our verifier is
# perfect and costs nothing: `tales.check` knows whether a story is consistent. And the entropy of the tales is known,
# so you can see what no leaderboard shows: what the reward destroys.
#
# **You will be able to**
#
# - turn rewards into advantages, and advantages into a loss for a diffusion model;
# - train with this loss, and prove the gain with an interval;
# - measure the drift away from the true stories;
# - hold a model on a leash, and say what that costs.
#
# **You need** lesson 01. Lesson 07 explains why samples and likelihood are different questions.
#
# | part | minutes |
# |---|---|
# | 1. A half-trained writer | 8 (up to 2 of them waiting) |
# | 2. From rewards to advantages | 10 |
# | 3. A loss for a diffusion model | 12 |
# | 4. Learn from the verifier | 10 (up to 2 of them waiting) |
# | 5. What was lost | 12 |
# | 6. On a leash | 8 (up to 2 of them waiting) |
#
# {{measured}}
#
# Now and then you are asked to **predict, then run**. Three **exercises** check your answer. Later cells run *your*
# functions; where one is not right yet, they run the package's and say so.

# %% [markdown]
# The next cell only prepares things. Run it. `QUICK` is True only when the project's tests run the lesson.

# %%
import copy
import random
from collections import Counter

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from diffuapriel import Denoiser, get_tokenizer, preset
from diffuapriel.charts.palette import COLORS
from diffuapriel.evaluation.interval import mean_interval, wilson_interval
from diffuapriel.lessons import QUICK, check, predict, prepare, show, use
from diffuapriel.tales import language as tales

prepare()
tokenizer = get_tokenizer("tales-words")
EOS, MASK, LENGTH = tokenizer.eos_id, tokenizer.mask_id, 12


def draw_stories(rows, rng):
    """New one-sentence stories as a table of token ids, (rows, LENGTH)."""
    table = [tokenizer.encode(tales.generate(1, rng)) for _ in range(rows)]
    return torch.tensor([ids + [EOS] * (LENGTH - len(ids)) for ids in table])


def text_of(row):
    """The text before the first end-of-text token."""
    row = row.tolist()
    return tokenizer.decode(row[: row.index(EOS)] if EOS in row else row)


held_out = draw_stories(8 if QUICK else 300, random.Random(99))

# %% [markdown]
# ## 1. A half-trained writer
#
# ![The model writes a group of stories, the verifier rewards them, advantages train the model](diagrams/verifier.svg)
#
# First a model as in lesson 01, with the loss by counts: hide $l$ of $L$ tokens, $l$ uniform, weight $L/l$. It is
# trained for a short time only, so that there is something left to learn.


# %%
def hide(ids, generator):
    """Masked copies of ids (rows, LENGTH) and which tokens are hidden, from 1 to all of each row."""
    count = 1 + torch.randint(LENGTH, (len(ids), 1), generator=generator)
    hidden = torch.rand(ids.shape, generator=generator).argsort(1).argsort(1) < count
    return ids.masked_fill(hidden, MASK), hidden


def story_nats(model, ids, noisy, hidden):
    """One draw of the bound on -log p of each story, (rows,)."""
    logits = model(noisy, torch.zeros(len(ids)), hidden)[:, :MASK]
    cost = F.cross_entropy(logits, ids[hidden], reduction="none")
    nll = torch.zeros(ids.shape).masked_scatter(hidden, cost)
    return LENGTH / hidden.sum(1) * nll.sum(1)


# %%
torch.manual_seed(0)
options = {"d_model": 128, "depth": 2, "expand": 1, "d_state": 32, "headdim": 64}
options |= {"tokenizer": "tales-words", "time_conditioning": False}
base = Denoiser(preset("nano", "diffuapriel", **options))
STEPS = 5 if QUICK else 150
optimizer = torch.optim.AdamW(base.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
rate = torch.optim.lr_scheduler.OneCycleLR(
    optimizer, max_lr=4e-3, total_steps=STEPS, pct_start=0.1, cycle_momentum=False
)
rng, generator = random.Random(0), torch.Generator().manual_seed(0)
for _ in (bar := tqdm(range(STEPS))):
    ids = draw_stories(64, rng)
    loss = story_nats(base, ids, *hide(ids, generator)).mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(base.parameters(), 1.0)
    optimizer.step()
    rate.step()
    bar.set_postfix_str(f"{loss.item():.1f} nats per story")
_ = base.eval()

# %% [markdown]
# It writes two tokens per call, in random order, from its own probabilities: no sharpening, so that what we see is the
# model. The verifier reads the stories.


# %%
@torch.no_grad()
def write(model, rows, generator, per_call=2):
    """Stories from masks only, (rows, LENGTH)."""
    ids = torch.full((rows, LENGTH), MASK)
    order = torch.rand(rows, LENGTH, generator=generator).argsort(1)
    for places in order.split(per_call, dim=1):
        now = torch.zeros(ids.shape, dtype=torch.bool).scatter(1, places, True)
        p = model(ids, torch.zeros(rows), now)[:, :MASK].softmax(-1)
        ids = ids.masked_scatter(now, torch.multinomial(p, 1, generator=generator))
    return ids


def rewards_of(ids):
    """1 for a consistent story, 0 for any other, (rows,)."""
    return torch.tensor([float(tales.check(text_of(row), 1).consistent) for row in ids])


N = 8 if QUICK else 400


def report(name, model):
    """Write N stories; print how many are consistent, and return them."""
    ids = write(model, N, torch.Generator().manual_seed(5))
    good = int(rewards_of(ids).sum())
    low, high = wilson_interval(good, N)
    print(f"{name:12} {good / N:4.0%} consistent  [{low:.0%}, {high:.0%}]")
    return ids, (low, high)


before, before_interval = report("imitation", base)
for row in before[:4]:
    print("   ", text_of(row))

# %% [markdown]
# ## 2. From rewards to advantages
#
# The reward of a story says little by itself. If 30 % of all stories are right, a right one is good news; if 99 % are,
# it is nothing special. So each story is compared with the *group* written at the same time:
#
# $$A_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std}(r)}$$
#
# This is the *advantage* of GRPO. It needs no second model that estimates rewards.
#
# **Predict, then run.** In a group of 10 stories, one is right. How large are its advantage and those of the others?
#
# - **A** · 1 for the right one, 0 for the others
# - **B** · about 3 for the right one, −0.3 for the others
# - **C** · 0.5 for the right one, −0.5 for the others

# %%
guess_1 = predict("A", "B", "C")
guess_1

# %% [markdown]
# ### Exercise 1: advantages
#
# If all stories of a group have the same reward, nothing can be learned from them: all advantages are 0.
#
# <details><summary>Hint 1 (idea)</summary>Subtract what the group gets on average. Then divide, so that the size does
# not depend on how often the model is right.</details>
# <details><summary>Hint 2 (shape)</summary>(rows,) in, (rows,) out. The mean of the result is 0.</details>
# <details><summary>Hint 3 (code)</summary>Take <code>rewards.std(correction=0)</code>. A small number added to it, such
# as 1e-6, avoids 0 / 0.</details>


# %% tags=["exercise"]
def advantages(rewards):
    """rewards (rows,) of one group. Returns the advantages, (rows,)."""
    return None  # your line here


# %% tags=["solution"]
def advantages(rewards):
    """rewards (rows,) of one group. Returns the advantages, (rows,)."""
    return (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-6)


# %%
check.advantages(advantages)

# %%
compare = use(check.advantages, advantages)
one_right = compare(torch.tensor([1.0] + [0.0] * 9))
print([round(a, 2) for a in one_right.tolist()])
first = one_right[0].item()
letter = min({"A": 1.0, "B": 3.0, "C": 0.5}.items(), key=lambda item: abs(item[1] - first))[0]
guess_1.reveal(
    letter, "A rare success counts much, and each of many failures a little. The sum is 0."
)

# %% [markdown]
# ## 3. A loss for a diffusion model
#
# We want stories with a positive advantage to become more probable:
#
# $$\text{loss} = -\frac{1}{n} \sum_i A_i \log p(x_i)$$
#
# A left-to-right model computes log p exactly. A diffusion model has only the bound of section 1, from one random
# masking. That is enough: on average over the maskings its gradient points the right way. (The published diffu-GRPO
# masks the whole answer and random tokens of the question. Our stories have no question, so we draw the maskings as in
# training.) Stories are used once and then thrown away, so no ratio of old to new probabilities is needed.
#
# ### Exercise 2: the loss
#
# `nats` is a bound on **minus** log p.
#
# <details><summary>Hint 1 (idea)</summary>Gradient descent makes the loss small. A right story must get fewer nats, so
# its nats must be part of the loss with a positive sign.</details>
# <details><summary>Hint 2 (shape)</summary>advantages (rows,) and nats (rows,) to one number.</details>
# <details><summary>Hint 3 (code)</summary>Two minus signs cancel: the mean of <code>advantages * nats</code>.</details>


# %% tags=["exercise"]
def policy_loss(advantages, nats):
    """advantages (rows,), nats (rows,): bounds on -log p. Returns the loss, one number."""
    return None  # your line here


# %% tags=["solution"]
def policy_loss(advantages, nats):
    """advantages (rows,), nats (rows,): bounds on -log p. Returns the loss, one number."""
    return (advantages * nats).mean()


# %%
check.policy_loss(policy_loss)

# %% [markdown]
# ## 4. Learn from the verifier
#
# This is the whole method: write, verify, compare, take a step. `leash` is for section 6.

# %%
objective = use(check.policy_loss, policy_loss)
TURNS, GROUP = (3, 8) if QUICK else (80, 96)


def distance(model, reference, noisy, hidden):
    """Mean KL divergence from the reference at the hidden positions, one number."""
    level = torch.zeros(len(noisy))
    with torch.no_grad():
        old = reference(noisy, level, hidden)[:, :MASK].log_softmax(-1)
    new = model(noisy, level, hidden)[:, :MASK].log_softmax(-1)
    return F.kl_div(new, old, log_target=True, reduction="batchmean")


def learn(leash=0.0):
    """A copy of the base model after TURNS turns with the verifier, and the reward of each turn."""
    model, rewards = copy.deepcopy(base), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    for _ in (bar := tqdm(range(TURNS))):
        ids = write(model, GROUP, generator)
        reward = rewards_of(ids)
        noisy, hidden = hide(ids, generator)
        loss = objective(compare(reward), story_nats(model, ids, noisy, hidden))
        if leash:
            loss = loss + leash * distance(model, base, noisy, hidden)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rewards.append(reward.mean().item())
        bar.set_postfix_str(f"{rewards[-1]:.0%} consistent")
    return model.eval(), rewards


# %% [markdown]
# **Predict, then run.** 80 turns with 96 stories each, and not one true story among them. What happens to the share of
# consistent stories?
#
# - **A** · little: the model never sees how to do it right
# - **B** · it rises by more than ten percentage points
# - **C** · it falls: the model forgets what it has learned

# %%
guess_2 = predict("A", "B", "C")
guess_2

# %%
free, free_rewards = learn()
after, after_interval = report("rewarded", free)
gain = rewards_of(after).mean().item() - rewards_of(before).mean().item()
print(f"gain {100 * gain:+.0f} percentage points; the intervals are", end=" ")
print("apart" if after_interval[0] > before_interval[1] else "not apart")
letter = "B" if gain > 0.1 else "C" if gain < -0.05 else "A"
guess_2.reveal(
    letter, "It writes right stories now and then, by itself. The reward makes them more frequent."
)

# %% [markdown]
# ## 5. What was lost
#
# The reward does not ask for *all* stories. A model that writes one right story, always the same, gets a perfect
# reward. So look at variety. With the true distribution known, that is easy: with which name does a story begin?
#
# ### Exercise 3: the entropy of a count
#
# <details><summary>Hint 1 (idea)</summary>Turn counts into shares p. The entropy is the mean of −log p, each weighted
# with p.</details>
# <details><summary>Hint 2 (shape)</summary>A list of counts in, one number in nats out. For n equal counts it is
# log n.</details>
# <details><summary>Hint 3 (code)</summary>Leave out counts of 0, and add up <code>-p * math.log(p)</code>, or use
# tensors.</details>


# %% tags=["exercise"]
def entropy_of_counts(counts):
    """counts: a list of whole numbers. Returns the entropy of their shares, in nats."""
    return None  # your lines here


# %% tags=["solution"]
def entropy_of_counts(counts):
    """counts: a list of whole numbers. Returns the entropy of their shares, in nats."""
    p = torch.tensor([float(count) for count in counts if count])
    p = p / p.sum()
    return -(p * p.log()).sum().item()


# %%
check.entropy_of_counts(entropy_of_counts)

# %% [markdown]
# The second measure is the likelihood of *true* stories that the model has never seen. If it has forgotten some kinds
# of stories, their cost rises.

# %%
entropy_in = use(check.entropy_of_counts, entropy_of_counts)
exact = torch.tensor([-tales.log_prob(text_of(row), 1) for row in held_out])


@torch.no_grad()
def drift(name, model, ids):
    """Print variety and likelihood; returns the excess nats of each true story."""
    texts = [text_of(row) for row in ids]
    names = entropy_in(list(Counter(text.split(" ")[0] for text in texts).values()))
    generator = torch.Generator().manual_seed(2)
    draws = [
        story_nats(model, held_out, *hide(held_out, generator)) for _ in range(2 if QUICK else 24)
    ]
    excess = torch.stack(draws).mean(0) - exact
    mean, (low, high) = mean_interval(excess.tolist())
    print(
        f"{name:12} {len(set(texts)) / len(texts):4.0%} different, first word {names:.2f} nats, "
        f"true stories {mean:+5.1f} nats [{low:+.1f}, {high:+.1f}] above their entropy"
    )
    return excess


true_rows = draw_stories(N, random.Random(3))
first_words = Counter(text_of(row).split(" ")[0] for row in true_rows)
print(f"{'true stories':12} first word {entropy_in(list(first_words.values())):.2f} nats")
excess_before = drift("imitation", base, before)
excess_after = drift("rewarded", free, after)
mean, (low, high) = mean_interval((excess_after - excess_before).tolist())
print(f"the reward costs {mean:+.1f} nats per true story [{low:+.1f}, {high:+.1f}]")
verdict = (
    "less probable"
    if low > 0
    else "more probable"
    if high < 0
    else "neither more nor less probable"
)
print(f"true stories have become {verdict} for it")

# %% [markdown]
# Read the last two lines beside the gain of section 4. Both are measured on the same model, and neither is wrong.
# Samples ask what a model does; likelihood asks what it still knows. A model can move its probability to the stories
# that it writes well, and so gain on the first and lose on the second.
#
# Has it given up some kinds of stories? Compare the verbs.

# %%
kinds = ["found", "lost", "gave", "had", "took", "saw"]
figure = go.Figure(layout={"yaxis_title": "% of the stories", "barmode": "group"})
groups = {"true": (true_rows, None), "imitation": (before, COLORS["diffutran"])}
groups["rewarded"] = (after, COLORS["diffuapriel"])
for name, (rows, color) in groups.items():
    words = [text_of(row).split(" ") for row in rows]
    shares = [100 * sum(kind in story for story in words) / len(words) for kind in kinds]
    figure.add_bar(x=kinds, y=shares, name=name, marker_color=color or "#8a929b")
show(figure)

# %% [markdown]
# ## 6. On a leash
#
# The usual remedy is a penalty on the distance from the model before: the KL divergence at the hidden positions, times
# a number, the *leash*. The reward pulls, and the leash holds.

# %%
leashed, leashed_rewards = learn(leash=1.0)
held, _ = report("on a leash", leashed)
excess_held = drift("on a leash", leashed, held)
mean, (low, high) = mean_interval((excess_after - excess_held).tolist())
print(f"the leash saves {mean:+.1f} nats per true story [{low:+.1f}, {high:+.1f}]")

# %%
figure = go.Figure(layout={"xaxis_title": "turn", "yaxis_title": "% consistent in the group"})
for name, rewards, color in (
    ("free", free_rewards, COLORS["diffuapriel"]),
    ("on a leash", leashed_rewards, COLORS["diffuapriel-h"]),
):
    y = [100 * reward for reward in rewards]
    figure.add_scatter(x=list(range(1, len(y) + 1)), y=y, name=name, line_color=color)
figure.update_yaxes(range=[0, 105])
show(figure)

# %% [markdown]
# The leash trades drift for reward; how much of each, the cells above print. There is no right setting: it says how
# much of the old model you want to keep. Which is why a result of such a training needs three numbers: the reward,
# the variety, and a likelihood.
#
# ## What you learned
#
# - A **verifier** gives a reward without a target text.
# - **Advantages** compare a story with its group; a group that is all right or all wrong teaches nothing.
# - A diffusion model uses its **bound** in place of log p.
# - Reward, variety and the likelihood of true stories are three questions: **reward is not knowledge**.
# - A **leash** trades the one for the other.
#
# ## Going further
#
# - Give a reward to *variety*: 1 only for a consistent story that is new in its group. What changes?
# - Train for 300 turns without a leash. Does it end with one story?
# - Use an easier reward: 1 if the story contains *kite*. How fast is it learned, and what is lost?
# - Continue with the base model on true stories for the same time. Which of the two would you use, and for what?
#
# **Papers.** GRPO: [arXiv:2402.03300](https://arxiv.org/abs/2402.03300). diffu-GRPO:
# [arXiv:2504.12216](https://arxiv.org/abs/2504.12216). The bound by counts:
# [arXiv:1310.1757](https://arxiv.org/abs/1310.1757). The verifier: `diffuapriel/tales/language.py`.
