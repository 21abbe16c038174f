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
# The network inside a masked diffusion model is called the *denoiser*. It gets a row of tokens with holes and says
# what belongs in each hole. In lesson 02 you built the Mamba-2 scan, which reads from left to right. A hole needs
# both sides. In this lesson you make the scan look both ways, tell the network how noisy its input is, and put the
# whole denoiser together.
#
# **You will be able to**
#
# - show, with exact numbers, what a denoiser loses that reads in one direction only;
# - write a bidirectional Mamba-2, first with flips, then packed and without them;
# - explain AdaLN: how the noise level steers every block, and why a fresh block does nothing;
# - count the parameters of a block, and assemble the three architectures from their parts.
#
# **You need** lesson 01 (masks, loss, noise level) and lesson 02 (the scan, with its step size dt, A, B, C and D).
#
# | part | minutes |
# |---|---|
# | 1. One direction is not enough | 14, of which 1 to 2 are waiting |
# | 2. Forward plus reverse | 6 |
# | 3. Packed: nothing is flipped | 10 |
# | 4. The token that counts twice | 5 |
# | 5. AdaLN: telling the noise level | 13 |
# | 6. The hybrid, and what order attention knows | 7 |
# | 7. How many parameters? | 7 |
# | 8. Assemble it | 6 |
#
# {{measured}}
#
# At three places you **predict, then run**. Three **exercises** check your answer.

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

from diffuapriel.lessons import QUICK, check, predict, prepare, show

prepare()

# %% [markdown]
# ## 1. One direction is not enough
#
# We need a language so small that everything can be counted. Each sentence has five words: a name, a verb, *her* or
# *his*, a color, a thing. The name decides between *her* and *his*. The thing decides the verb: kites are flown,
# apples are eaten.

# %%
GIRLS, BOYS = ["Mia", "Ana", "Eva", "Ida"], ["Tom", "Ben", "Max", "Leo"]
VERB = {"apple": "ate", "pear": "ate", "kite": "flew", "drone": "flew"}
VERB |= {"book": "read", "letter": "read", "bike": "rode", "pony": "rode"}
SUBLAYERS = ["name", "verb", "her/his", "color", "thing"]

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
print(f"{len(ALL)} sentences of {len(SUBLAYERS)} words, {len(WORDS)} different words")

# %% [markdown]
# So the front depends on what stands behind it. In `[MASK] flew her red kite` the hidden name must be a girl's, and
# only the word *her*, two places to the right, tells.
#
# Now a **Mamba-2 layer**. Lesson 02 built its heart, the scan; the package's is called `ssd`. Around the scan stands
# this:
#
# - one matrix, `in_proj`, makes everything from the input `u`: a gate `z`, the three inputs `x`, `B`, `C`, and `dt`;
# - a *short convolution* mixes each channel of `x`, `B`, `C` with its own values at the three tokens before;
# - the scan; its output is multiplied by the gate, `silu(z)`, where silu(z) = z · sigmoid(z); then a norm (`rms_norm`:
#   divide by the root mean square);
# - one matrix, `out_proj`, brings it back to the width of `u`.
#
# First the convolution. Each channel has K weights, called *taps*. Tap *j* looks K − 1 − *j* places **back**.

# %%
from diffuapriel.model.layers import rms_norm
from diffuapriel.ops.ssd import ssd


def look_back(x, weight, bias):
    """Short convolution. x (batch, length, channels), weight (K, channels), bias (channels,)."""
    length, K = x.shape[1], len(weight)
    padded = F.pad(x, (0, 0, K - 1, 0))  # K - 1 rows of zeros in front
    return bias + sum(weight[j] * padded[:, j : j + length] for j in range(K))


# %% [markdown]
# Now the layer. The letters are those of lesson 02: `d_inner` channels of x are cut into heads, `d_state` is the size
# of B and C. The starting values of `dt` and `A` are spread over the heads, so that some forget fast and some slowly.


# %%
class Mamba2(nn.Module):
    """Reads from left to right: (batch, length, d_model) to the same shape."""

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
        xBC = F.silu(look_back(xBC, self.conv_weight, self.conv_bias))
        x, B, C = xBC.split([c.d_inner, c.d_state, c.d_state], dim=-1)
        x = x.unflatten(-1, (c.n_heads, c.headdim))  # (batch, length, heads, headdim)
        dt, A = F.softplus(dt + self.dt_bias), -self.A_log.exp()
        y = ssd(x, dt, A, B[:, :, None], C[:, :, None], self.D)  # B, C: one group for all heads
        return self.out_proj(rms_norm(y.flatten(2) * F.silu(z), self.norm_weight))


