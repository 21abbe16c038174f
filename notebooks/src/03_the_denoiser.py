# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · The DiffuApriel denoiser
#
# The network inside a masked diffusion model is called the *denoiser*. It gets a row of tokens, some of them masked,
# and predicts the masked ones. In lesson 02 you built the Mamba-2 scan, which reads from left to right. A masked token
# needs both sides. In this lesson you make the scan look both ways, tell the network how noisy its input is, and
# assemble the whole denoiser.
#
# **You will be able to**
#
# - show, with exact numbers, what a denoiser loses when it reads in one direction only;
# - write a bidirectional Mamba-2, first with flips, then packed without flips;
# - explain AdaLN: how the noise level can steer every block, how far a trained model lets it, and why a fresh block
#   does nothing;
# - count the parameters of a block, and assemble the three architectures from their parts.
#
# **You need** lesson 01 (masks, loss, noise level) and lesson 02 (the scan, with its step size dt, A, B, C and D).
#
# | part | minutes |
# |---|---|
# | 1. One direction is not enough | 14 |
# | 2. Forward plus reverse | 8 |
# | 3. Packed: nothing is flipped | 12 |
# | 4. The token that counts twice | 5 |
# | 5. AdaLN: telling the noise level | 14 |
# | 6. The hybrid, and what order attention knows | 7 |
# | 7. How many parameters? | 8 |
# | 8. Assemble it | 10 |
#
# {{measured}}
#
# Three times you **predict, then run**. Five **exercises** check your answer, and the lesson then runs *your* code;
# where you have none, ours takes its place.

# %% [markdown]
# The next cell only prepares things. `nn` holds PyTorch's layers, `F` its functions. Run it.

# %%
import dataclasses
import random
import statistics
import time

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from diffuapriel.lessons import QUICK, check, predict, prepare, score, show, use
from diffuapriel.lessons.figure import side_by_side

prepare()

# %% [markdown]
# ## 1. One direction is not enough
#
# We need a language that is small enough to count everything. Each sentence has five words: a name, a verb, *her* or
# *his*, a color and a thing. The name decides between *her* and *his*. The thing decides the verb: kites are flown,
# apples are eaten.

# %%
GIRLS, BOYS = ["Mia", "Ana", "Eva", "Ida"], ["Tom", "Ben", "Max", "Leo"]
VERB = {"apple": "ate", "pear": "ate", "kite": "flew", "drone": "flew"}
VERB |= {"book": "read", "letter": "read", "bike": "rode", "pony": "rode"}
PARTS = ["name", "verb", "her/his", "color", "thing"]

SENTENCES = [
    (name, VERB[thing], "her" if name in GIRLS else "his", color, thing)
    for name in GIRLS + BOYS
    for thing in VERB
    for color in ("red", "blue", "green", "old")
]
WORDS = sorted({word for sentence in SENTENCES for word in sentence})
MASK = len(WORDS)  # the id after the last word
ALL = torch.tensor([[WORDS.index(word) for word in sentence] for sentence in SENTENCES])
print(*random.Random(0).sample(SENTENCES, 3), sep="\n")
print(f"{len(ALL)} sentences of {len(PARTS)} words, {len(WORDS)} different words")

# %% [markdown]
# So the beginning of a sentence depends on what comes after it. In `[MASK] flew her red kite` the hidden name must be a
# girl's, and only the word *her*, two positions to the right, says so.
#
# Now a **Mamba-2 layer**. You built its core, the scan, in lesson 02; the package calls it `ssd`. Around the scan there
# are four parts:
#
# - one matrix, `in_proj`, computes everything from the input `u`: a gate `z`, the three inputs `x`, `B`, `C`, and `dt`;
# - a *short convolution* mixes each channel of `x`, `B`, `C` with its own values at the three previous tokens;
# - the scan; its output is multiplied by the gate, `silu(z)`, where silu(z) = z · sigmoid(z); then a norm (`rms_norm`:
#   divide by the root mean square);
# - one matrix, `out_proj`, brings the result back to the width of `u`.
#
# First the convolution. Each channel has K weights, called *taps*. Tap *j* looks K − 1 − *j* positions **back**.

# %%
from diffuapriel.model.layers import rms_norm
from diffuapriel.ops.ssd import ssd


def look_back(x, weight, bias):
    """Short convolution. x (batch, length, channels), weight (K, channels), bias (channels,)."""
    length, K = x.shape[1], len(weight)
    padded = F.pad(x, (0, 0, K - 1, 0))  # K - 1 rows of zeros in front
    return bias + sum(weight[j] * padded[:, j : j + length] for j in range(K))


# %% [markdown]
# Now the layer. The letters are those of lesson 02: the `d_inner` channels of x are split into heads, and `d_state` is
# the size of B and C. The initial values of `dt` and `A` are spread over the heads, so that some forget fast and some
# slowly.


# %%
class Mamba2(nn.Module):
    """Reads from left to right. Input and output: (batch, length, d_model)."""

    convolve, reverse = staticmethod(look_back), False  # section 3 exchanges both

    def __init__(self, config):
        super().__init__()
        self.config = c = config
        self.sizes = [c.d_inner, c.d_inner + 2 * c.d_state, c.n_heads]  # of z, of x B C, of dt
        self.in_proj = nn.Linear(c.d_model, sum(self.sizes), bias=False)
        self.conv_weight = nn.Parameter(torch.rand(c.d_conv, self.sizes[1]) - 0.5)
        self.conv_bias = nn.Parameter(torch.zeros(self.sizes[1]))
        dt = torch.logspace(-3, -1, c.n_heads)  # from 0.001 to 0.1
        self.dt_bias = nn.Parameter(torch.log(torch.expm1(dt)))  # softplus(dt_bias) = dt
        self.A_log = nn.Parameter(torch.linspace(1, 16, c.n_heads).log())
        self.D = nn.Parameter(torch.ones(c.n_heads))
        self.norm_weight = nn.Parameter(torch.ones(c.d_inner))
        self.out_proj = nn.Linear(c.d_inner, c.d_model, bias=False)

    def forward(self, u, document_ids=None):  # document_ids: for packed rows; we have none
        c = self.config
        z, xBC, dt = self.in_proj(u).split(self.sizes, dim=-1)
        xBC = F.silu(self.convolve(xBC, self.conv_weight, self.conv_bias))
        x, B, C = xBC.split([c.d_inner, c.d_state, c.d_state], dim=-1)
        x = x.unflatten(-1, (c.n_heads, c.headdim))  # (batch, length, heads, headdim)
        dt, A = F.softplus(dt + self.dt_bias), -self.A_log.exp()
        B, C = B[:, :, None], C[:, :, None]  # one group: all heads share B and C
        y = ssd(x, dt, A, B, C, self.D, reverse=self.reverse)
        return self.out_proj(rms_norm(y.flatten(2) * F.silu(z), self.norm_weight))


