# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11 · Recall
#
# A Mamba state has a fixed size. That is its strength: lesson 06 measured the speed, lesson 09 the cache. Here you
# measure the price. The task is the simplest one that needs an exact memory: pairs of a key and a value, and then
# questions. It shows in minutes why the hybrid has attention layers at all.
#
# **You will be able to**
#
# - build the standard test of recall, and say what it measures;
# - write an associative memory by hand, and say when it fails;
# - compare a state, attention and a hybrid on the same task, with intervals;
# - count how many numbers each of them keeps.
#
# **You need** lesson 02 for the state. Lesson 03 explains the hybrid.
#
# | part | minutes |
# |---|---|
# | 1. Pairs, then questions | 8 |
# | 2. A state as a memory, by hand | 14 |
# | 3. Attention as a memory, by hand | 10 |
# | 4. Trained readers | 14 |
# | 5. More pairs than it has seen | 8 |
# | 6. What each of them keeps | 6 |
#
# {{measured}}
#
# Now and then you are asked to **predict, then run**. Three **exercises** check your answer. Later cells run *your*
# functions; where one is not right yet, they run the package's and say so.

# %% [markdown]
# The next cell only prepares things. Run it.

# %%
import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from diffuapriel.charts.palette import COLORS, OTHERS
from diffuapriel.config import ModelConfig
from diffuapriel.evaluation.interval import mean_interval
from diffuapriel.lessons import QUICK, check, predict, prepare, score, show, use
from diffuapriel.model.attention import Attention
from diffuapriel.model.layers import rms_norm
from diffuapriel.model.mamba2 import BidirectionalMamba2

prepare()

# %% [markdown]
# ## 1. Pairs, then questions
#
# ![Pairs of key and value, then keys alone; attention looks back, a state holds all pairs](diagrams/recall.svg)
#
# The task is called *multi-query associative recall*. A row begins with pairs, all keys different. Then all the keys
# come again, in another order, and the value of each is asked for. Nothing can be learned by heart: the values are
# drawn anew in every row. To keep the task small, a key and its value stand at *one* position.

# %%
KEYS, VALUES = 64, 16  # a question has the value VALUES: "which one?"


def draw_rows(rows, pairs, generator):
    """Keys and values of each position, (rows, 2 pairs), and the answers, (rows, pairs)."""
    keys = torch.rand(rows, KEYS, generator=generator).argsort(1)[:, :pairs]
    values = torch.randint(VALUES, (rows, pairs), generator=generator)
    order = torch.rand(rows, pairs, generator=generator).argsort(1)
    asked, answers = keys.gather(1, order), values.gather(1, order)
    unknown = torch.full_like(values, VALUES)
    return torch.cat([keys, asked], 1), torch.cat([values, unknown], 1), answers


keys, values, answers = draw_rows(1, 4, torch.Generator().manual_seed(0))
for k, v in zip(keys[0].tolist(), values[0].tolist()):
    print(f"key {k:2}  value {v if v < VALUES else '?'}")
print("answers:", answers[0].tolist(), "  by luck: one in", VALUES)

# %% [markdown]
# ## 2. A state as a memory, by hand
#
# The state of lesson 02 is a matrix $H$ of $P \times N$ numbers. Each token adds an outer product: its value (the
# vector $x$) in the direction of its key (the vector $B$). Without decay, that is
#
# $$H = \sum_i x_i B_i^T \qquad y = H C$$
#
# and with $C$ equal to the key $B_j$, the output is $x_j$ plus a disturbance from each other pair.
#
# ### Exercise 1: write all pairs into a state
#
# *Must · easy · 4 minutes*
#
# You get the keys and the values of all pairs. Return the state $H$ after all of them have been written.
#
# <details><summary>Hint 1: the idea</summary>Start with zeros, and add one outer product for each pair.</details>
# <details><summary>Hint 2: the shape</summary>value (P,) times key (N,) is (P, N). The sum over all pairs is one
# matrix product.</details>
# <details><summary>Hint 3: the code</summary><code>values.T @ keys</code> does all pairs at once.</details>


# %% tags=["exercise"]
def remember(keys, values):
    """keys (pairs, N), values (pairs, P). Returns the state, (P, N)."""
    return None  # your line here


# %% tags=["solution"]
def remember(keys, values):
    """keys (pairs, N), values (pairs, P). Returns the state, (P, N)."""
    return values.T @ keys


# %%
check.remember(remember)

