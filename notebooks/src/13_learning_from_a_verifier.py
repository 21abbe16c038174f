# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 13 · Learning from a verifier
#
# A model that imitates a text learns what usually follows. A *verifier* says something else: whether the result is
# right. Language models learn from such rewards after their training, and diffusion models can, too. Our verifier is
# exact and costs nothing: `tales.check` knows whether a story is consistent. And the entropy of the tales is known,
# so you can measure what the reward costs: how far the model drifts away from the true stories.
#
# **You will be able to**
#
# - turn rewards into advantages, and advantages into a loss for a diffusion model;
# - train with this loss, and show the gain with an interval;
# - measure the drift away from the true stories in nats, and the loss of variety;
# - hold a model on a leash, and say what that costs.
#
# **You need** lesson 01. Lesson 07 explains why samples and likelihood are different questions.
#
# | part | minutes |
# |---|---|
# | 1. A half-trained writer | 8 |
# | 2. From rewards to advantages | 10 |
# | 3. A loss for a diffusion model | 14 |
# | 4. Learn from the verifier | 8 |
# | 5. What was lost | 14 |
# | 6. On a leash | 14 |
#
# {{measured}}
#
# Now and then you are asked to **predict, then run**. Four **exercises** check your answer, and the lesson then runs
# *your* code; where you have none, ours takes its place.

# %% [markdown]
# The next cell only prepares things. Run it.

# %%
import copy
import random
from collections import Counter

import plotly.graph_objects as go
import torch
from tqdm.auto import tqdm

from diffuapriel import Denoiser, get_tokenizer, preset
from diffuapriel.charts.palette import COLORS, OTHERS
from diffuapriel.evaluation.interval import mean_interval, wilson_interval
from diffuapriel.lessons import QUICK, check, predict, prepare, score, show, use
from diffuapriel.lessons.figure import error_bars
from diffuapriel.tales import language as tales

prepare()
tokenizer = get_tokenizer("tales-words")
EOS, MASK, LENGTH = tokenizer.eos_id, tokenizer.mask_id, 12


def draw_stories(rows, rng):
    """New one-sentence stories as a table of token ids, (rows, LENGTH)."""
    table = [tokenizer.encode(tales.generate(1, rng)) for _ in range(rows)]
    return torch.tensor([ids + [EOS] * (LENGTH - len(ids)) for ids in table])


def text_of(row):
    """The text of a row, without the end-of-text tokens at its end."""
    row = row.tolist()
    while row and row[-1] == EOS:
        row.pop()
    return tokenizer.decode(row)


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


def predictions(model, noisy, hidden):
    """Log-probabilities at the hidden positions, (hidden tokens, V)."""
    return model(noisy, torch.zeros(len(noisy)), hidden)[:, :MASK].log_softmax(-1)


def of_tokens(logs, ids, hidden):
    """The log-probability of each hidden token of ids, (rows, LENGTH); 0 where nothing is hidden."""
    picked = logs.gather(1, ids[hidden][:, None])[:, 0]
    return torch.zeros(ids.shape).masked_scatter(hidden, picked)


def story_nats(model, ids, noisy, hidden):
    """One draw of the bound on -log p of each story, (rows,)."""
    logs = of_tokens(predictions(model, noisy, hidden), ids, hidden)
    return -LENGTH / hidden.sum(1) * logs.sum(1)


# %%
torch.manual_seed(0)
options = {"d_model": 128, "depth": 2, "expand": 1, "d_state": 32, "headdim": 64}
options |= {"tokenizer": "tales-words", "time_conditioning": False}
base = Denoiser(preset("nano", "diffuapriel", **options))
STEPS = 4 if QUICK else 150
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
# It writes two tokens per call, in random order, from its own probabilities. Nothing is sharpened, so what we see is
# the model. The verifier reads the stories.