# %% [markdown]
# And two denoisers that differ in nothing else. `Denoiser` is the package's; its blocks hold a bidirectional Mamba-2,
# which is the subject of sections 2 and 3. For the rival we take the same `Denoiser` and put our one-directional layer
# into each block, twice as wide inside (`expand=2` for `expand=1`), so that their parameters are about equally many.

# %%
from diffuapriel import Denoiser, ModelConfig

toy = ModelConfig(
    "diffuapriel", d_model=64, depth=2, expand=1, d_state=16, headdim=32, cond_dim=32,
    vocab_size=MASK + 1, tokenizer="gpt2-4k",
)  # fmt: skip

torch.manual_seed(0)
both = Denoiser(toy)
one = Denoiser(toy)
for block in one.blocks:
    block.mixer = Mamba2(dataclasses.replace(toy, expand=2))

for name, model in (("one direction", one), ("both directions", both)):
    print(f"{name:16} {sum(p.numel() for p in model.parameters()):,} parameters")

# %% [markdown]
# **Predict, then run.** Both are trained the same way, until they cannot improve any more. Then the one-directional
# one is given `[MASK] flew her red kite`. What does it answer?
#
# - **A** · a girl's name: it has learnt that *her* belongs to girls
# - **B** · any of the eight names, all about equally likely
# - **C** · a word that is no name: it cannot know what is asked at the front

# %%
guess_1 = predict("A", "B", "C")
guess_1

# %% [markdown]
# The training is that of lesson 01: corrupt, predict, weigh by 1/*t*. `nelbo` is the package's name for it. The
# sentences are few and short, so a few hundred steps suffice.

# %%
from diffuapriel import get_schedule
from diffuapriel.diffusion.objective import nelbo

STEPS, schedule = (8 if QUICK else 350), get_schedule("log-linear")


def train(model, name):
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    plan = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=5e-3, total_steps=STEPS, pct_start=0.1, cycle_momentum=False
    )
    for _ in tqdm(range(STEPS), desc=name):
        ids = ALL[torch.randint(len(ALL), (128,), generator=generator)]
        loss = nelbo(model, ids, schedule, MASK, generator=generator).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        plan.step()


threads = torch.get_num_threads()
torch.set_num_threads(1)  # these products are tiny: a second thread would only be waited for
train(one, "one direction")
train(both, "both directions")
torch.set_num_threads(threads)

# %%
question = torch.tensor([[MASK] + [WORDS.index(w) for w in ("flew", "her", "red", "kite")]])
sigma = schedule.sigma(torch.tensor([1 / 5]))  # the noise level of one hidden word in five

figure = go.Figure(layout={"xaxis_title": "the hidden name", "yaxis_title": "probability"})
answers = {}
for label, model in (("one direction", one), ("both directions", both)):
    with torch.no_grad():
        p = model(question, sigma)[0, 0, :MASK].softmax(-1)
    answers[label] = [p[WORDS.index(name)].item() for name in GIRLS + BOYS]
    figure.add_bar(x=GIRLS + BOYS, y=answers[label], name=label)
show(figure)
for label, p in answers.items():
    print(f"{label:16} girls {sum(p[:4]):.2f}   boys {sum(p[4:]):.2f}")
guess_1.reveal("B", "When it reads the first place, it has seen nothing yet.")

# %% [markdown]
# It has learnt the language, as far as it can see. That it stands before a name is certain, as it counts places from
# the left. But *her* lies behind, and nothing flows to the left.
#
# How much is lost at each place? Here the best possible answer can be **counted**. Of all sentences, keep those that
# agree with every visible word; among them, count how often the right word stands in the hole. The cost is log(kept)
# − log(kept with the right word). For one direction, only the words before the hole count as visible.