# %% [markdown]
# Keys are random directions of length 1, in $N$ dimensions. In a plane only two directions are at right angles; in $N$
# dimensions, $N$. Two random ones disturb each other by about $1/\sqrt{N}$.
#
# **Predict, then run.** A state with N = 16 gets 64 pairs. How many of the 64 values does it recall? (By luck: 6 %.)
#
# - **A** · 16 of 64, one per dimension: 25 %
# - **B** · about half
# - **C** · nearly all

# %%
guess_1 = predict("A", "B", "C", name="11.1")
guess_1

# %%
write = use(check.remember, remember)
ROWS = 4 if QUICK else 100


def random_keys(pairs, N, generator):
    """Directions of length 1, (pairs, N)."""
    return F.normalize(torch.randn(pairs, N, generator=generator), dim=1)


def recalled(pairs, N, seed):
    """The share of the pairs of one row that a state of VALUES x N numbers recalls."""
    generator = torch.Generator().manual_seed(seed)
    keys = random_keys(pairs, N, generator)
    right = torch.randint(VALUES, (pairs,), generator=generator)
    H = write(keys, F.one_hot(right, VALUES).float())
    return ((H @ keys.T).argmax(0) == right).float().mean().item()


# %%
counts = [2, 4, 8, 16, 32, 64]
shades = [style.color for style in OTHERS]
figure = go.Figure(layout={"xaxis_title": "pairs", "yaxis_title": "% recalled"})
by_hand = {}
for N, color in zip((4, 16, 64), shades):
    rates = [mean_interval([100 * recalled(p, N, seed) for seed in range(ROWS)]) for p in counts]
    by_hand[N] = [mean for mean, _ in rates]
    bars = {"array": [high - mean for mean, (_, high) in rates]}
    figure.add_scatter(
        x=counts,
        y=by_hand[N],
        error_y=bars,
        name=f"N = {N}",
        line_color=color,
        mode="lines+markers",
    )
figure.update_xaxes(type="log", tickvals=counts).update_yaxes(range=[0, 105])
show(figure)
rate = by_hand[16][-1]
print(f"N = 4, 16 pairs: {by_hand[4][counts.index(16)]:.0f} % recalled")
print(f"N = 16, 64 pairs: {rate:.0f} % recalled")
letter = min({"A": 25, "B": 50, "C": 95}.items(), key=lambda item: abs(item[1] - rate))[0]
guess_1.reveal(letter)

# %% [markdown]
# A state is no shelf with $N$ places. All pairs are spread over all of it, and with each new pair all answers get a
# little less clear. Four times the state carries about four times the pairs: compare the two lines.
#
# ## 3. Attention as a memory, by hand
#
# Attention keeps every pair by itself. A question is compared with all keys, and the softmax turns the similarities
# into weights:
#
# $$y = \sum_i w_i\, x_i \qquad w = \mathrm{softmax}(\beta\, C \cdot B_i)$$
#
# The number $\beta$ says how sharp the weights are: the larger it is, the more of the weight the most similar key gets.
#
# ### Exercise 2: look it up
#
# *Must · easy · 4 minutes*
#
# Write it for several questions at once: for each, the vector $y$.
#
# <details><summary>Hint 1: the idea</summary>Similarities first, then weights, then the weighted mean of the
# values.</details>
# <details><summary>Hint 2: the shape</summary>questions (q, N) and keys (pairs, N) give (q, pairs); weights times
# values (pairs, P) give (q, P).</details>
# <details><summary>Hint 3: the code</summary><code>(beta * questions @ keys.T).softmax(-1) @ values</code></details>


# %% tags=["exercise"]
def look_up(questions, keys, values, beta):
    """questions (q, N), keys (pairs, N), values (pairs, P). Returns (q, P)."""
    return None  # your line here


# %% tags=["solution"]
def look_up(questions, keys, values, beta):
    """questions (q, N), keys (pairs, N), values (pairs, P). Returns (q, P)."""
    return (beta * questions @ keys.T).softmax(-1) @ values


# %%
check.look_up(look_up)

# %%
attend = use(check.look_up, look_up)
generator = torch.Generator().manual_seed(1)
for N in (4, 16, 64):
    keys = random_keys(64, N, generator)
    right = torch.randint(VALUES, (64,), generator=generator)
    row = []
    for beta in (1, 10, 100):
        y = attend(keys, keys, F.one_hot(right, VALUES).float(), beta)
        row.append(f"beta {beta:3}: {100 * (y.argmax(1) == right).float().mean():3.0f} %")
    print(f"N = {N:2}, 64 pairs   " + "   ".join(row))