# %% [markdown]
# Now we make two denoisers that differ only in this layer. `Denoiser` is the package's; its blocks contain a
# bidirectional Mamba-2, the subject of sections 2 and 3. For comparison we take the same `Denoiser` and put our
# one-directional layer into each block, twice as wide inside (`expand=2` instead of `expand=1`), so that both models
# have about the same number of parameters.

# %%
from diffuapriel import Denoiser, ModelConfig

toy = ModelConfig(
    "diffuapriel", d_model=64, depth=2, expand=1, d_state=16, headdim=32, cond_dim=32,
    vocab_size=MASK + 1, tokenizer="gpt2-4k",  # a name has to stand here; our words need none
)  # fmt: skip

torch.manual_seed(0)
both = Denoiser(toy)
one = Denoiser(toy)
for block in one.blocks:
    block.mixer = Mamba2(dataclasses.replace(toy, expand=2))

for name, model in (("one direction", one), ("both directions", both)):
    print(f"{name:16} {sum(p.numel() for p in model.parameters()):,} parameters")

# %% [markdown]
# **Predict, then run.** Both are trained the same way, until they no longer improve. Then the one-directional
# model gets `[MASK] flew her red kite`. What does it answer?
#
# - **A** · a girl's name: it has learned that *her* belongs to girls
# - **B** · any of the eight names, all about equally likely
# - **C** · a word that is not a name: it cannot know what belongs at the beginning

# %%
guess_1 = predict("A", "B", "C", name="03.1")
guess_1

# %% [markdown]
# The training is that of lesson 01: corrupt, predict, weight by 1/*t*. `nelbo` is the package's name for this loss. The
# sentences are few and short, so a few hundred steps are enough.

# %%
from diffuapriel import get_schedule
from diffuapriel.diffusion.objective import nelbo

STEPS, schedule = (8 if QUICK else 350), get_schedule("log-linear")


def train(model, name):
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    lr_schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=5e-3, total_steps=STEPS, pct_start=0.1, cycle_momentum=False
    )
    for _ in tqdm(range(STEPS), desc=name):
        ids = ALL[torch.randint(len(ALL), (128,), generator=generator)]
        loss = nelbo(model, ids, schedule, MASK, generator=generator).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        lr_schedule.step()


threads = torch.get_num_threads()
torch.set_num_threads(1)  # these products are tiny: a second thread would only slow them down
train(one, "one direction")
train(both, "both directions")
torch.set_num_threads(threads)

# %%
sentence = torch.tensor([[MASK] + [WORDS.index(w) for w in ("flew", "her", "red", "kite")]])
sigma = schedule.sigma(torch.tensor([1 / 5]))  # the noise level of one hidden word in five

figure = go.Figure(layout={"xaxis_title": "the hidden name", "yaxis_title": "probability"})
answers = {}
for label, model in (("one direction", one), ("both directions", both)):
    with torch.no_grad():
        p = model(sentence, sigma)[0, 0, :MASK].softmax(-1)
    answers[label] = [p[WORDS.index(name)].item() for name in GIRLS + BOYS]
    figure.add_bar(x=GIRLS + BOYS, y=answers[label], name=label)
show(figure)
for label, p in answers.items():
    print(f"{label:16} girls {sum(p[:4]):.2f}   boys {sum(p[4:]):.2f}")
guess_1.reveal()

# %% [markdown]
# It has learned as much of the language as it can see. It knows that a name comes first, because it can count positions
# from the left. But *her* comes later, and no information flows to the left.
#
# How much is lost at each position? Here we can **count** the best possible answer. Of all sentences, keep those that
# agree with every visible word; among them, count how many have the right word at the masked position. The cost is
# log(kept) − log(kept with the right word). For one direction, only the words before the mask count as visible.


# %%
def least_cost(ids, hidden, one_way):
    """The smallest possible cost at each position, in nats; all tensors (rows, positions)."""
    agrees = ids[:, None] == ALL  # (rows, sentences, positions)
    cost = torch.zeros(ids.shape)
    for position in range(ids.shape[1]):
        seen = ~hidden
        seen[:, position] = False  # the word that is asked for
        if one_way:
            seen[:, position:] = False
        kept = (agrees | ~seen[:, None]).all(2)  # (rows, sentences)
        right = kept & agrees[:, :, position]
        cost[:, position] = kept.sum(1).log() - right.sum(1).log()
    return cost


@torch.no_grad()
def cost_of(model, ids, hidden, t):
    """The cost of a model's answer at each position, in nats."""
    sigma = schedule.sigma(torch.full((len(ids),), t))
    logits = model(ids.masked_fill(hidden, MASK), sigma)[..., :MASK]
    return F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")


# %%
rows = ALL.repeat(2 if QUICK else 20, 1)
hidden = torch.rand(rows.shape, generator=torch.Generator().manual_seed(5)) < 0.5


def at_masks(cost):
    """The mean cost at each position, over the rows in which it is hidden."""
    return ((cost * hidden).sum(0) / hidden.sum(0)).tolist()