# %%
def least_cost(ids, hidden, one_way):
    """The smallest possible cost of each place, in nats; all tensors (rows, places)."""
    agrees = ids[:, None] == ALL  # (rows, sentences, places)
    cost = torch.zeros(ids.shape)
    for place in range(ids.shape[1]):
        seen = ~hidden
        seen[:, place] = False  # the word that is asked for
        if one_way:
            seen[:, place:] = False
        kept = (agrees | ~seen[:, None]).all(2)  # (rows, sentences)
        right = kept & agrees[:, :, place]
        cost[:, place] = kept.sum(1).log() - right.sum(1).log()
    return cost


@torch.no_grad()
def cost_of(model, ids, hidden, t):
    """The cost of a model's answer at each place, in nats."""
    sigma = schedule.sigma(torch.full((len(ids),), t))
    logits = model(ids.masked_fill(hidden, MASK), sigma)[..., :MASK]
    return F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")


# %%
rows = ALL.repeat(2 if QUICK else 20, 1)
hidden = torch.rand(rows.shape, generator=torch.Generator().manual_seed(5)) < 0.5


def at_masks(cost):
    """The mean cost at the hidden places, for each place."""
    return ((cost * hidden).sum(0) / hidden.sum(0)).tolist()


figure = go.Figure(layout={"xaxis_title": "place", "yaxis_title": "nats at a mask, t = 0.5"})
print(f"{'':24}", *(f"{part:>8}" for part in SUBLAYERS))
for label, model, color in (("one direction", one, "peru"), ("both directions", both, "teal")):
    reached = at_masks(cost_of(model, rows, hidden, 0.5))
    best = at_masks(least_cost(rows, hidden, one_way=model is one))
    figure.add_scatter(
        x=SUBLAYERS, y=best, name=f"{label}, at best", line={"dash": "dash", "color": color}
    )
    figure.add_scatter(
        x=SUBLAYERS, y=reached, name=label, mode="markers", marker={"color": color, "size": 9}
    )
    for what, values in (("reached", reached), ("at best", best)):
        print(f"{label:16}{what:8}", *(f"{value:8.3f}" for value in values))
show(figure)

# %% [markdown]
# The markers lie on the dashed lines: **both models are as good as they can be**, and no training helps the
# one-directional one. It pays at the front, for the name and the verb, because what tells them stands behind. At the
# back, both pay the same.
#
# The wiring itself can be seen. `gradient_influence` measures how much a small push at each input place moves the
# answer at a chosen place. Row by row: which places does each answer depend on?

# %%
from diffuapriel.interpret.influence import gradient_influence

sentence = torch.tensor([WORDS.index(w) for w in ("Mia", "flew", "her", "red", "kite")])
for label, model in (("one direction", one), ("both directions", both)):
    table = torch.stack(
        [gradient_influence(model, sentence, place, sigma.item()).share for place in range(5)]
    )
    figure = go.Figure(
        layout={
            "title": label,
            "xaxis_title": "input place",
            "yaxis_title": "answer",
            "height": 320,
        }
    )
    figure.add_heatmap(
        z=table.tolist(), x=SUBLAYERS, y=SUBLAYERS, zmin=0, zmax=1, colorscale="Blues"
    )
    show(figure, alt=f"{label}: the share of each input place in each answer")
    above = table.triu(1).sum() / table.sum()
    print(f"{label}: {above:.0%} of the influence comes from the right\n")
    assert (above == 0) == (model is one)

# %% [markdown]
# ## 2. Forward plus reverse
#
# The cure is simple. Take **two** Mamba-2 layers with parameters of their own. One reads the row as it is. The other
# reads it turned round, and its answer is turned back, so that place *i* stands at place *i* again. Add the two.


# %%
class BothWays(nn.Module):
    """A forward and a reverse Mamba-2, independent, outputs added."""

    def __init__(self, config):
        super().__init__()
        self.ahead = Mamba2(config)
        self.back = Mamba2(config)

    def forward(self, u):
        return self.ahead(u) + self.back(u.flip(1)).flip(1)  # dim 1 is the length


# %% [markdown]
# Does each place now see all others? We change one word's vector in the middle of a row and look where the output
# moves.

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
        print(f"{label:10}", "".join("x" if m else "." for m in moved), " (x: the output moved)")
assert moved.all()

# %% [markdown]
# The reverse layer must not share the forward one's parameters. What tells a name from behind is not what tells a
# thing from the front. In Mamba-2 this goes further than in other networks: B, C and dt all come from `in_proj`, so
# tying `in_proj` would make both directions write, read and forget alike.