# %% [markdown]
# With sharp weights all 64 pairs come back, at any N: the key at hand is the most similar one, and the softmax silences
# the others. A state cannot do this, because it adds up all pairs *before* it knows the question.
#
# ## 4. Trained readers
#
# Now the package's own layers, trained on the task: one Mamba-2 layer with a small or with a large state, one
# attention layer, and a hybrid, which has one of each. They have to find keys, values and steps by themselves.


# %%
class Reader(nn.Module):
    """Embeddings of key and value, mixers with residuals, and a head over the values."""

    def __init__(self, kinds, d_state, d_model=64):
        super().__init__()
        torch.manual_seed(0)
        config = ModelConfig(
            "diffuapriel", d_model, len(kinds), d_state=d_state, headdim=32, expand=1
        )
        self.key, self.value = nn.Embedding(KEYS, d_model), nn.Embedding(VALUES + 1, d_model)
        makers = {"mamba": BidirectionalMamba2, "attention": Attention}
        self.mixers = nn.ModuleList(makers[kind](config) for kind in kinds)
        self.head = nn.Linear(d_model, VALUES)
        self.no_positions = torch.ones(1, 1, 32), torch.zeros(1, 1, 32)  # cosine and sine

    def forward(self, keys, values):
        """keys and values (rows, positions) to logits over the values, (rows, positions, VALUES)."""
        x = self.key(keys) + self.value(values)
        one = torch.ones(x.shape[-1])
        for mixer in self.mixers:
            u = rms_norm(x, one)
            attends = isinstance(mixer, Attention)
            x = x + (mixer(u, self.no_positions) if attends else mixer(u))
        return self.head(rms_norm(x, one))


# %%
def train(reader, pairs=16, steps=4 if QUICK else 300):
    """Train on rows with this many pairs."""
    optimizer = torch.optim.AdamW(reader.parameters(), weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-2, total_steps=steps, pct_start=0.1
    )
    generator = torch.Generator().manual_seed(0)
    for _ in (bar := tqdm(range(steps))):
        keys, values, answers = draw_rows(64, pairs, generator)
        logits = reader(keys, values)[:, pairs:]
        loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        rate.step()
        bar.set_postfix_str(f"{loss.item():.2f} nats per answer")
    return reader.eval()


# %% [markdown]
# Training takes a minute or less in all. Before it, write the measure.
#
# ### Exercise 3: one rate per row
#
# *Must · easy · 4 minutes*
#
# For an interval we need independent units. The 16 answers of a row are not independent: they come from one state, with
# the same keys. Rows are. So return **one rate per row**.
#
# <details><summary>Hint 1: the idea</summary>For each answer ask whether the most probable value is the right one.
# Then take the mean within the row only.</details>
# <details><summary>Hint 2: the shape</summary>logits (rows, asked, VALUES) to the best value (rows, asked), to right
# or wrong (rows, asked), to (rows,).</details>
# <details><summary>Hint 3: the code</summary><code>(logits.argmax(-1) == answers).float()</code>, then a mean over
# axis 1.</details>


# %% tags=["exercise"]
def row_rates(logits, answers):
    """logits (rows, asked, VALUES), answers (rows, asked). Returns the rate of each row, (rows,)."""
    return None  # your line here


# %% tags=["solution"]
def row_rates(logits, answers):
    """logits (rows, asked, VALUES), answers (rows, asked). Returns the rate of each row, (rows,)."""
    return (logits.argmax(-1) == answers).float().mean(1)


# %%
check.row_rates(row_rates)

# %% [markdown]
# **Predict, then run.** The hybrid has one Mamba layer with a small state, N = 4, and one attention layer. All are
# trained and tested with 16 pairs. Where does it land?
#
# - **A** · beside the Mamba layer with N = 4
# - **B** · between them and attention
# - **C** · beside attention

# %%
guess_2 = predict("A", "B", "C", name="11.2")
guess_2

# %%
rates_of = use(check.row_rates, row_rates)
READERS = {  # name: (layers, state size, color)
    "Mamba, N = 4": (("mamba",), 4, shades[0]),
    "Mamba, N = 64": (("mamba",), 64, COLORS["diffuapriel"]),
    "hybrid, N = 4": (("mamba", "attention"), 4, COLORS["diffuapriel-h"]),
    "attention": (("attention",), 4, COLORS["diffutran"]),
}
readers = {name: train(Reader(kinds, N)) for name, (kinds, N, _) in READERS.items()}