figure = go.Figure(layout={"xaxis_title": "position", "yaxis_title": "nats at a mask, t = 0.5"})
print(f"{'':24}", *(f"{part:>8}" for part in PARTS))
for label, model, color in (
    ("one direction", one, "#d9730d"),
    ("both directions", both, "#1590b4"),
):
    reached = at_masks(cost_of(model, rows, hidden, 0.5))
    best = at_masks(least_cost(rows, hidden, one_way=model is one))
    figure.add_bar(x=PARTS, y=best, name=f"{label}, at best", marker_color=color, opacity=0.4)
    figure.add_scatter(x=PARTS, y=reached, name=label, mode="markers")
    figure.data[-1].marker = {"color": color, "size": 11}
    for what, values in (("reached", reached), ("at best", best)):
        print(f"{label:16}{what:8}", *(f"{value:8.3f}" for value in values))
show(figure)

# %% [markdown]
# The dots are what the models reached, the bars the best possible. Compare the printed lines: if *reached* and *at
# best* agree, a model is as good as it can be, and more training does not help it. The one-directional model pays at
# the beginning, for the name and the verb, because the words that determine them come later. At the end, both pay the
# same.
#
# We can also see the wiring itself. `gradient_influence` measures how much a small change at each input position moves
# the answer at a chosen position. Row by row: which positions does each answer depend on?

# %%
from diffuapriel.interpret.influence import gradient_influence

sentence = torch.tensor([WORDS.index(w) for w in ("Mia", "flew", "her", "red", "kite")])
tables = {}
for label, model in (("one direction", one), ("both directions", both)):
    table = torch.stack(
        [gradient_influence(model, sentence, position, sigma.item()).share for position in range(5)]
    )
    tables[label] = table.tolist()
    from_right = table.triu(1).sum() / table.sum()
    print(f"{label}: {from_right:.0%} of the influence comes from the right")
    assert (from_right == 0) == (model is one)
figure = side_by_side(tables, PARTS, PARTS, zmin=0, zmax=1, colorscale="Blues")
figure.update_layout(xaxis_title="input position", yaxis_title="answer", height=340)
show(figure, alt="the share of each input position in each answer, one direction and both")

# %% [markdown]
# ## 2. Forward plus reverse
#
# ![A scan in each direction over one row, and the packed form](diagrams/two_scans.svg)
#
# The solution is simple. Take **two** Mamba-2 layers, each with its own parameters. One reads the row as it is. The
# other reads the reversed row, and its output is reversed back, so that position *i* is position *i* again. Add the
# two.
#
# ### Exercise 1: both ways
#
# *Must · easy · 4 minutes*
#
# Write it, for any two layers that map (batch, length, d_model) to the same shape.
#
# <details><summary>Hint 1: the idea</summary>Reverse, apply, reverse back: only for the second layer.</details>
# <details><summary>Hint 2: the shape</summary><code>u.flip(1)</code> reverses the axis of the length; axis 0 counts
# the texts, axis 2 the channels.</details>
# <details><summary>Hint 3: the code</summary><code>ahead(u)</code> plus <code>back(u.flip(1))</code>, flipped once
# more.</details>


# %% tags=["exercise"]
def both_ways(u, ahead, back):
    """u (batch, length, d_model), ahead and back: layers. Returns (batch, length, d_model)."""
    return None  # your line here


# %% tags=["solution"]
def both_ways(u, ahead, back):
    """u (batch, length, d_model), ahead and back: layers. Returns (batch, length, d_model)."""
    return ahead(u) + back(u.flip(1)).flip(1)  # dim 1 is the length


# %%
check.both_ways(both_ways)

# %%
add_both = use(check.both_ways, both_ways)


class BothWays(nn.Module):
    """Two independent Mamba-2 layers, forward and reverse; their outputs are added."""

    def __init__(self, config):
        super().__init__()
        self.ahead = Mamba2(config)
        self.back = Mamba2(config)

    def forward(self, u):
        return add_both(u, self.ahead, self.back)


# %% [markdown]
# Does each position now see all others? We change the vector of one word in the middle of a row and look where the
# output changes.

# %%
nano = ModelConfig("diffuapriel", d_model=128, depth=4, d_state=64, headdim=32)
torch.manual_seed(1)
by_hand = BothWays(nano)
u = torch.randn(1, 12, nano.d_model)
pushed = u.clone()
pushed[0, 5] += 1.0
with torch.no_grad():
    for label, layer in (("ahead", by_hand.ahead), ("both ways", by_hand)):
        moved = (layer(pushed) - layer(u)).abs().amax(-1)[0] > 1e-6
        print(f"{label:10}", "".join("x" if m else "." for m in moved), " (x: the output changed)")
assert moved.all()

# %% [markdown]
# The reverse layer must not share the forward layer's parameters. What predicts a name from the right differs from what
# predicts a thing from the left. In Mamba-2 this matters more than in other networks: B, C and dt all come from
# `in_proj`, so tying `in_proj` would make both directions write, read and forget in the same way.

# %% [markdown]
# ## 3. Packed: nothing is flipped
#
# The version by hand does everything twice: two `in_proj`, two convolutions, two scans, two `out_proj`, and two flips
# that only move data around. But look at the layer: **only two of its steps have a direction**, the convolution and the
# scan. All the others treat each token separately.
#
# - One wide `in_proj` serves both directions: it stacks the rows of the two matrices.
# - The scan can start at the end. `ssd(..., reverse=True)` needs no flip: it sums from the other side.
# - The convolution of the reverse half must look **ahead**. You write that one.
#
# ### Exercise 2: look ahead
#
# *Must · medium · 6 minutes*
#
# Write the convolution of the reverse direction. It must give the same as flipping the row, applying `look_back`, and
# flipping back. Tap *j* of K looks K − 1 − *j* positions **ahead**; beyond the end there are zeros. Try it without
# `flip`.
#
# <details><summary>Hint 1: the idea</summary>Where must the K − 1 rows of zeros go now? And which tap looks at the
# token itself?</details>
# <details><summary>Hint 2: the shape</summary><code>F.pad(x, (0, 0, before, after))</code> adds rows of zeros. With
# zeros after the end, <code>padded[:, s : s + length]</code> holds, for all tokens at once, the token <code>s</code>
# positions ahead.</details>
# <details><summary>Hint 3: the code</summary>As in <code>look_back</code>: the bias plus a sum over j of
# <code>weight[j]</code> times the slice that begins at s = K − 1 − j.</details>