# %% [markdown]
# ## 3. Packed: nothing is flipped
#
# The version by hand does everything twice: two `in_proj`, two convolutions, two scans, two `out_proj`, and two flips
# that only carry data about. But look at the layer: **only two of its steps know a direction**, the convolution and
# the scan. All the rest treats each token for itself.
#
# - One wide `in_proj` serves both directions: its rows are those of the two, one below the other.
# - The scan can run from the end. `ssd(..., reverse=True)` needs no flip: it sums from the other side.
# - The convolution of the reverse half must look **ahead**. That one is yours.
#
# ### Exercise 1: look ahead
#
# Write the convolution of the reverse direction: what `look_back` makes of the flipped row, flipped back. Tap *j* of
# K looks K − 1 − *j* places **ahead**; beyond the end there are zeros. Try it without `flip`.
#
# <details><summary>Hint 1</summary>Where must the K − 1 rows of zeros stand now? <code>F.pad(x, (0, 0, before,
# after))</code>. And which tap looks at the token itself?</details>
# <details><summary>Hint 2</summary>With zeros behind, the token <code>s</code> places ahead of all tokens at once is
# <code>padded[:, s : s + length]</code>. For tap j, s is K − 1 − j.</details>


# %% tags=["exercise"]
def look_ahead(x, weight, bias):
    """Short convolution that looks ahead. x (batch, length, channels), weight (K, channels)."""
    return None  # your lines here


# %% tags=["solution"]
def look_ahead(x, weight, bias):
    """Short convolution that looks ahead. x (batch, length, channels), weight (K, channels)."""
    length, K = x.shape[1], len(weight)
    padded = F.pad(x, (0, 0, 0, K - 1))  # zeros behind
    return bias + sum(weight[j] * padded[:, K - 1 - j :][:, :length] for j in range(K))


# %%
check.look_ahead(look_ahead)

# %% [markdown]
# The package's `BidirectionalMamba2` is the packed form. Give it the weights of the version by hand: most are laid
# side by side as an axis of two directions. `out_proj` is the nice one. It takes `[y_ahead, y_back]` as one long
# vector, and a matrix times a long vector is a sum of two products. **So the addition happens inside the product, for
# nothing.**

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

    for length in (1, 2, 31, 100):  # short and odd rows as well
        u = torch.randn(3, length, nano.d_model)
        torch.testing.assert_close(packed(u), by_hand(u), rtol=1e-4, atol=1e-5)
print("packed and by hand agree")

# %% [markdown]
# What does packing save? The arithmetic is the same to the last product, so on a CPU expect little: what the flips and
# the additional calls cost. On a GPU it is more: half as many *kernels* (programs that run on it) to start, and both
# directions fill the card at once. We time both in turn and take medians; lesson 06 says why.

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
    print(f"{name:8} {statistics.median(times[1:]):6.1f} ms  (the first turn, a warm-up, left out)")

# %% [markdown]
# ## 4. The token that counts twice
#
# A scan is a matrix, as lesson 02 showed: y = M x. Entry (t, u) of M says how much token *u* is heard at place *t*.
# Forward, everything above the diagonal is zero; in reverse, everything below. To see them, we feed the scan one unit
# vector after the other, for one head of one channel, with B, C and dt the same in both directions and D = 0.
#
# **Predict, then run.** Now add the two matrices. What stands on the diagonal of the sum, that is, how much does a
# token hear of itself?
#
# - **A** · nothing: each direction sees only the others
# - **B** · as much as in one scan
# - **C** · twice as much as in one scan

# %%
guess_2 = predict("A", "B", "C")
guess_2

# %%
L = 10
generator = torch.Generator().manual_seed(0)
x = torch.eye(L)[:, :, None, None]  # L rows; row u is 1 at place u: (L, L, one head, one channel)
dt = (0.3 + 0.4 * torch.rand(1, L, 1, generator=generator)).expand(L, L, 1)
B = torch.rand(1, L, 1, 4, generator=generator).expand(L, L, 1, 4)
C = torch.rand(1, L, 1, 4, generator=generator).expand(L, L, 1, 4)
A = torch.tensor([-1.0])