# %%
@torch.no_grad()
def write(model, rows, generator, per_call=2):
    """Stories from masks only, (rows, LENGTH)."""
    ids = torch.full((rows, LENGTH), MASK)
    order = torch.rand(rows, LENGTH, generator=generator).argsort(1)
    for positions in order.split(per_call, dim=1):
        now = torch.zeros(ids.shape, dtype=torch.bool).scatter(1, positions, True)
        p = predictions(model, ids, now).exp()
        ids = ids.masked_scatter(now, torch.multinomial(p, 1, generator=generator))
    return ids


def rewards_of(ids):
    """1 for a consistent story, 0 for any other text, (rows,)."""
    return torch.tensor([float(tales.check(text_of(row), 1).consistent) for row in ids])


N = 8 if QUICK else 500


def report(name, model):
    """Write N stories with new random numbers; print how many are consistent, and return them."""
    ids = write(model, N, torch.Generator().manual_seed(5))
    good = int(rewards_of(ids).sum())
    low, high = wilson_interval(good, N)
    print(f"{name:12} {good / N:4.0%} consistent  [{low:.0%}, {high:.0%}]")
    return ids, (good / N, low, high)


before, rate_before = report("imitation", base)
for row, right in zip(before[:6], rewards_of(before[:6])):
    print("  ", "right" if right else "wrong", " ", text_of(row))

# %% [markdown]
# ## 2. From rewards to advantages
#
# The reward of a story says little by itself. If 30 % of all stories are right, a right one is good news; if 99 % are,
# it is nothing special. So each story is compared with the *group* written at the same time:
#
# $$A_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std}(r)}$$
#
# This is the *advantage* of GRPO (group relative policy optimization). It needs no second model that estimates
# rewards, as its forerunner PPO does.
#
# **Predict, then run.** In a group of 10 stories, one is right. How large are its advantage and those of the others?
#
# - **A** · 1 for the right one, 0 for the others
# - **B** · 3 for the right one, −0.33 for the others
# - **C** · 0.5 for the right one, −0.5 for the others

# %%
guess_1 = predict("A", "B", "C", name="13.1")
guess_1

# %% [markdown]
# ### Exercise 1: advantages
#
# *Must · easy · 4 minutes*
#
# If all stories of a group have the same reward, nothing can be learned from them: all advantages are 0.
#
# <details><summary>Hint 1: the idea</summary>Subtract what the group gets on average. Then divide, so that the size
# does not depend on how often the model is right.</details>
# <details><summary>Hint 2: the shape</summary>(rows,) in, (rows,) out. The mean of the result is 0.</details>
# <details><summary>Hint 3: the code</summary>Take <code>rewards.std(correction=0)</code>. A small number added to it,
# such as 1e-6, avoids 0 / 0.</details>


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
guess_1.reveal()

# %% [markdown]
# ## 3. A loss for a diffusion model
#
# Stories with a positive advantage are to become more probable, the others less:
#
# $$\text{loss} = -\frac{1}{n} \sum_i A_i \log p(x_i)$$
#
# A model that writes from left to right knows log p. A diffusion model has only random maskings of the story. Two
# things go wrong if the bound of section 1 takes the place of log p:
#
# - **It is noisy.** With the weight $L/l$, a story with one hidden token counts twelve times as much per token as one
#   with all hidden. So we do as *diffu-GRPO* does, and take the **mean** over the hidden tokens. It is calm, but no
#   bound on log p any more, which later work criticizes. (The paper hides the whole answer, and random tokens of the
#   question. Our stories have no question, so we hide tokens of the story.)
# - **It has no end.** A wrong story can always become less probable: −log p grows without limit, and the push gets no
#   weaker. So within a turn the push ends when a probability has changed by a fifth.
#
# For the second, let $\rho$ be the probability of a token now, over its probability when the turn began, both under
# the *same* masking. What a token gains is *clipped*, as in PPO and GRPO:
#
# $$g = \min\big(\rho A,\ \mathrm{clip}(\rho,\, 1 - \epsilon,\, 1 + \epsilon)\, A\big) \qquad \epsilon = 0.2$$
#
# ### Exercise 2: the clipped gain
#
# *Must · hard · 8 minutes*
#
# Write $g$ for every token of every story. You get the *logarithms* of its probability, now and when the turn began,
# and the advantage of each story.
#
# <details><summary>Hint 1: the idea</summary>A ratio of probabilities is the exponential of a difference of
# log-probabilities. Compute the gain with and without the clip, and keep the smaller one.</details>
# <details><summary>Hint 2: the shape</summary>new and old are (rows, length), the advantages (rows,). Give the
# advantages a second axis. The result is (rows, length).</details>
# <details><summary>Hint 3: the code</summary><code>ratio = (new - old).exp()</code>, <code>A =
# advantages[:, None]</code>, then <code>torch.minimum</code> of <code>ratio * A</code> and of <code>ratio.clamp(0.8,
# 1.2) * A</code>.</details>