# %% tags=["exercise"]
def look_ahead(x, weight, bias):
    """Short convolution that looks ahead. x (batch, length, channels), weight (K, channels)."""
    return None  # your lines here


# %% tags=["solution"]
def look_ahead(x, weight, bias):
    """Short convolution that looks ahead. x (batch, length, channels), weight (K, channels)."""
    length, K = x.shape[1], len(weight)
    padded = F.pad(x, (0, 0, 0, K - 1))  # zeros after the end
    return bias + sum(weight[j] * padded[:, K - 1 - j :][:, :length] for j in range(K))


# %%
check.look_ahead(look_ahead)

# %% [markdown]
# With that convolution and a scan that starts at the end, the second layer reads backwards without any flip:

# %%
convolve_ahead = use(check.look_ahead, look_ahead)


class Backwards(Mamba2):
    """Reads from right to left; nothing is flipped."""

    convolve, reverse = staticmethod(convolve_ahead), True


unflipped = Backwards(nano)
unflipped.load_state_dict(by_hand.back.state_dict())
with torch.no_grad():
    u = torch.randn(2, 31, nano.d_model)
    torch.testing.assert_close(unflipped(u), by_hand.back(u.flip(1)).flip(1), rtol=1e-4, atol=1e-5)
print("the same as flip, layer, flip")

# %% [markdown]
# The package's `BidirectionalMamba2` is the packed form. We give it the weights of the version by hand: most are
# stacked along an axis of two directions. `out_proj` is the elegant one. It takes `[y_ahead, y_back]` as one long
# vector, and a matrix times this vector is the sum of two products. **So the addition happens inside the product, at no
# cost.**

# %%
from diffuapriel.model.mamba2 import BidirectionalMamba2

packed = BidirectionalMamba2(nano)
with torch.no_grad():
    for name in ("conv_weight", "conv_bias", "dt_bias", "A_log", "D", "norm_weight"):
        pair = [getattr(by_hand.ahead, name), getattr(by_hand.back, name)]
        getattr(packed, name).copy_(torch.stack(pair))
    wide = [by_hand.ahead.in_proj.weight, by_hand.back.in_proj.weight]
    packed.in_proj.weight.copy_(torch.cat(wide, dim=0))  # rows below rows
    long = [by_hand.ahead.out_proj.weight, by_hand.back.out_proj.weight]
    packed.out_proj.weight.copy_(torch.cat(long, dim=1))  # columns beside columns

    for length in (1, 2, 31, 100):  # also short rows and odd lengths
        u = torch.randn(3, length, nano.d_model)
        torch.testing.assert_close(packed(u), by_hand(u), rtol=1e-4, atol=1e-5)
print("packed and by hand agree")

# %% [markdown]
# What does packing save? The arithmetic is exactly the same, so on a CPU expect little: the cost of the flips and the
# extra calls. On a GPU it saves more: it launches half as many *kernels* (programs that run on the GPU), and both
# directions use the GPU at the same time. We time the two in alternation and take medians; lesson 06 explains why.

# %%
milliseconds = {"by hand": [], "packed": []}
u = torch.randn(4, 64 if QUICK else 512, nano.d_model)
with torch.inference_mode():
    for _ in tqdm(range(3 if QUICK else 25)):
        for name, layer in (("by hand", by_hand), ("packed", packed)):
            began = time.perf_counter()
            layer(u)
            milliseconds[name].append(1000 * (time.perf_counter() - began))
for name, times in milliseconds.items():
    print(f"{name:8} {statistics.median(times[1:]):6.1f} ms  (without the first run, a warm-up)")

# %% [markdown]
# ## 4. The token that counts twice
#
# A scan is a matrix, as lesson 02 showed: y = M x. Entry (t, u) of M says how much token *u* contributes to the output
# at position *t*. In the forward scan everything above the diagonal is zero; in the reverse scan, everything below. To
# see the two matrices, we feed the scan one unit vector after another, for one head of one channel, with the same B, C
# and dt in both directions and D = 0.
#
# **Predict, then run.** Now add the two matrices. What is on the diagonal of the sum? In other words, how much does a
# token contribute to its own output?
#
# - **A** · nothing: each direction sees only the others
# - **B** · the same as in one scan
# - **C** · twice as much as in one scan

# %%
guess_2 = predict("A", "B", "C", name="03.2")
guess_2

# %%
L = 10
generator = torch.Generator().manual_seed(0)
x = torch.eye(L)[:, :, None, None]  # L rows; row u is 1 at position u: (L, L, 1 head, 1 channel)
dt = (0.3 + 0.4 * torch.rand(1, L, 1, generator=generator)).expand(L, L, 1)
B = torch.rand(1, L, 1, 4, generator=generator).expand(L, L, 1, 4)
C = torch.rand(1, L, 1, 4, generator=generator).expand(L, L, 1, 4)
A = torch.tensor([-1.0])

matrices = {
    name: ssd(x, dt, A, B, C, reverse=reverse)[:, :, 0, 0].T  # (t, u)
    for name, reverse in (("forward", False), ("reverse", True))
}
matrices["sum"] = matrices["forward"] + matrices["reverse"]

# %%
top = matrices["sum"].max().item()
tables = {name: M.tolist() for name, M in matrices.items()}
figure = side_by_side(tables, range(L), range(L), zmin=0, zmax=top, colorscale="Blues")
figure.update_layout(xaxis_title="u, input", yaxis_title="t, output", height=340)
show(figure, alt="the matrices of the forward scan, of the reverse scan, and their sum")

once = dt[0, :, 0] * (C[0, :, 0] * B[0, :, 0]).sum(-1)  # dt_t (C_t . B_t)
torch.testing.assert_close(matrices["forward"].diag(), once)
torch.testing.assert_close(matrices["sum"].diag(), 2 * once)
guess_2.reveal()