matrices = {
    name: ssd(x, dt, A, B, C, reverse=reverse)[:, :, 0, 0].T  # (t, u)
    for name, reverse in (("forward", False), ("reverse", True))
}
matrices["sum"] = matrices["forward"] + matrices["reverse"]
top = matrices["sum"].max().item()
for name, M in matrices.items():
    figure = go.Figure(
        layout={
            "title": name,
            "xaxis_title": "u, heard",
            "yaxis_title": "t",
            "height": 380,
            "width": 460,
        }
    )
    figure.add_heatmap(z=M.tolist(), zmin=0, zmax=top, colorscale="Blues")
    figure.update_yaxes(autorange="reversed")
    show(figure, alt=f"the matrix of the scan, {name}")

once = dt[0, :, 0] * (C[0, :, 0] * B[0, :, 0]).sum(-1)  # dt_t (C_t . B_t)
torch.testing.assert_close(matrices["forward"].diag(), once)
torch.testing.assert_close(matrices["sum"].diag(), 2 * once)
guess_2.reveal("C", "Each scan includes the present token, so the sum counts it twice.")

# %% [markdown]
# **The sum counts the current token twice**: dt (C · B) from each scan, and D x from each as well. It does no harm,
# as the two sets of weights and both D are learnt with it. But one must know it: whoever writes a kernel for both
# directions, or compares with a model that shifts one scan by a place (as Hydra does), must count the same way.
#
# From here on we use the package's packed layer.

# %% [markdown]
# ## 5. AdaLN: telling the noise level
#
# With 90 % hidden, a good denoiser answers by rough frequencies. With 10 % hidden, it looks closely. It helps to be
# told the noise level, **sigma** = −log alpha(t): 0 for a clean text, growing as more is hidden. How does one number
# steer a network? In three steps, called **adaptive layer norm**, or AdaLN.
#
# 1. sigma becomes 256 *features*: cosines and sines of sigma, at 128 frequencies from fast to slow. A network can
#    read small and large differences off them, which is hard from one bare number.
# 2. Two linear layers make an embedding of it, *c*.
# 3. In every block a linear layer turns *c* into six vectors: **shift**, **scale** and **gate** for the mixer (the
#    part that mixes tokens, here Mamba), and the same for the MLP (the two linear layers behind it).


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
print("sigma    ", *(f"{abs(s):.3f}" for s in sigma))
print("c, first ", *(f"{value:.3f}" for value in mine[:, 0]))

# %% [markdown]
# ### Exercise 2: modulate and gate
#
# What flows from block to block is called the *stream*. Half a block does this to the stream `x`: norm, **times (1 +
# scale), plus shift**; then the branch (the mixer or the MLP); the result **times gate**; and that is added to `x`.
# Write it. `rms_norm(x)` is the norm. Mind the shapes: each text of the batch has its own three vectors, the same for
# all of its tokens.
#
# <details><summary>Hint 1</summary>A vector of shape (batch, width) must meet a tensor (batch, length, width).
# <code>scale[:, None]</code> has the shape (batch, 1, width).</details>
# <details><summary>Hint 2</summary>First <code>v = rms_norm(x) * (1 + scale[:, None]) + shift[:, None]</code>. What is
# added to x is the gate times the branch of v.</details>


# %% tags=["exercise"]
def half_block(x, branch, shift, scale, gate):
    """x (batch, length, d_model); branch a function of such a tensor; the others (batch, d_model)."""
    return None  # your lines here


# %% tags=["solution"]
def half_block(x, branch, shift, scale, gate):
    """x (batch, length, d_model); branch a function of such a tensor; the others (batch, d_model)."""
    v = rms_norm(x) * (1 + scale[:, None]) + shift[:, None]
    return x + gate[:, None] * branch(v)


# %%
check.half_block(half_block)

# %% [markdown]
# The linear layer that makes the six vectors starts at **zero**, weight and bias. So shift, scale and gate are all
# zero at the start of training.
#
# **Predict, then run.** Take a fresh `Denoiser`, just initialized, with one word hidden. On which places of the row
# does its answer depend?
#
# - **A** · on all of them: the Mamba layers have random weights, and random weights mix
# - **B** · only on the hidden place itself
# - **C** · on none at all

# %%
guess_3 = predict("A", "B", "C")
guess_3

# %% [markdown]
# `open_gates` sets all gates of an untrained model to one. With it we see what the gates were holding back.

# %%
from diffuapriel.interpret.adaln import open_gates