# %% tags=["exercise"]
def clipped_gain(new, old, advantages):
    """new, old (rows, length): log-probabilities of tokens, now and when the turn began; advantages (rows,).

    Returns the gain of each token, (rows, length).
    """
    return None  # your lines here


# %% tags=["solution"]
def clipped_gain(new, old, advantages):
    """new, old (rows, length): log-probabilities of tokens, now and when the turn began; advantages (rows,).

    Returns the gain of each token, (rows, length).
    """
    ratio, A = (new - old).exp(), advantages[:, None]
    return torch.minimum(ratio * A, ratio.clamp(0.8, 1.2) * A)


# %%
check.clipped_gain(clipped_gain)

# %% [markdown]
# What does the clip do? Here is the slope of the gain in log p: how hard a token is pushed.

# %%
gain_of = use(check.clipped_gain, clipped_gain)
for advantage, words in ((1.0, "a right story"), (-1.0, "a wrong story")):
    new = torch.tensor([[0.5, 0.9, 1.0, 1.1, 2.0]]).log().requires_grad_()
    gain_of(new, torch.zeros(1, 5), torch.tensor([advantage])).sum().backward()
    slopes = ", ".join(
        f"{r:.1f}: {g:+.1f}" for r, g in zip(new.exp()[0].tolist(), new.grad[0].tolist())
    )
    print(f"{words}   ratio: push   {slopes}")

# %% [markdown]
# A token of a right story is pushed up until it is 1.2 times as probable, and then left alone. A token of a wrong one
# is pushed down until the ratio is 0.8. A token that has moved the wrong way is still pushed back.
#
# ## 4. Learn from the verifier
#
# This is the whole method: write, verify, compare, take two small steps. Each step has a masking of its own. `weigh`
# and `leash` are for section 6.

# %%
TURNS, GROUP, STEPS_PER_TURN = (2, 8, 2) if QUICK else (40, 96, 2)