# %% [markdown]
# **The sum counts the current token twice**: dt (C · B) from each scan, and D x from each as well. It does no harm,
# because both sets of weights and both D are trained with it. But you need to know it: a kernel for both directions
# must count the same way, and a comparison with a model that shifts one scan by one position (as Hydra does) must take
# it into account.
#
# From here on we use the package's packed layer.

# %% [markdown]
# ## 5. AdaLN: telling the noise level
#
# ![The noise level sets shift, scale and gate around the mixer](diagrams/adaln.svg)
#
# With 90 % hidden, a good denoiser can only answer with rough frequencies. With 10 % hidden, it can use the details. So
# the network is told the noise level, **sigma** = −log alpha(t): 0 for a clean text, larger when more is hidden. How
# can one number steer a network? In three steps, called **adaptive layer norm**, or AdaLN.
#
# 1. sigma becomes 256 *features*: its cosines and sines at 128 frequencies from fast to slow, so that small and large
#    differences can be seen. (Can they? The cell below counts how many features move at all.)
# 2. Two linear layers turn the features into an embedding, *c*.
# 3. In every block a linear layer turns *c* into six vectors: **shift**, **scale** and **gate** for the mixer (the part
#    that mixes tokens, here Mamba), and the same three for the MLP (the two linear layers after it).