torch.manual_seed(2)
fresh = Denoiser(toy)
x = torch.randn(2, 5, toy.d_model)
zeros = [torch.zeros(2, 1, toy.d_model)] * 6  # what a fresh modulation gives
assert torch.equal(fresh.blocks[0](x, zeros), x)  # a fresh block is the identity

place, share = 2, {}
share["as initialized"] = gradient_influence(fresh, sentence, place, 0.2).share
share["gates opened"] = gradient_influence(open_gates(fresh), sentence, place, 0.2).share
print(f"{'input place':16}", *(f"{part:>8}" for part in SUBLAYERS))
for label, values in share.items():
    print(f"{label:16}", *(f"{value:8.3f}" for value in values))
assert share["as initialized"].nonzero().flatten().tolist() == [place]
assert (share["gates opened"] > 0).all()
guess_3.reveal("B", "Every gate is zero: each block passes its input on, token by token.")

# %% [markdown]
# **A fresh block is the identity.** Training starts from a network that does nothing but pass on, however deep it is,
# and opens each block as far as it is of use. That makes deep networks easy to start.
#
# What has a trained model made of it? The package brings one, trained on stories. `modulation_over_time` reads the
# size (root mean square) of each shift, scale and gate off the running model. We draw the gates of the mixers over
# time.

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
change = sizes.amax(-1) / sizes.amin(-1).clamp(min=1e-9)  # over t: largest through smallest
for number, kind in enumerate(("shift", "scale", "gate")):
    print(f"{kind:6} changes over t by a factor of {change[:, :, number].median():.2f} (median)")

# %% [markdown]
# Is the noise level of any use? We hide a known share of new stories, and **tell the model another one**. If it
# listens, something near the truth must be cheapest.

# %%
from diffuapriel.tales import language as tales

rng, texts = random.Random(3), []
while len(texts) < (2 if QUICK else 16):
    ids = tokenizer.encode(tales.generate(3, rng))[:128]
    texts.append(ids + [tokenizer.eos_id] * (128 - len(ids)))
texts = torch.tensor(texts)

told = [0.1, 0.9] if QUICK else [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99]
figure = go.Figure(layout={"xaxis_title": "told t", "yaxis_title": "nats more than at the best"})
for truth in tqdm([0.2, 0.8]):
    hide = torch.rand(texts.shape, generator=torch.Generator().manual_seed(7)) < truth
    costs = []
    for t in told:
        sigma = schedule.sigma(torch.full((len(texts),), t))
        with torch.no_grad():
            logits = trained(texts.masked_fill(hide, tokenizer.mask_id), sigma, hide)
        costs.append(F.cross_entropy(logits[:, : tokenizer.mask_id], texts[hide]).item())
    worse = [cost - min(costs) for cost in costs]
    print(
        f"{truth:.0%} hidden: {min(costs):.3f} nats a mask at best, told t = {told[worse.index(0)]}"
    )
    figure.add_scatter(x=told, y=worse, mode="lines+markers", name=f"{truth:.0%} hidden")
show(figure)

# %% [markdown]
# Look at the height of the axis, too: is it much? Where a curve is flat, the *t* that is printed as the best means
# little. The share of masks can be read off the text itself, so a model can do without being told; what costs
# something is to be told quite wrongly. (`time_conditioning=False` switches it off.)

# %% [markdown]
# ## 6. The hybrid, and what order attention knows
#
# A Mamba state has a fixed size. It can carry the gist of a long text, but not every word of it. **Attention** keeps
# every word and can look each one up, at a cost that grows with the square of the length. The hybrid, DiffuApriel-H,
# takes a little of it: of every six blocks one has attention, the last of the six. Where six does not divide the
# depth, their number is rounded down, and they stand about equally far apart. `layer_kinds` says which blocks they are.

# %%
from diffuapriel import preset

for depth in (6, 9, 12, 16, 20, 24):
    config = ModelConfig("diffuapriel-h", d_model=128, depth=depth)
    row = "".join("A" if kind == "attention" else "m" for kind in config.layer_kinds)
    print(f"{depth:3} blocks  {row:26} {row.count('A')} with attention")