def learn(name, weigh=compare, leash=0.0):
    """A copy of the base model after TURNS turns with the verifier, and the share of right stories in each turn."""
    model, shares = copy.deepcopy(base), []
    optimizer = torch.optim.AdamW(model.parameters(), 2e-4, betas=(0.9, 0.95), weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    for _ in (bar := tqdm(range(TURNS), name)):
        ids = write(model, GROUP, generator)
        rewards = rewards_of(ids)
        views = [hide(ids, generator) for _ in range(STEPS_PER_TURN)]
        with torch.no_grad():
            old = [of_tokens(predictions(model, *view), ids, view[1]) for view in views]
        for view, old_logs in zip(views, old):
            logs, hidden = predictions(model, *view), view[1]
            gain = gain_of(of_tokens(logs, ids, hidden), old_logs, weigh(rewards)) * hidden
            loss = -(gain.sum(1) / hidden.sum(1)).mean()
            if leash:
                with torch.no_grad():
                    reference = predictions(base, *view)
                loss = loss + leash * apart(logs, reference).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        shares.append(rewards.mean().item())
        bar.set_postfix_str(f"{shares[-1]:.0%} consistent")
    return model, shares


# %% [markdown]
# **Predict, then run.** 40 turns with 96 stories each, and not one true story among them. What happens to the share of
# consistent stories?
#
# - **A** · little: the model never sees how to do it right
# - **B** · it rises by more than twenty percentage points
# - **C** · it falls: the model forgets what it has learned

# %%
guess_2 = predict("A", "B", "C", name="13.2")
guess_2

# %%
free, free_shares = learn("rewarded")
after, rate_after = report("rewarded", free)
gain = rate_after[0] - rate_before[0]
print(f"gain {100 * gain:+.0f} percentage points; the intervals are", end=" ")
print("apart" if rate_after[1] > rate_before[2] or rate_after[2] < rate_before[1] else "not apart")
for row, right in zip(after[:6], rewards_of(after[:6])):
    print("  ", "right" if right else "wrong", " ", text_of(row))
guess_2.reveal(
    "B" if gain > 0.2 else "C" if gain < -0.05 else "A",
    f"Here: {rate_before[0]:.0%} before, {rate_after[0]:.0%} after.",
)

# %% [markdown]
# ## 5. What was lost
#
# Read the six stories above once more. The reward does not ask for *all* stories: a model that writes one right story,
# always the same, gets a perfect reward. So look at the variety. The grammar begins a story with one of 40 names, all
# equally likely: log 40 = 3.69 nats. And the model?
#
# ### Exercise 3: the surprisal of a word
#
# *Must · medium · 6 minutes*
#
# Give each story −log of the share of its word among all of them. The mean of these numbers is the *entropy* of the
# words, and because there is one per story, it comes with an interval.
#
# <details><summary>Hint 1: the idea</summary>Count the words first. A word that n of N stories have costs log N − log
# n.</details>
# <details><summary>Hint 2: the shape</summary>A list of N words in, a tensor (N,) out, in the same order. If all words
# are equal, all costs are 0.</details>
# <details><summary>Hint 3: the code</summary><code>counts = Counter(words)</code>, then <code>torch.tensor([counts[w] /
# len(words) for w in words])</code> are the shares.</details>


# %% tags=["exercise"]
def surprisals(words):
    """words: a list of N strings. Returns -log of the share of each word, (N,), in nats."""
    return None  # your lines here


# %% tags=["solution"]
def surprisals(words):
    """words: a list of N strings. Returns -log of the share of each word, (N,), in nats."""
    counts = Counter(words)
    return -torch.tensor([counts[word] / len(words) for word in words]).log()


# %%
check.surprisals(surprisals)

# %% [markdown]
# The second measure is the likelihood of *true* stories that the model has never seen: the bound of section 1, from 24
# maskings, minus the exact cost that the grammar knows. If the model has given up some kinds of stories, it grows.
#
# **Predict, then run.** A true story costs the model about 14 nats before the training with rewards. And after it?
#
# - **A** · less: it now writes better
# - **B** · more, but less than half as much again
# - **C** · half as much again, or even more

# %%
guess_3 = predict("A", "B", "C", name="13.3")
guess_3

# %%
costs_of = use(check.surprisals, surprisals)
exact = torch.tensor([-tales.log_prob(text_of(row), 1) for row in held_out])


def variety(name, ids):
    """Print how many stories differ, and the entropy of their first words."""
    texts = [text_of(row) for row in ids]
    first = [text.split(" ")[0] for text in texts]
    mean, (low, high) = mean_interval(costs_of(first).tolist())
    (word, often), *_ = Counter(first).most_common(1)
    print(f"{name:12} {len(set(texts)):3} different; first word {mean:.2f} nats", end=" ")
    print(f"[{low:.2f}, {high:.2f}], most often {word}: {often / len(first):.0%}")
    return mean, low, high


@torch.no_grad()
def excess_of(name, model, draws=2 if QUICK else 24):
    """Print and return the nats of each true story above its exact cost, (stories,)."""
    generator = torch.Generator().manual_seed(2)
    nats = [story_nats(model, held_out, *hide(held_out, generator)) for _ in range(draws)]
    excess = torch.stack(nats).mean(0) - exact
    mean, (low, high) = mean_interval(excess.tolist())
    print(
        f"{name:12} true stories {mean:+.1f} nats above their exact cost [{low:+.1f}, {high:+.1f}]"
    )
    return excess


# %%
true_rows = draw_stories(N, random.Random(3))
variety("true stories", true_rows)
variety_before, variety_after = variety("imitation", before), variety("rewarded", after)
excess_before, excess_after = excess_of("imitation", base), excess_of("rewarded", free)
drift, (low, high) = mean_interval((excess_after - excess_before).tolist())
print(f"the drift: {drift:+.1f} nats per true story [{low:+.1f}, {high:+.1f}]")
times = ((excess_after + exact).mean() / (excess_before + exact).mean()).item()
guess_3.reveal(
    "A" if times < 1 else "C" if times >= 1.5 else "B", f"Here: {times:.1f} times as much."
)

# %% [markdown]
# Both results belong to the same model, and neither is wrong. Samples ask what a model *does*; likelihood asks what it
# still *knows*. This model has moved its probability to the stories that it writes without a mistake.
#
# What has it given up? Compare the verbs.

# %%
kinds = ["found", "lost", "gave", "had", "took"]
figure = go.Figure(layout={"yaxis_title": "% of the stories", "barmode": "group"})
groups = {"true": (true_rows, "#8a929b"), "imitation": (before, COLORS["diffutran"])}
groups["rewarded"] = (after, COLORS["diffuapriel"])
for name, (rows, color) in groups.items():
    stories = [text_of(row).split(" ") for row in rows]
    counts = [sum(kind in story for story in stories) for kind in kinds]
    ends = [wilson_interval(count, len(stories)) for count in counts]
    y = [100 * count / len(stories) for count in counts]
    figure.add_bar(x=kinds, y=y, error_y=error_bars(y, ends, 100), name=name, marker_color=color)
show(figure)

# %% [markdown]
# ## 6. On a leash
#
# The usual remedy is a penalty on the distance from the model before: the *Kullback-Leibler divergence* at each hidden
# position, times a number, the leash. With $p$ the base model and $q$ the new one:
#
# $$\mathrm{KL}(p \,\|\, q) = \sum_v p_v \,(\log p_v - \log q_v)$$
#
# This direction is large where the new model gives up something that the base model does. (GRPO takes the other one,
# which is large where the new model does something that the base model does not.)
#
# ### Exercise 4: the divergence
#
# *May · medium · 5 minutes*
#
# Write it for all hidden positions at once, from the log-probabilities of the two models.
#
# <details><summary>Hint 1: the idea</summary>The weights are the probabilities of the reference, so of the base
# model. Equal predictions have the divergence 0.</details>
# <details><summary>Hint 2: the shape</summary>(positions, V) twice in, (positions,) out: sum over the vocabulary only.
# </details>
# <details><summary>Hint 3: the code</summary><code>reference.exp()</code> are the probabilities. Multiply, then
# <code>.sum(-1)</code>.</details>


# %% tags=["exercise"]
def divergence(new, reference):
    """new, reference (positions, V): log-probabilities. Returns KL(reference || new), (positions,)."""
    return None  # your line here


# %% tags=["solution"]
def divergence(new, reference):
    """new, reference (positions, V): log-probabilities. Returns KL(reference || new), (positions,)."""
    return (reference.exp() * (reference - new)).sum(-1)


# %%
check.divergence(divergence)

# %% [markdown]
# Two leashes, and one more rival. *Expert iteration* is older and simpler: imitate your own right stories, and forget
# the wrong ones. In our loop that is an advantage of 0 for every wrong story, so nothing is ever pushed down.

# %%
apart = use(check.divergence, divergence)
leashed, leashed_shares = learn("leash 0.3", leash=0.3)
tight, tight_shares = learn("leash 1.0", leash=1.0)
expert, expert_shares = learn("right only", weigh=lambda rewards: compare(rewards).clamp(min=0))

# %%
runs = {"imitation": (base, rate_before, variety_before, excess_before)}
runs["rewarded"] = (free, rate_after, variety_after, excess_after)
for name, model in (("leash 0.3", leashed), ("leash 1.0", tight), ("right only", expert)):
    ids, share = report(name, model)
    runs[name] = (model, share, variety(name, ids), excess_of(name, model))
    saved, (low, high) = mean_interval((excess_after - runs[name][3]).tolist())
    lift = 100 * (share[0] - rate_before[0])
    apart_now = "apart" if share[1] > rate_before[2] else "not apart"
    print(f"{name:12} gain {lift:+.0f} percentage points, {apart_now} from imitation;", end=" ")
    print(f"{saved:+.1f} nats saved per true story [{low:+.1f}, {high:+.1f}]\n")

# %%
figure = go.Figure(layout={"xaxis_title": "nats of a true story above its exact cost"})
palette = ["#8a929b", COLORS["diffuapriel"], COLORS["diffuapriel-h"], *(s.color for s in OTHERS)]
for (name, (_, share, _, excess)), color in zip(runs.items(), palette):
    mean, interval = mean_interval(excess.tolist())
    figure.add_scatter(
        x=[mean],
        y=[100 * share[0]],
        error_x=error_bars([mean], [interval]),
        error_y=error_bars([100 * share[0]], [share[1:]], 100),
        name=name,
        text=[name],
        textposition="bottom right",
        mode="markers+text",
        marker={"color": color, "size": 11},
        showlegend=False,
    )
figure.update_yaxes(title="% consistent", range=[0, 105])
show(figure)

# %% [markdown]
# Up is better, left is better, and one axis alone would say little. So a result of such a training needs three numbers:
# the reward, the variety and a likelihood. Compare *rewarded* with *right only*, interval by interval: was it worth it
# to push the wrong stories down?

# %%
figure = go.Figure(layout={"xaxis_title": "turn", "yaxis_title": "% consistent in the group"})
curves = (free_shares, leashed_shares, tight_shares, expert_shares)
for name, shares, color in zip(list(runs)[1:], curves, palette[1:]):
    y = [100 * share for share in shares]
    figure.add_scatter(x=list(range(1, len(y) + 1)), y=y, name=name, line_color=color)
figure.update_yaxes(range=[0, 105])
show(figure)

# %%
score()

# %% [markdown]
# ## What you learned
#
# - A **verifier** gives a reward without a target text. The model must be right now and then, or there is no signal.
# - **Advantages** compare a story with its group; a group that is all right or all wrong teaches nothing.
# - A diffusion model uses its predictions under **random maskings** in place of log p: the mean over the hidden tokens,
#   with a **clipped** ratio, because pushing down has no end.
# - Reward, variety and the likelihood of true stories are three questions: **a higher reward is not more knowledge**.
# - A **leash** trades the one for the other.
#
# ## Going further
#
# - Give a reward to *variety*: 1 only for a consistent story whose first name is rare in its group. What changes?
# - Replace the mean over the hidden tokens by the weight $L/l$. What happens to the gradient's norm?
# - Use an easier reward: 1 if the story contains *kite*. How fast is it learned, and what is lost?
# - Continue with the base model on true stories for the same time. Which of the two would you use, and for what?
#
# **Papers.** GRPO: [arXiv:2402.03300](https://arxiv.org/abs/2402.03300). diffu-GRPO:
# [arXiv:2504.12216](https://arxiv.org/abs/2504.12216), and a critique of its estimate:
# [arXiv:2510.08554](https://arxiv.org/abs/2510.08554). The clip: [arXiv:1707.06347](https://arxiv.org/abs/1707.06347).
# Expert iteration: [arXiv:1705.08439](https://arxiv.org/abs/1705.08439). The bound by counts:
# [arXiv:1310.1757](https://arxiv.org/abs/1310.1757). The verifier: `diffuapriel/tales/language.py`.