@torch.no_grad()
def test(reader, pairs):
    """% recalled, and its interval over the rows."""
    keys, values, answers = draw_rows(ROWS, pairs, torch.Generator().manual_seed(9))
    rates = rates_of(reader(keys, values)[:, pairs:], answers)
    return mean_interval((100 * rates).tolist())


at_16 = {name: test(reader, 16) for name, reader in readers.items()}
for name, (mean, (low, high)) in at_16.items():
    print(f"{name:14} {mean:5.1f} % recalled  [{low:.1f}, {high:.1f}]")
small, hybrid, top = (at_16[name][0] for name in ("Mamba, N = 4", "hybrid, N = 4", "attention"))
share = (hybrid - small) / (top - small) if top != small else 0.0
guess_2.reveal("A" if share < 0.2 else "B" if share < 0.9 else "C")

# %% [markdown]
# Two intervals that are far apart need no test: between the smallest state and attention lies more than chance. A
# larger state recalls more, as by hand. One attention layer closes the gap, although the state below it is the smallest
# of all.
#
# ## 5. More pairs than it has seen
#
# The readers were trained with 16 pairs. Now they get from 4 to 64.

# %%
figure = go.Figure(layout={"xaxis_title": "pairs", "yaxis_title": "% recalled"})
tested = [4, 16] if QUICK else [4, 8, 16, 32, 64]
for name, reader in readers.items():
    results = [test(reader, pairs) for pairs in tested]
    y, bars = [mean for mean, _ in results], {"array": [high - mean for mean, (_, high) in results]}
    color = READERS[name][2]
    figure.add_scatter(
        x=tested, y=y, error_y=bars, name=name, line_color=color, mode="lines+markers"
    )
    print(
        f"{name:14}", "  ".join(f"{pairs} pairs: {rate:3.0f} %" for pairs, rate in zip(tested, y))
    )
figure.add_hline(y=100 / VALUES, line_dash="dash", annotation_text="luck")
figure.update_xaxes(type="log", tickvals=tested).update_yaxes(range=[0, 105])
show(figure)

# %% [markdown]
# The curves of the states fall as those of section 2, without a step. Attention does not notice the number of pairs.
#
# ## 6. What each of them keeps
#
# | layer | numbers kept after n pairs | at 16 | at 4,096 |
# |---|---|---|---|
# | Mamba, N = 4 | 64 N (2 heads of 32 × N) | 256 | 256 |
# | Mamba, N = 64 | 64 N | 4,096 | 4,096 |
# | attention | 2 × 64 per position | 2,048 | 524,288 |
#
# So this is no miracle: attention recalls everything because it keeps everything. The hybrid pays that price in one
# layer of six, and gets exact look-up for it. Where a text has little to look up, as our tales do, the pure model needs
# no attention: lesson 04 measured both.

# %%
score()

# %% [markdown]
# ## What you learned
#
# - **Recall** is measured with pairs and questions; the values are new in each row.
# - A state holds all pairs **in superposition**: each new one blurs all others. More state, more pairs.
# - **Attention** compares before it adds, so it does not blur. It keeps every pair.
# - **One attention layer** among Mamba layers restores exact look-up: that is the hybrid.
# - Answers of one row depend on each other; the **rows** are the units of an interval.
#
# ## Going further
#
# - Let the state forget: put a decay of 0.95 per token into `remember`. Which pairs suffer?
# - Replace the sum by the *delta rule*: subtract what the state already answers for a key before you write. How many
#   pairs fit then?
# - Train the small state with 4 pairs, and test it with 16. Better or worse than the one trained with 16?
# - Put the hybrid's attention first. Does the order matter?
#
# **Papers.** The task: Zoology, [arXiv:2312.04927](https://arxiv.org/abs/2312.04927). State size against recall: Based,
# [arXiv:2402.18668](https://arxiv.org/abs/2402.18668). The scan: [arXiv:2405.21060](https://arxiv.org/abs/2405.21060).
# The delta rule: [arXiv:2406.06484](https://arxiv.org/abs/2406.06484). The hybrid: section 3 of
# [arXiv:2511.15927](https://arxiv.org/abs/2511.15927), and `diffuapriel/config.py`.