# %% [markdown]
# They are **spread over the depth**, and never all stand at the beginning. A look-up is useful when there is
# something worth looking up: the first blocks see single words, the later ones see what the earlier ones made of
# them. An independent reproduction of the paper at 130 million parameters compared the hybrid with the Transformer: it
# was better where its attention was spread, and clearly worse where all of it came early.
#
# **Attention has no order.** It weighs tokens by what they are, not where. So the order is put into the queries and
# keys: RoPE, *rotary position embedding*, turns pairs of their numbers by an angle that grows with the place. A query
# at place *i* and a key at place *j* then meet at an angle that depends on *i* − *j* only. Mamba needs none of this:
# a scan that goes from left to right has an order.
#
# We shuffle the other tokens of a row and look at the output of the first one, which stays.

# %%
from diffuapriel.model.attention import Attention, rotary_angles

torch.manual_seed(4)
config = preset("nano", "diffutran")
attention, mamba = Attention(config), BidirectionalMamba2(preset("nano", "diffuapriel"))
shuffle = torch.tensor([0, 5, 2, 7, 3, 1, 6, 4])  # place 0 stays
cos, sin = rotary_angles(8, config.attention_headdim, torch.device("cpu"))
unturned = (torch.ones_like(cos), torch.zeros_like(sin))  # every angle zero: no RoPE