# %%
def my_features(sigma):
    """sigma (batch,) to (batch, 256)."""
    frequency = 10_000.0 ** -(torch.arange(128) / 128)
    angle = sigma[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def my_embedding(sigma, up, out):
    """sigma (batch,) to c (batch, cond_dim); up and out are linear layers, silu(x) = x sigmoid(x)."""
    return F.silu(out(F.silu(up(my_features(sigma)))))


from diffuapriel.model.layers import TimeEmbedding

embedding = TimeEmbedding(cond_dim=32)  # the package's
sigma = schedule.sigma(torch.tensor([0.0, 0.1, 0.5, 0.9]))
mine = my_embedding(sigma, embedding.up, embedding.out)
torch.testing.assert_close(mine, embedding(sigma))
turns = 6.9 * 10_000.0 ** -(torch.arange(128) / 128) / (2 * torch.pi)  # sigma goes from 0 to 6.9
print(
    f"of 128 frequencies {int((turns >= 1).sum())} turn at least once over all noise levels,",
    end=" ",
)
print(f"and {int((turns < 0.1 / (2 * torch.pi)).sum())} move by less than a tenth of a radian")
print("sigma    ", *(f"{abs(s):.3f}" for s in sigma))
print("c, first ", *(f"{value:.3f}" for value in mine[:, 0]))

# %% [markdown]
# ### Exercise 3: modulate and gate
#
# *Must · medium · 6 minutes*
#
# The values that pass from block to block are called the *residual stream*. Half a block does this to the stream `x`:
# norm, **times (1 + scale), plus shift**; then the branch (the mixer or the MLP); then **times gate**; the result is
# added to `x`. Write it. `rms_norm(x)` is the norm. Watch the shapes: each text of the batch has its own three vectors,
# the same for all its tokens.
#
# <details><summary>Hint 1: the idea</summary>First the norm, scaled and shifted; then the branch; then the gate. At
# the end add x itself, not its norm.</details>
# <details><summary>Hint 2: the shape</summary>A tensor of shape (batch, d_model) must combine with one of shape
# (batch, length, d_model): <code>scale[:, None]</code> has the shape (batch, 1, d_model).</details>
# <details><summary>Hint 3: the code</summary><code>v = rms_norm(x) * (1 + scale[:, None]) + shift[:, None]</code>.
# Then add <code>gate[:, None] * branch(v)</code> to x.</details>


# %% tags=["exercise"]
def half_block(x, branch, shift, scale, gate):
    """x (batch, length, d_model), branch: a function of such a tensor; others (batch, d_model)."""
    return None  # your lines here


# %% tags=["solution"]
def half_block(x, branch, shift, scale, gate):
    """x (batch, length, d_model), branch: a function of such a tensor; others (batch, d_model)."""
    v = rms_norm(x) * (1 + scale[:, None]) + shift[:, None]
    return x + gate[:, None] * branch(v)


# %%
check.half_block(half_block)

# %%
half = use(check.half_block, half_block)

# %% [markdown]
# The linear layer that makes the six vectors starts at **zero**, weight and bias. So shift, scale and gate are all
# zero at the start of training.
#
# **Predict, then run.** Take a freshly initialized `Denoiser` and hide one word. On which positions of the row does its
# answer depend?
#
# - **A** · on all of them: the Mamba layers have random weights, and random weights mix
# - **B** · only on the hidden position itself
# - **C** · on none at all

# %%
guess_3 = predict("A", "B", "C", name="03.3")
guess_3

# %% [markdown]
# `open_gates` sets all gates of an untrained model to one. It shows what the gates were holding back.

# %%
from diffuapriel.interpret.adaln import open_gates

torch.manual_seed(2)
fresh = Denoiser(toy)
x = torch.randn(2, 5, toy.d_model)
zeros = [torch.zeros(2, 1, toy.d_model)] * 6  # the output of a fresh modulation
assert torch.equal(fresh.blocks[0](x, zeros), x)  # a fresh block is the identity

position, share = 2, {}
share["as initialized"] = gradient_influence(fresh, sentence, position, 0.2).share
share["gates opened"] = gradient_influence(open_gates(fresh), sentence, position, 0.2).share
print(f"{'input position':16}", *(f"{part:>8}" for part in PARTS))
for label, values in share.items():
    print(f"{label:16}", *(f"{value:8.3f}" for value in values))
assert share["as initialized"].nonzero().flatten().tolist() == [position]
assert (share["gates opened"] > 0).all()
guess_3.reveal()

# %% [markdown]
# **A fresh block is the identity.** However deep the network is, training starts with one that only passes its input
# on, and opens each block as far as that is useful. This makes deep networks easy to start.
#
# How does a trained model use this? The package comes with one, trained on stories. `modulation_over_time` runs the
# model and measures the size (root mean square) of each shift, scale and gate. We draw the gates of the mixers over
# time, and print by what factor each kind changes: 1 means that it does not depend on the noise level.

# %%
from diffuapriel import load_checkpoint
from diffuapriel.interpret.adaln import modulation_over_time

trained, tokenizer = load_checkpoint("tales-diffuapriel")
times = torch.linspace(0, 1, 5 if QUICK else 41)
sizes = modulation_over_time(trained, times, schedule)  # (layers, mixer or MLP, kind, times)

figure = go.Figure(layout={"xaxis_title": "t", "yaxis_title": "size of the mixer's gate"})
depth = trained.config.depth
for layer in (0, depth // 2, depth - 1):
    figure.add_scatter(x=times.tolist(), y=sizes[layer, 0, 2].tolist(), name=f"block {layer}")
show(figure)
change = sizes.amax(-1) / sizes.amin(-1).clamp(min=1e-9)  # over t: largest / smallest
for number, kind in enumerate(("shift", "scale", "gate")):
    print(f"{kind:6} changes over t by a factor of {change[:, :, number].median():.2f} (median)")

# %% [markdown]
# Is the noise level of any use? We hide a known share of new stories and **tell the model a different share**. If it
# listens, it should be cheapest near the truth. We score the tokens of the stories only: the padding after them costs
# nothing at any level, and would make the effect look smaller than it is.

# %%
from diffuapriel.evaluation.interval import mean_interval
from diffuapriel.lessons.figure import error_bars
from diffuapriel.tales import language as tales

rng, texts = random.Random(3), []
while len(texts) < (4 if QUICK else 16):
    ids = tokenizer.encode(tales.generate(3, rng))[:128]
    texts.append(ids + [tokenizer.eos_id] * (128 - len(ids)))
texts = torch.tensor(texts)


@torch.no_grad()
def cost_when_told(t, hide):
    """Mean cost of the hidden story tokens of each text, (texts,), if the model is told t."""
    sigma = schedule.sigma(torch.full((len(texts),), t))
    logits = trained(texts.masked_fill(hide, tokenizer.mask_id), sigma, hide)
    cost = torch.zeros(texts.shape)
    cost[hide] = F.cross_entropy(logits[:, : tokenizer.mask_id], texts[hide], reduction="none")
    return cost.sum(1) / hide.sum(1)


# %%
told = [0.1, 0.9] if QUICK else [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99]
figure = go.Figure(layout={"xaxis_title": "told t", "yaxis_title": "nats per mask above the truth"})
largest = 0.0
for truth in tqdm([0.2, 0.8]):
    hide = torch.rand(texts.shape, generator=torch.Generator().manual_seed(7)) < truth
    hide &= texts != tokenizer.eos_id
    right = cost_when_told(truth, hide)
    found = [mean_interval((cost_when_told(t, hide) - right).tolist()) for t in told]
    means, intervals = [mean for mean, _ in found], [interval for _, interval in found]
    worst = max(range(len(told)), key=means.__getitem__)
    low, high = intervals[worst]
    largest = max(largest, means[worst])
    print(f"{truth:.0%} hidden: told the truth it pays {right.mean():.3f} nats per mask;", end=" ")
    print(f"told t = {told[worst]}, {means[worst]:+.3f}, from {low:+.3f} to {high:+.3f}")
    bars = error_bars(means, intervals)
    figure.add_scatter(
        x=told, y=means, error_y=bars, mode="lines+markers", name=f"{truth:.0%} hidden"
    )
show(figure)
listens = "hardly listens" if largest < 0.05 else "listens"
print(f"The worst lie costs {largest:.3f} nats per mask: this model {listens} to the noise level.")

# %% [markdown]
# **The masks themselves tell the time**: the model can count them, so it can do without being told. And most features
# hardly move, as the count above showed: with sigma between 0 and 7, the frequencies were made for numbers a hundred
# times larger. (`time_conditioning=False` switches the noise level off, and diffusion models for text are often trained
# so.) The part of AdaLN that surely matters here is the gate that starts at zero.

# %% [markdown]
# ## 6. The hybrid, and what order attention knows
#
# ![Three stacks: Mamba only, one attention block in six, attention only](diagrams/hybrid.svg)
#
# A Mamba state has a fixed size, so there must be a length from which on it cannot hold every word of a text. (Lesson
# 11 measures how many it holds.) **Attention** keeps every word and can look each one up, at a cost that grows with the
# square of the length. The hybrid, DiffuApriel-H, uses a little attention: one block in six has it, the last of the
# six. If the depth is not a multiple of six, the number of attention blocks is rounded down, and they are spaced about
# evenly. `layer_kinds` says which blocks they are.

# %%
from diffuapriel import preset

for depth in (6, 9, 12, 16, 20, 24):
    config = ModelConfig("diffuapriel-h", d_model=128, depth=depth)
    row = "".join("A" if kind == "attention" else "m" for kind in config.layer_kinds)
    print(f"{depth:3} blocks  {row:26} {row.count('A')} with attention")

# %% [markdown]
# They are **spread over the depth**, never all at the beginning. The idea is that a look-up is useful when there is
# something worth looking up: the first blocks see single words, and the later ones see what the earlier ones made of
# them.
#
# **Attention has no order.** It weights tokens by what they are, not by where they are. So the order is put into the
# queries and keys: RoPE, *rotary position embedding*, rotates pairs of their numbers by an angle that grows with the
# position. The angle between a query at position *i* and a key at position *j* then depends only on *i* − *j*. Mamba
# needs none of this: a scan has an order.
#
# We keep the first token of a row, shuffle the others, and look at the first output.

# %%
from diffuapriel.model.attention import Attention, rotary_angles

torch.manual_seed(4)
config = preset("nano", "diffutran")
attention, mamba = Attention(config), BidirectionalMamba2(preset("nano", "diffuapriel"))
shuffle = torch.tensor([0, 5, 2, 7, 3, 1, 6, 4])  # position 0 stays
cos, sin = rotary_angles(8, config.attention_headdim, torch.device("cpu"))
unrotated = (torch.ones_like(cos), torch.zeros_like(sin))  # every angle zero: no RoPE

with torch.no_grad():
    u = torch.randn(1, 8, config.d_model)
    moved = {
        "attention, no RoPE": attention(u, unrotated) - attention(u[:, shuffle], unrotated),
        "attention with RoPE": attention(u, (cos, sin)) - attention(u[:, shuffle], (cos, sin)),
    }
    u = torch.randn(1, 8, 128)
    moved["bidirectional Mamba"] = mamba(u) - mamba(u[:, shuffle])
for name, difference in moved.items():
    print(f"{name:20} the first output moves by {difference[0, 0].abs().max():.6f}")
assert moved["attention, no RoPE"][0, 0].abs().max() < 1e-5

# %% [markdown]
# ## 7. How many parameters?
#
# A fair comparison gives each architecture the same number of parameters, not the same number of layers. So we must
# count. Let *d* be the model's width, `d_model`.
#
# **A Transformer block** has 4 matrices of d × d: for queries, keys, values and the output. Its MLP is 4 times as wide
# inside: d × 4d and 4d × d. Together 4 d² + 8 d² = **12 d²**.
#
# **A DiffuApriel block** is the exercise. Inside, each direction has 2d channels (`expand=2`), and the MLP is 2 times
# as wide as the stream.
#
# ### Exercise 4: count a bidirectional Mamba block
#
# *May · medium · 6 minutes*
#
# Count the entries of all **matrices** of one block: the packed `in_proj`, the packed `out_proj`, and the MLP's two. N
# is the state size (B and C have N numbers each, in each direction), H the number of heads of one direction (each has
# one dt). Leave out the small parts: convolution, biases, norms, A, D.
#
# <details><summary>Hint 1: the idea</summary>A matrix that computes m numbers from n has n m entries. Count each of
# the four matrices alone.</details>
# <details><summary>Hint 2: the shape</summary>For one direction <code>in_proj</code> computes z (2d), x (2d), B (N), C
# (N) and dt (H) from d numbers. There are two directions. <code>out_proj</code> computes d numbers from the 2d
# channels of both directions, and the MLP goes from d to 2d and back.</details>
# <details><summary>Hint 3: the code</summary><code>in_proj</code> is <code>d * 2 * (4 * d + 2 * N + H)</code>,
# <code>out_proj</code> is <code>4 * d * d</code>. Add the two matrices of the MLP, 2d² each.</details>


# %% tags=["exercise"]
def mamba_block_parameters(d, N, H):
    """Entries of the matrices of one bidirectional Mamba block with its MLP."""
    return None  # your line here


# %% tags=["solution"]
def mamba_block_parameters(d, N, H):
    """Entries of the matrices of one bidirectional Mamba block with its MLP."""
    in_proj = d * 2 * (2 * d + 2 * d + N + N + H)
    out_proj = 2 * (2 * d) * d
    mlp = d * 2 * d + 2 * d * d
    return in_proj + out_proj + mlp


# %%
check.mamba_block_parameters(mamba_block_parameters)

# %% [markdown]
# Now we count the matrices of the package's blocks, in units of d². Then we list the three architectures at every size:
# they differ in depth and width, but have about the same number of parameters.

# %%
from diffuapriel.config import PRESETS
from diffuapriel.model.denoiser import Block

count = use(check.mamba_block_parameters, mamba_block_parameters)
for d_model in (128, 512, 2048):
    counts = []
    for architecture, kind in (("diffuapriel", "mamba"), ("diffutran", "attention")):
        with torch.device("meta"):  # shapes without memory
            block = Block(ModelConfig(architecture, d_model=d_model, depth=1), kind)
        matrices = [m.weight for m in block.modules() if isinstance(m, nn.Linear)]
        counts.append(sum(matrix.numel() for matrix in matrices) / d_model**2)
        if kind == "mamba":
            N, H = block.mixer.config.d_state, block.mixer.config.n_heads
            assert count(d_model, N, H) == counts[0] * d_model**2
    print(
        f"d = {d_model:5}: a Mamba block has {counts[0]:.2f} d², a Transformer block {counts[1]:.2f} d²"
    )

print(f"\n{'':8}{'architecture':16}{'blocks':>7}{'d_model':>7}{'parameters':>16}")
for size in PRESETS:
    for architecture in ("diffuapriel", "diffuapriel-h", "diffutran"):
        config = preset(size, architecture)
        print(f"{size:8}{architecture:16}{config.depth:7}{config.d_model:7}{config.parameters:16,}")

# %% [markdown]
# So a Mamba block has about 16 d² parameters, plus those for B, C and dt, which matter in narrow models. At the same
# width, four Transformer blocks have as many parameters as three Mamba blocks.

# %% [markdown]
# ## 8. Assemble it
#
# ![in_proj, convolution, scan, gate, norm and out_proj](diagrams/mamba_block.svg)
#
# You now have all the parts. A **block** is two half blocks, one with the mixer and one with the MLP.
#
# ### Exercise 5: the block
#
# *Must · easy · 4 minutes*
#
# Write it with your half block: `half` is the function of exercise 3. `six` holds shift, scale and gate for the mixer,
# then shift, scale and gate for the MLP.
#
# <details><summary>Hint 1: the idea</summary>The output of the first half is the input of the second.</details>
# <details><summary>Hint 2: the shape</summary><code>six[:3]</code> are the three vectors of the first half, each
# (batch, d_model), and <code>six[3:]</code> those of the second. A star hands them over one by one:
# <code>*six[:3]</code>.</details>
# <details><summary>Hint 3: the code</summary><code>x = half(x, mixer, *six[:3])</code>, and then the same with the
# MLP.</details>


# %% tags=["exercise"]
def my_block(x, mixer, mlp, six):
    """x (batch, length, d_model); mixer, mlp: functions of such a tensor; six vectors (batch, d_model)."""
    return None  # your lines here


# %% tags=["solution"]
def my_block(x, mixer, mlp, six):
    """x (batch, length, d_model); mixer, mlp: functions of such a tensor; six vectors (batch, d_model)."""
    x = half(x, mixer, *six[:3])
    return half(x, mlp, *six[3:])


# %%
check.block(my_block)

# %% [markdown]
# In the package the norm has weights *w* of its own, one per channel. They can be folded into the scale: w (1 + scale)
# is 1 + (w (1 + scale) − 1). So your block also does for the package's weights. The names are the package's, so that
# its weights can be loaded.

# %%
from diffuapriel.model.denoiser import MLP
from diffuapriel.model.layers import Modulation, modulate

run_block = use(check.block, my_block)


class MyBlock(nn.Module):
    def __init__(self, config, kind):
        super().__init__()
        self.attends = kind == "attention"
        self.mixer = Attention(config) if self.attends else BidirectionalMamba2(config)
        self.mlp = MLP(config)
        self.mixer_norm_weight = nn.Parameter(torch.ones(config.d_model))
        self.mlp_norm_weight = nn.Parameter(torch.ones(config.d_model))

    def forward(self, x, six, rotary):
        mixer = (lambda v: self.mixer(v, rotary)) if self.attends else self.mixer
        six = [vector[:, 0] for vector in six]  # (batch, d_model) each
        for i, weight in ((1, self.mixer_norm_weight), (4, self.mlp_norm_weight)):
            six[i] = weight * (1 + six[i]) - 1
        return run_block(x, mixer, self.mlp, six)


# %% [markdown]
# The **denoiser** embeds the ids, runs the blocks, normalizes and modulates once more, and its *output matrix* gives a
# logit for every token of the vocabulary. (It is often called the head, like much else.)


# %%
class MyDenoiser(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, d, V = config, config.d_model, config.padded_vocab_size
        self.embedding = nn.Embedding(V, d)
        self.time_embedding = TimeEmbedding(config.cond_dim)
        self.modulation = Modulation(config.cond_dim, d, count=6 * config.depth + 2)
        self.blocks = nn.ModuleList(MyBlock(config, kind) for kind in config.layer_kinds)
        self.final_norm_weight = nn.Parameter(torch.ones(d))
        self.head = nn.Linear(d, V, bias=False)

    def forward(self, ids, sigma, positions):
        """ids, positions (batch, length), sigma (batch,). Returns logits (positions, vocabulary)."""
        m = self.modulation(self.time_embedding(sigma))  # the vectors of all blocks
        rotary = rotary_angles(ids.shape[1], self.config.attention_headdim, ids.device)
        x = self.embedding(ids)
        for i, block in enumerate(self.blocks):
            x = block(x, m[6 * i : 6 * i + 6], rotary)
        x = modulate(rms_norm(x, self.final_norm_weight), *m[-2:])
        return self.head(x[positions])[:, : self.config.vocab_size]


# %% [markdown]
# Do the same weights give the same logits? We try all three architectures. `random_denoiser` draws weights with open
# gates, because a fresh model would hide most mistakes behind its zeros. New models of the package also add a learned
# vector at both ends of the text; we leave it out.

# %%
from diffuapriel.benchmark.entry import random_denoiser

generator = torch.Generator().manual_seed(0)
for architecture in ("diffuapriel", "diffuapriel-h", "diffutran"):
    model = random_denoiser(preset("nano", architecture, edge_embedding=False))
    mine = MyDenoiser(model.config)
    mine.load_state_dict(model.state_dict())
    ids = torch.randint(model.config.vocab_size, (2, 50), generator=generator)
    positions, sigma = ids % 3 == 0, torch.tensor([0.1, 2.0])
    with torch.no_grad():
        torch.testing.assert_close(mine(ids, sigma, positions), model(ids, sigma, positions))
    print(f"{architecture:14} the same logits")

# %% [markdown]
# Now the denoiser that you assembled writes. It gets the weights of the trained model, and the package's sampler
# accepts any denoiser. Press play.

# %%
from diffuapriel import Canvas, Sampler, SamplerConfig
from diffuapriel.trace.player.widget import Player

mine = MyDenoiser(trained.config)
mine.load_state_dict(trained.state_dict())
options = SamplerConfig(strategy="low_confidence", steps=4 if QUICK else 96, top_p=0.9)
sampler = Sampler(options, schedule, tokenizer.mask_id)
canvas = Canvas.from_text("Tom had a [MASK:3].", tokenizer, length=96)
trace = Player().record(sampler, mine, canvas, tokenizer, model="my denoiser")

# %%
score()

# %% [markdown]
# ## What you built
#
# - **Both directions**: two independent Mamba-2 layers, one of them on the flipped row, added. Packed into one layer,
#   nothing is flipped, and the addition is part of a product. The current token counts twice.
# - **AdaLN**: sigma, features, an embedding, six vectors per block. All zero at the start, so a fresh block is the
#   identity.
# - **The hybrid**: a few attention blocks, spread over the depth, with RoPE for order.
# - **The denoiser**: equal to the package's up to rounding, in three architectures with about the same number of
#   parameters.
#
# ## Going further
#
# - Make the toy language harder: two sentences, where the second begins with *She* or *He*. Is the loss at each
#   position still the smallest possible?
# - Tie the two directions (`by_hand.back = by_hand.ahead`) in the toy model. Which positions get worse?
# - Give the one-directional model 8 blocks. Does the loss at the name change? Predict before you run.
#
# **Papers.** DiffuApriel, [arXiv:2511.15927](https://arxiv.org/abs/2511.15927). Mamba-2,
# [arXiv:2405.21060](https://arxiv.org/abs/2405.21060). AdaLN with a zero start: DiT,
# [arXiv:2212.09748](https://arxiv.org/abs/2212.09748). RoPE, [arXiv:2104.09864](https://arxiv.org/abs/2104.09864).
# Another way to join two scans: Hydra, [arXiv:2407.09941](https://arxiv.org/abs/2407.09941).