with torch.no_grad():
    u = torch.randn(1, 8, config.d_model)
    moved = {
        "attention, no RoPE": attention(u, unturned) - attention(u[:, shuffle], unturned),
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
# A fair comparison gives each architecture as many parameters, not as many layers. So we must count. Let *d* be the
# width.
#
# **A Transformer block**: queries, keys, values and the output are 4 matrices of d × d. Its MLP is 4 times as wide
# inside: d × 4d and 4d × d. Together 4 d² + 8 d² = **12 d²**.
#
# **A DiffuApriel block**: that is the exercise. Inside, one direction has 2d channels (`expand=2`), the MLP is 2
# times as wide as the stream.
#
# ### Exercise 3: count a bidirectional Mamba block
#
# Count the entries of all **matrices** of one block: the packed `in_proj`, the packed `out_proj`, and the MLP's two.
# N is the state size (B and C have N numbers each, in each direction), H the number of heads of one direction (each
# has one dt). Leave out what is small: convolution, biases, norms, A, D.
#
# <details><summary>Hint 1</summary>For one direction <code>in_proj</code> makes z (2d), x (2d), B (N), C (N) and dt (H)
# out of d numbers. There are two directions.</details>
# <details><summary>Hint 2</summary>A matrix that makes m numbers out of n has n m entries. <code>out_proj</code> makes
# d numbers out of both directions' 2d channels. The MLP goes from d to 2d and back.</details>


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
# Now the package's blocks, counted matrix by matrix, against d². And the three architectures at every size: different
# in depth and width, alike in parameters.

# %%
from diffuapriel.config import PRESETS
from diffuapriel.model import count_parameters
from diffuapriel.model.denoiser import Block

for d_model in (128, 512, 2048):
    counts = []
    for architecture, kind in (("diffuapriel", "mamba"), ("diffutran", "attention")):
        with torch.device("meta"):  # shapes without memory
            block = Block(ModelConfig(architecture, d_model=d_model, depth=1), kind)
        matrices = [m.weight for m in block.modules() if isinstance(m, nn.Linear)]
        counts.append(sum(matrix.numel() for matrix in matrices) / d_model**2)
    print(
        f"d = {d_model:5}: a Mamba block has {counts[0]:.2f} d², a Transformer block {counts[1]:.2f} d²"
    )

print(f"\n{'':8}{'architecture':16}{'blocks':>7}{'d_model':>7}{'parameters':>16}")
for size in PRESETS:
    for architecture in ("diffuapriel", "diffuapriel-h", "diffutran"):
        config = preset(size, architecture)
        print(
            f"{size:8}{architecture:16}{config.depth:7}{config.d_model:7}{count_parameters(config):16,}"
        )

# %% [markdown]
# So a Mamba block counts about 16 d², and B, C and dt come on top, which matters for narrow models. At the same
# width, four Transformer blocks weigh as much as three Mamba blocks.

# %% [markdown]
# ## 8. Assemble it
#
# All parts are there. A **block** is two half blocks, as in exercise 2. The **denoiser** embeds the ids, runs the
# blocks, norms and modulates a last time, and its *head*, a matrix, gives a logit for every word. The names are the
# package's, so that its weights can be loaded.

# %%
from diffuapriel.model.denoiser import MLP
from diffuapriel.model.layers import Modulation, modulate


class MyBlock(nn.Module):
    def __init__(self, config, kind):
        super().__init__()
        self.attends = kind == "attention"
        self.mixer = Attention(config) if self.attends else BidirectionalMamba2(config)
        self.mlp = MLP(config)
        self.mixer_norm_weight = nn.Parameter(torch.ones(config.d_model))
        self.mlp_norm_weight = nn.Parameter(torch.ones(config.d_model))

    def forward(self, x, six, rotary):
        v = modulate(rms_norm(x, self.mixer_norm_weight), six[0], six[1])
        x = x + six[2] * (self.mixer(v, rotary) if self.attends else self.mixer(v))
        v = modulate(rms_norm(x, self.mlp_norm_weight), six[3], six[4])
        return x + six[5] * self.mlp(v)


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
        """ids, positions (batch, length), sigma (batch,); logits (chosen positions, vocabulary)."""
        m = self.modulation(self.time_embedding(sigma))  # all vectors of all blocks
        rotary = rotary_angles(ids.shape[1], self.config.attention_headdim, ids.device)
        x = self.embedding(ids)
        for i, block in enumerate(self.blocks):
            x = block(x, m[6 * i : 6 * i + 6], rotary)
        x = modulate(rms_norm(x, self.final_norm_weight), *m[-2:])
        return self.head(x[positions])[:, : self.config.vocab_size]


# %% [markdown]
# Same weights, same logits? We try all three architectures. `random_denoiser` draws weights with open gates, as a
# fresh model would hide most mistakes behind its zeros.

# %%
from diffuapriel.benchmark.entry import random_denoiser

generator = torch.Generator().manual_seed(0)
for architecture in ("diffuapriel", "diffuapriel-h", "diffutran"):
    model = random_denoiser(preset("nano", architecture))
    mine = MyDenoiser(model.config)
    mine.load_state_dict(model.state_dict())
    ids = torch.randint(model.config.vocab_size, (2, 50), generator=generator)
    positions, sigma = ids % 3 == 0, torch.tensor([0.1, 2.0])
    with torch.no_grad():
        torch.testing.assert_close(mine(ids, sigma, positions), model(ids, sigma, positions))
    print(f"{architecture:14} the same logits")

# %% [markdown]
# And the denoiser that you assembled writes. It gets the weights of the trained model, and the package's sampler does
# not care whose class it is. Press play.

# %%
from diffuapriel import Canvas, Sampler, SamplerConfig
from diffuapriel.trace.player.widget import Player

mine = MyDenoiser(trained.config)
mine.load_state_dict(trained.state_dict())
options = SamplerConfig(strategy="low_confidence", steps=4 if QUICK else 96, top_p=0.9)
sampler = Sampler(options, schedule, tokenizer.mask_id)
canvas = Canvas.from_text("Tom had a [MASK:3].", tokenizer, length=96)
trace = Player().record(sampler, mine, canvas, tokenizer, model="my denoiser")

# %% [markdown]
# ## What you built
#
# - **Both directions**: two independent Mamba-2 layers, one on the flipped row, added. Packed into one layer, nothing
#   is flipped and the addition is part of a product. The current token counts twice.
# - **AdaLN**: sigma, features, an embedding, six vectors a block. Zero at the start, so a fresh block is the
#   identity.
# - **The hybrid**: a few attention blocks, spread over the depth, with RoPE for order.
# - **The denoiser**, equal to the package's up to rounding, in three architectures of equally many parameters.
#
# ## Going further
#
# - Make the toy language harder: two sentences, the second of which begins with *She* or *He*. Does the loss at each
#   place still reach the floor?
# - Tie the two directions (`by_hand.back = by_hand.ahead`) in the toy model. Which places get worse?
# - Give the one-directional model 8 blocks. Does the loss at the name change? Say before you run.
#
# **Papers.** DiffuApriel, [arXiv:2511.15927](https://arxiv.org/abs/2511.15927). Mamba-2,
# [arXiv:2405.21060](https://arxiv.org/abs/2405.21060). AdaLN with a zero start: DiT,
# [arXiv:2212.09748](https://arxiv.org/abs/2212.09748). RoPE, [arXiv:2104.09864](https://arxiv.org/abs/2104.09864).
# Another way to join two scans: Hydra, [arXiv:2407.09941](https://arxiv.org/abs/2407.09941).
