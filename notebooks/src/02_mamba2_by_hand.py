# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Mamba-2 by hand
#
# A Transformer compares every token with every other one. Mamba reads a text with a small memory that fades. The
# surprise is that both are the same computation, seen from two sides. In this lesson you build the memory of Mamba-2,
# called a *head*, four times, and the four agree to ten digits. Then you look at what the heads of a trained model
# remember.
#
# **You will be able to**
#
# - write the recurrence of Mamba-2, and say what A, B, C, D and dt are for;
# - turn it into a convolution, and into an attention matrix;
# - count what each view costs, and explain why none of the three is used as it is;
# - write the chunked scan, which is;
# - say how many tokens a head remembers, and what *selective* means.
#
# **You need** PyTorch tensors, matrix products, and the exponential function. Lesson 01 is not needed.
#
# | part | minutes |
# |---|---|
# | 1. A leaky memory | 10 |
# | 2. A memory with addresses | 12 |
# | 3. The same as a convolution | 6 |
# | 4. The same as attention | 14 |
# | 5. What the views cost | 5 |
# | 6. The chunked scan | 14 |
# | 7. What a head remembers | 9 |
#
# {{measured}}
#
# At some places you are asked to **predict, then run**: the cell below the question shows buttons. Click a letter
# before you run the cell after it. Four **exercises** check your answer.

# %% [markdown]
# The next cell only prepares things. Run it. `QUICK` is True where the tests of this project run the lesson.

# %%
import math
import random
import time

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from diffuapriel.lessons import QUICK, check, predict, prepare, show

prepare()

# %% [markdown]
# ## 1. A leaky memory
#
# Whoever reads a text token by token needs a memory that does not grow with the text. The smallest one is a single
# number, the **state** $h$. At each token it fades a little, and something is added:
#
# $$h_t = e^{dt_t A}\, h_{t-1} + dt_t\, x_t$$
#
# - $t$ counts the tokens. (It is not the time *t* of lesson 01.) Before the first token, the state is 0.
# - $x_t$ is the **input** at token $t$: here a number.
# - $A$ is the **decay rate**: one negative number, the same at every token.
# - $dt_t$ is the **step size**: a positive number. Think of it as the time that token $t$ takes. (In the papers: Δ.)
#
# The factor $e^{dt_t A}$ lies between 0 and 1. It is the share of the memory that survives token $t$.


# %%
def my_memory(x, dt, A):
    """x and dt (length,), A a negative number. Returns the state after each token, (length,)."""
    h, states = torch.zeros(()), []
    for t in range(len(x)):
        h = torch.exp(dt[t] * A) * h + dt[t] * x[t]
        states.append(h)
    return torch.stack(states)


x = torch.zeros(60)
x[5], x[25] = 1.0, 1.0  # silence, but for two signals
figure = go.Figure(layout={"xaxis_title": "token", "yaxis_title": "state", "height": 350})
for A in (-0.02, -0.1, -0.5):
    figure.add_scatter(y=my_memory(x, torch.ones(60), A).tolist(), name=f"A = {A}")
show(figure)

# %% [markdown]
# Each signal jumps into the memory and leaks out again. The rate decides how fast. A state that hardly fades still
# knows of the first signal when the second one comes.
#
# **Predict, then run.** A memory keeps 99 % at each token. After how many tokens is half of it gone?
#
# - **A** · 50
# - **B** · 69
# - **C** · 100
# - **D** · it is never half gone, as something is always left

# %%
guess_1 = predict("A", "B", "C", "D")
guess_1

# %%
left, tokens = 1.0, 0
while left > 0.5:
    left, tokens = left * 0.99, tokens + 1
print(f"after {tokens} tokens, {left:.3f} is left")
guess_1.reveal({50: "A", 69: "B", 100: "C"}[tokens], "A percent of what is left is less each time.")

# %% [markdown]
# So we can say how far a memory reaches, **in tokens**. If every step is $dt$, then after $n$ tokens $e^{n\,dt\,A}$ is
# left. After −1/(dt A) tokens that is 1/e, a little more than a third. After the **half-life** it is one half.
#
# ### Exercise 1: the half-life of a memory
#
# The steps of a real head differ from token to token. Each token multiplies the memory by its own $e^{dt_t A}$. Give
# the half-life: the number of tokens after which one half is left, if all tokens were like the *mean* of these.
#
# <details><summary>Hint 1</summary>Decays multiply, so their exponents add up. Let m be the mean of all dt. What is
# left after n tokens with the step m?</details>
# <details><summary>Hint 2</summary>Solve e^(n m A) = 1/2 for n. Take the logarithm of both sides.</details>


# %% tags=["exercise"]
def half_life(dt, A):
    """dt (length,), A a negative number (both tensors). Returns a number of tokens."""
    return None  # your line here


# %% tags=["solution"]
def half_life(dt, A):
    """dt (length,), A a negative number (both tensors). Returns a number of tokens."""
    return math.log(2) / (dt.mean() * A.abs())


# %%
check.half_life(half_life)

# %% [markdown]
# **The step is the model's own choice.** In older models of this kind $dt$ was fixed. In Mamba a small layer computes
# it from the token. A large step means: forget, and write this down. A step near zero means: never mind this token,
# nothing fades and nothing is written. That is called **selective**.
#
# Here the input is noise with two numbers worth keeping. Watch the two memories.

# %%
generator = torch.Generator().manual_seed(1)
x = torch.randn(60, generator=generator) * 0.7
worth = torch.zeros(60, dtype=torch.bool)
worth[10], worth[35] = True, True
x[worth] = torch.tensor([2.0, -2.0])

fixed = my_memory(x, torch.full((60,), 0.3), A=-1.0)
dt = torch.where(worth, 4.0, 0.01)  # what a model could learn: large where it matters
selective = my_memory(x, dt, A=-1.0) / 4  # a step of 4 also writes four times the number

figure = go.Figure(layout={"xaxis_title": "token", "yaxis_title": "value", "height": 350})
figure.add_scatter(y=x.tolist(), name="input", mode="markers", marker_color="silver")
figure.add_scatter(y=fixed.tolist(), name="every step 0.3", line_color="orange")
figure.add_scatter(y=selective.tolist(), name="selective", line_color="teal")
show(figure)

# %% [markdown]
# The selective memory takes up 2, holds it over the noise, and swaps it for −2. A fixed step leaves a choice of two
# evils: follow the noise, or miss the news.

# %% [markdown]
# ## 2. A memory with addresses
#
# One number is not much. A **head** of Mamba-2 keeps a table of $P$ rows and $N$ columns, still called $h$. Four
# things are new:
#
# - $x_t$ is now a vector of $P$ numbers. (The package calls $P$ `headdim` and $N$ `d_state`.)
# - $B_t$, a vector of $N$ numbers, says **where** to write: it spreads $x_t$ over the columns.
# - $C_t$, a vector of $N$ numbers, says what to **read**: a weighted sum of the columns.
# - $D$, a number, lets $x_t$ pass by the memory.
#
# $$h_t = e^{dt_t A}\, h_{t-1} + dt_t\, x_t B_t^{T} \qquad\qquad y_t = h_t C_t + D\, x_t$$
#
# $x_t B_t^T$ is a table: its entry $(p, n)$ is $x_t[p]\, B_t[n]$. The whole table fades with **one** number,
# $e^{dt_t A}$. That is what makes Mamba-2 fast, as we shall see. $B_t$, $C_t$ and $dt_t$ are computed from the token.
#
# If nothing fades, and addresses do not overlap, such a table is a perfect dictionary:

# %%
P, N = 3, 8
values = torch.randn(4, P, generator=generator)  # four vectors to remember
addresses = torch.eye(N)[:4]  # four vectors with a single 1, each in its own column
h = torch.zeros(P, N)
for value, B in zip(values, addresses):
    h += torch.outer(value, B)  # x B^T
print("written at address 2:", [round(v, 3) for v in values[2].tolist()])
print("read with C = B:     ", [round(v, 3) for v in (h @ addresses[2]).tolist()])

# %% [markdown]
# ### Exercise 2: one step of Mamba-2
#
# Write the two formulas. You are given the old state and what belongs to one token. Return the new state and the
# output. Do not change `h` in place.
#
# <details><summary>Hint 1</summary>Make the new state first, then read it. <code>torch.outer(a, b)</code> makes the
# table of all products a[i] b[j].</details>
# <details><summary>Hint 2</summary><code>torch.exp(dt * A) * h</code> is the faded state. To it comes dt times the
# outer product of x and B. Reading is a product of a matrix and a vector: <code>h @ C</code>.</details>


# %% tags=["exercise"]
def one_step(h, x, dt, A, B, C, D):
    """h (P, N), x (P,), B and C (N,); dt, A and D are numbers. Returns h (P, N) and y (P,)."""
    return None  # your lines here


# %% tags=["solution"]
def one_step(h, x, dt, A, B, C, D):
    """h (P, N), x (P,), B and C (N,); dt, A and D are numbers. Returns h (P, N) and y (P,)."""
    h = torch.exp(dt * A) * h + dt * torch.outer(x, B)
    return h, h @ C + D * x


# %%
check.one_step(one_step)

# %% [markdown]
# The package has this recurrence as `ssd(..., backend="recurrent")`. SSD is short for *state-space duality*; section 4
# says why. It takes several texts and heads at once, so we add an axis for each. We compute in `float64`, numbers of
# sixteen digits: then a difference is a mistake and not rounding.

# %%
from diffuapriel.ops.ssd import ssd


def draw_head(length, P=16, N=8, seed=0, dtype=torch.float64):
    """Random x (length, P), dt (length,), A, B (length, N), C (length, N) and D of one head."""
    g = torch.Generator().manual_seed(seed)
    x, B, C = (torch.randn(length, size, generator=g, dtype=dtype) for size in (P, N, N))
    dt = F.softplus(torch.randn(length, generator=g, dtype=dtype) - 2)  # positive
    return x, dt, torch.tensor(-0.5, dtype=dtype), B, C, torch.tensor(1.0, dtype=dtype)


def package(x, dt, A, B, C, D, backend="recurrent", reverse=False):
    """The package's scan for one text and one head: y (length, P)."""
    several = (x[None, :, None], dt[None, :, None], A[None], B[None, :, None], C[None, :, None])
    return ssd(*several, D[None], backend=backend, reverse=reverse)[0, :, 0]


def same(a, b):
    """Print the largest difference of two results, and stop if it is more than rounding."""
    print(f"largest difference {(a - b).abs().max().item():.0e}")
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


# %%
head = draw_head(200)
x, dt, A, B, C, D = head
y = package(*head)

if check.one_step(one_step):
    h, outputs = torch.zeros(16, 8, dtype=torch.float64), []
    for t in range(200):
        h, out = one_step(h, x[t], dt[t], A, B[t], C[t], D)
        outputs.append(out)
    same(torch.stack(outputs), y)
    print("Your step, 200 times, is the package's recurrence.")
else:
    print("With your step from exercise 2, this cell would run a text of 200 tokens.")

# %% [markdown]
# This view is how a Mamba *writes* from left to right: a token costs the same work however long the text is, and all
# that must be kept is one table a head. Our models fill in blanks instead, so they read whole texts, again and again.
# For that, a loop over tokens is the worst program one can write: each turn is tiny and must wait for the one before.

# %% [markdown]
# ## 3. The same as a convolution
#
# Let $dt$, $B$ and $C$ be the same at every token, for a moment. Then an input that is $j$ tokens old has always faded
# by the same amount, and what it still adds to the output is
#
# $$K_j = (C \cdot B)\; dt\; e^{j\, dt\, A}$$
#
# times itself. These numbers are a **kernel**, and the output is a convolution, the sum over all ages:
#
# $$y_t = \sum_{j \ge 0} K_j\, x_{t-j} + D\, x_t$$


# %%
def my_convolution(x, dt, A, B, C, D):
    """For numbers dt, A, D and vectors B, C (N,) that stay: y (length, P) from x (length, P)."""
    length = len(x)
    K = (C @ B) * dt * torch.exp(torch.arange(length) * dt * A)  # (length,), by age
    past = F.pad(x.T[:, None], (length - 1, 0))  # (P, 1, zeros and then the text)
    y = F.conv1d(past, K.flip(0)[None, None])  # the oldest comes first
    return y[:, 0].T + D * x


dt0, B0, C0 = dt[0], B[0], C[0]  # those of the first token, for all tokens
stays = (x, dt0.expand(200), A, B0.expand(200, -1), C0.expand(200, -1), D)
same(my_convolution(x, dt0, A, B0, C0, D), package(*stays))

figure = go.Figure(layout={"xaxis_title": "age in tokens", "yaxis_title": "share left"})
for step in (0.05, 0.2, 1.0):
    kernel = torch.exp(torch.arange(60) * step * A)
    figure.add_scatter(y=kernel.tolist(), name=f"dt = {step}")
figure.update_layout(height=320, title="The shape of the kernel")
show(figure)

# %% [markdown]
# A convolution needs no loop over tokens. All outputs can be computed at once, and for long texts the fast Fourier
# transform does it in about length · log(length) operations. The first models of this family (S4) were trained so.
#
# But the kernel must be the same everywhere, and *selective* means that it is not. If steps differ, the age alone does
# not tell how much is left. So Mamba gave up the convolution, and Mamba-2 found something better.

# %% [markdown]
# ## 4. The same as attention
#
# Put the recurrence into itself, until no state is left. Token $u$ writes $dt_u\, x_u B_u^T$. This fades at each later
# token up to $t$, and then $C_t$ reads it:
#
# $$y_t = \sum_{u \le t} L_{tu}\; (C_t \cdot B_u)\; dt_u\, x_u \;+\; D\, x_t
# \qquad\text{with}\qquad L_{tu} = e^{dt_{u+1} A} \cdots e^{dt_t A}$$
#
# All products of a $C_t$ and a $B_u$ stand in the matrix $C B^T$. So the whole text is one line, where ∘ multiplies
# entry by entry:
#
# $$Y = \big(L \circ C B^T\big)\,(dt\, X) + D\,X$$
#
# Compare attention: $C$ is what there is called the *query*, $B$ the *key*, $X$ the *value*. There $L$ is a mask of
# ones and zeros, so that no token sees the future. Here the ones fade with the distance. (And there is no softmax.)
# That a recurrence and such a matrix are the same is the **state-space duality**.
#
# The product of decays is the exponential of a sum. With the running sum $s_t = dt_1 A + \dots + dt_t A$ it is
# $L_{tu} = e^{s_t - s_u}$.


# %%
def my_decay(dt, A):
    """L (length, length): what is left at token t of what token u wrote; 0 where u is later than t."""
    s = torch.cumsum(dt * A, 0)
    future = torch.ones(len(dt), len(dt), dtype=torch.bool).triu(1)
    return torch.exp((s[:, None] - s[None, :]).masked_fill(future, -math.inf))


def my_quadratic(x, dt, A, B, C, D):
    """The scan as one matrix, (length, length), times the inputs."""
    M = my_decay(dt, A) * (C @ B.T)
    return M @ (dt[:, None] * x) + D * x


same(my_quadratic(*head), y)

# %% [markdown]
# Two traps are avoided in `my_decay`. Without the running sum, as a quotient of running *products*, a long text gives 0
# divided by 0. And where $u$ is later than $t$ the exponent is positive. There the exponential may overflow, and
# infinity times 0 is no number. So minus infinity is put there *before* the exponential.

# %%
many, fast = torch.full((1000,), 2.0), torch.tensor(-1.0)  # a long text, large steps
left = torch.exp(many * fast).cumprod(0)
s = torch.cumsum(many * fast, 0)
attempts = {
    "quotient of products": (left[:, None] / left[None, :]).tril(),
    "mask after the exponential": torch.exp(s[:, None] - s[None, :])
    * torch.ones(1000, 1000).tril(),
    "my_decay": my_decay(many, fast),
}
for how, L in attempts.items():
    print(f"{how:27} {int(L.isnan().sum()):8,} of {L.numel():,} entries are not a number")

# %% [markdown]
# **Predict, then run.** The next cell draws $L$ twice: for a text whose steps are all equal, and for one whose steps
# differ, with a very large one at token 12. In which of them is each diagonal, from top left to bottom right, of one
# color?
#
# - **A** · only where the steps are equal
# - **B** · in both: the distance is the same along a diagonal
# - **C** · in neither

# %%
guess_2 = predict("A", "B", "C")
guess_2


# %%
def heatmap(matrix, title):
    """A matrix as colored squares; the first row is on top."""
    labels = [str(t) for t in range(len(matrix))]
    squares = go.Heatmap(z=matrix.flip(0).tolist(), x=labels, y=labels[::-1], colorscale="Viridis")
    figure = go.Figure(squares, layout={"title": title, "height": 430, "width": 560})
    figure.update_layout(xaxis_title="written by token u", yaxis_title="read by token t")
    show(figure)


equal, differ = torch.full((24,), 0.2), dt[:24].float().clone()
differ[12] = 5.0
striped = []
for steps, title in ((equal, "L, equal steps"), (differ, "L, selective steps")):
    L = my_decay(steps, A.float())
    heatmap(L, title)
    striped.append(all(L.diagonal(-k).std() < 1e-6 for k in range(23)))
right = {(True, False): "A", (True, True): "B", (False, False): "C"}[tuple(striped)]
guess_2.reveal(right, "Only if all steps are equal does the age alone tell how much is left.")

# %% [markdown]
# Equal diagonals *are* the convolution of section 3: only the age counts. With selective steps the matrix has edges.
# From row 12 down, everything left of column 12 is dark: token 12 has all but wiped the memory. So a head can begin
# afresh at a full stop. And this is the matrix that a layer applies, $L \circ C B^T$:

# %%
heatmap((my_decay(differ, A.float()) * (C @ B.T)[:24, :24].float()), "L ∘ C Bᵀ")

# %% [markdown]
# ### Exercise 3: reading backwards
#
# Our models read in both directions. A second scan starts at the **last** token and goes to the first; its state meets
# the tokens in the opposite order. Give its $L$: entry $(t, u)$ is what is left at token $t$ of what token $u$ wrote,
# for $u \ge t$, and 0 elsewhere. Each token multiplies the state by its own $e^{dt A}$, then writes, as before.
#
# <details><summary>Hint 1</summary>It is not the transpose of <code>my_decay(dt, A)</code>. From token 2 back to token
# 0 the state fades at token 1 and at token 0. From token 0 on to token 2 it fades at token 1 and at token 2.</details>
# <details><summary>Hint 2</summary>A text read backwards is the reversed text read forwards.
# <code>dt.flip(0)</code> reverses it. Then rows and columns of the result must be turned back, both.</details>


# %% tags=["exercise"]
def reverse_decay(dt, A):
    """dt (length,), A a negative number. Returns L (length, length) of the scan from right to left."""
    return None  # your lines here


# %% tags=["solution"]
def reverse_decay(dt, A):
    """dt (length,), A a negative number. Returns L (length, length) of the scan from right to left."""
    return my_decay(dt.flip(0), A).flip(0, 1)


# %%
check.reverse_decay(reverse_decay)

# %% [markdown]
# The package scans backwards with `reverse=True`. With your matrix, the one line from above must give the same.

# %%
if check.reverse_decay(reverse_decay):
    backwards = (reverse_decay(dt, A) * (C @ B.T)) @ (dt[:, None] * x) + D * x
    same(backwards, package(*head, reverse=True))
else:
    print("With your matrix from exercise 3, this cell would compare the two.")

# %% [markdown]
# ## 5. What the views cost
#
# Count multiplications, for one head and a text of $n$ tokens.
#
# - **Recurrence.** Each token fades the table, writes to it and reads it: 3 $P N$. All tokens: $3 n P N$. To be kept:
#   one table, $P N$ numbers.
# - **Quadratic form.** $C B^T$ takes $n^2 N$, the product with $L$ another $n^2$, and the product with the inputs
#   $n^2 P$. Together $n^2 (N + P + 1)$. To be kept: the matrix, $n^2$ numbers.


# %%
def count_recurrence(n, P, N):
    return 3 * n * P * N, P * N


def count_quadratic(n, P, N):
    return n * n * (N + P + 1), n * n


print("          recurrence               quadratic form")
print(" tokens   operations   to be kept   operations   to be kept")
for n in (64, 1_024, 16_384):
    numbers = (*count_recurrence(n, 64, 64), *count_quadratic(n, 64, 64))
    print(f"{n:7,} " + " ".join(f"{value:12,.1e}" for value in numbers))
equal = 3 * 64 * 64 / (64 + 64 + 1)
print(f"\nequal operations at about {equal:.0f} tokens (P = N = 64)")

# %% [markdown]
# For a short text the matrix is cheaper, for a long one the recurrence. But the recurrence is a chain of tiny steps,
# and processors like large matrix products. Can one have both? Yes: short pieces by the matrix, and the recurrence from
# piece to piece.

# %% [markdown]
# ## 6. The chunked scan
#
# Cut the text into **chunks** of $q$ tokens. Let $H$ be the state that enters a chunk, and $s_t$ the running sum of
# $dt\,A$ *from the start of the chunk*; $s_{end}$ is its last value. Two things reach token $t$:
#
# 1. What was written inside the chunk, up to $t$. That is the quadratic form, of $q$ by $q$.
# 2. What came before. It is all in $H$, has faded by $e^{s_t}$, and is read by $C_t$.
#
# And the state that leaves the chunk is $H$, faded by $e^{s_{end}}$, plus what the chunk itself has written.


# %%
def my_chunked(x, dt, A, B, C, D, q=32):
    """The scan in chunks of q tokens; shapes as before."""
    H, outputs = x.new_zeros(x.shape[1], B.shape[1]), []  # H (P, N)
    for part in (slice(i, i + q) for i in range(0, len(x), q)):
        B_, C_, written = B[part], C[part], dt[part, None] * x[part]
        s = torch.cumsum(dt[part] * A, 0)
        inside = (my_decay(dt[part], A) * (C_ @ B_.T)) @ written
        before = torch.exp(s)[:, None] * (C_ @ H.T)
        outputs.append(inside + before + D * x[part])
        to_the_end = torch.exp(s[-1] - s)[:, None]  # how much of each token's write is left
        H = torch.exp(s[-1]) * H + (to_the_end * written).T @ B_
    return torch.cat(outputs)


for q in (1, 7, 32, 200):
    print(f"chunks of {q:3}: ", end="")
    same(my_chunked(*head, q=q), y)
print("the package: ", end="")
same(package(*head, backend="chunked"), y)

# %% [markdown]
# Note the two ends. With chunks of one token this *is* the recurrence; with one chunk for all tokens it *is* the
# quadratic form.
#
# A model is trained by gradients. PyTorch finds ours by itself. The package's chunked scan has a backward pass written
# by hand, which is faster. Do they agree?

# %%
weights = torch.randn(200, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def gradients(scan):
    """Of one number made from all outputs, for x, dt, A, B, C and D."""
    leaves = [value.clone().requires_grad_() for value in head]
    return torch.autograd.grad((scan(*leaves) * weights).sum(), leaves)


recurrence = gradients(package)
for name, scan in (
    ("my_quadratic", my_quadratic),
    ("my_chunked", my_chunked),
    ("the package's chunked scan", lambda *leaves: package(*leaves, backend="chunked")),
):
    print(f"{name}:")
    for letter, ours, theirs in zip(("x", "dt", "A", "B", "C", "D"), gradients(scan), recurrence):
        print(f"    {letter:3}", end="")
        same(ours, theirs)

# %% [markdown]
# ### Exercise 4: hand the state on
#
# In `my_chunked` each chunk waits for the one before. But nearly all the work of a chunk does not need $H$: the
# products inside, and what the chunk writes. So a fast program does this for **all chunks at once**. What is left to do
# one after the other is little: hand the state from chunk to chunk. Write that part.
#
# `writes[c]` is what chunk c adds to the state, `decays[c]` its $e^{s_{end}}$. Give the state that **enters** each
# chunk. Zero enters the first.
#
# <details><summary>Hint 1</summary>It is the recurrence of section 1, with chunks in place of tokens: the state that
# leaves chunk c is decays[c] times the one that entered it, plus writes[c].</details>
# <details><summary>Hint 2</summary>Keep a list. In each turn of a loop, <b>first</b> append the state, then make the
# new one. At the end, <code>torch.stack</code> the list.</details>


# %% tags=["exercise"]
def carry(writes, decays):
    """writes (chunks, P, N), decays (chunks,). Returns the entering states, (chunks, P, N)."""
    return None  # your lines here


# %% tags=["solution"]
def carry(writes, decays):
    """writes (chunks, P, N), decays (chunks,). Returns the entering states, (chunks, P, N)."""
    entering, H = [], torch.zeros_like(writes[0])
    for write, decay in zip(writes, decays):
        entering.append(H)
        H = decay * H + write
    return torch.stack(entering)


# %%
check.carry(carry)

# %% [markdown]
# With it, the scan has no loop but yours. The first axis is now the chunk, so `@` multiplies all chunks at once.


# %%
def all_at_once(x, dt, A, B, C, D, q=25):
    """The chunked scan with your carry; the length must be a multiple of q."""
    x, dt, B, C = (value.unflatten(0, (-1, q)) for value in (x, dt, B, C))  # (chunks, q, ...)
    s = torch.cumsum(dt * A, 1)
    future = torch.ones(q, q, dtype=torch.bool).triu(1)
    L = torch.exp((s[:, :, None] - s[:, None, :]).masked_fill(future, -math.inf))
    written = dt[..., None] * x
    inside = (L * (C @ B.mT)) @ written
    writes = (torch.exp(s[:, -1:] - s)[..., None] * written).mT @ B  # (chunks, P, N)
    H = carry(writes, torch.exp(s[:, -1]))
    before = torch.exp(s)[..., None] * (C @ H.mT)
    return (inside + before + D * x).flatten(0, 1)


if check.carry(carry):
    same(all_at_once(*head), y)
    print("This is the package's chunked scan, for one head.")
else:
    print("With your carry from exercise 4, this cell would run all chunks at once.")

# %% [markdown]
# Count again. Inside the chunks each token is compared with $q$ others: $q (N + P + 1)$ a token. Writing and reading
# the state takes $2 P N$ a token. With $q$ fixed, the whole is **linear** in the length. To be kept: one small matrix
# and one state a chunk.


# %%
def count_chunked(n, P, N, q=32):
    return n * q * (N + P + 1) + 2 * n * P * N, n * q + n // q * P * N


lengths = [64 * 2**i for i in range(9)]
ways = {"recurrence": count_recurrence, "quadratic": count_quadratic, "chunked": count_chunked}
colors = {"recurrence": "orange", "quadratic": "crimson", "chunked": "teal"}
figure = go.Figure(layout={"xaxis_title": "tokens", "yaxis_title": "operations", "height": 380})
for name, count in ways.items():
    operations = [count(n, 64, 64)[0] for n in lengths]
    line = {"color": colors[name], "dash": "dot" if name == "chunked" else "solid"}
    figure.add_scatter(x=lengths, y=operations, name=name, line=line)
figure.update_xaxes(type="log").update_yaxes(type="log")
show(figure)

# %% [markdown]
# With these sizes the chunked scan has as many operations as the recurrence: the two lines lie on each other.
#
# **Predict, then run.** Operations are not time. We let all three run on texts of up to 4,096 tokens. On the longest
# one, which is the fastest on this machine?
#
# - **A** · the recurrence: it has the fewest operations
# - **B** · the quadratic form: it is two large matrix products, what processors do best
# - **C** · the chunked scan

# %%
guess_3 = predict("A", "B", "C")
guess_3

# %%
lengths = [64 * 2**i for i in range(3 if QUICK else 7)]
scans = {
    "recurrence": package,
    "quadratic": my_quadratic,
    "chunked": lambda *head: package(*head, backend="chunked"),
}
milliseconds = {name: [] for name in scans}
for n in tqdm(lengths):
    one = draw_head(n, P=64, N=64, dtype=torch.float32)
    for name, scan in scans.items():
        runs = []
        for _ in range(4):  # the best of four: what else the machine did only adds
            began = time.perf_counter()
            scan(*one)
            runs.append(1000 * (time.perf_counter() - began))
        milliseconds[name].append(min(runs))

figure = go.Figure(layout={"xaxis_title": "tokens", "yaxis_title": "milliseconds", "height": 380})
for name, taken in milliseconds.items():
    figure.add_scatter(x=lengths, y=taken, name=name, line_color=colors[name], mode="lines+markers")
figure.update_xaxes(type="log").update_yaxes(type="log")
show(figure)
fastest = min(scans, key=lambda name: milliseconds[name][-1])
for name, taken in milliseconds.items():
    print(
        f"{name:10} {taken[-1]:9.2f} ms at {n:,} tokens, {taken[-1] / taken[-2]:.1f} x half the text"
    )
guess_3.reveal("ABC"[list(scans).index(fastest)], f"Fastest at {n:,} tokens: {fastest}.")

# %% [markdown]
# Compare the slopes. For long texts, the recurrence and the chunks take about twice as long for twice the text, at very
# different heights. The quadratic form begins low and climbs: four times for each doubling, and more where the matrix
# outgrows the processor's own fast memory. For short texts it may well win, as a Transformer may, for the same reason.
# Lesson 06 makes a race of it.
#
# From here on we use the package's scan, in which you know each line.

# %% [markdown]
# ## 7. What a head remembers
#
# The bundled model `tales-diffuapriel` has Mamba-2 layers, with heads that read forward and heads that read in reverse.
# Each has its own $A$, and computes its own $dt$ from each token. First, let the model write the text that we shall
# watch it read.

# %%
from diffuapriel import Canvas, Sampler, SamplerConfig, get_schedule, load_checkpoint
from diffuapriel.trace.player.widget import Player

model, tokenizer = load_checkpoint("tales-diffuapriel")
options = SamplerConfig(strategy="low_confidence", steps=4 if QUICK else 72, top_p=0.9)
writer = Sampler(options, get_schedule("log-linear"), tokenizer.mask_id)
canvas = Canvas.from_text("Mia", tokenizer, length=72)
trace = Player().record(writer, model, canvas, tokenizer, model="tales-diffuapriel")

# %% [markdown]
# `head_half_lives` lets the model read the text and gives the half-life of every head, from the steps that it took. It
# wants the noise level of the text, which is 0 here: nothing is masked. `step_sizes` gives the steps themselves. To see
# what goes into a layer we hang a *hook* on it, a function that PyTorch calls each time.

# %%
from diffuapriel.interpret.half_life import head_half_lives, step_sizes


@torch.no_grad()
def steps_taken(ids):
    """The dt of every head on ids (length,): (layers, length, 2 directions, heads)."""
    found = []

    def note(mixer, inputs):
        found.append(step_sizes(mixer, inputs[0])[0])

    hooks = [block.mixer.register_forward_pre_hook(note) for block in model.blocks]
    model.hidden(ids[None], torch.zeros(1))
    for hook in hooks:
        hook.remove()
    return torch.stack(found)


ids = torch.tensor(trace.final)
memory = torch.stack([layer.half_life for layer in head_half_lives(model, ids, 0.0)])
rates = torch.stack([-block.mixer.A_log.detach().exp() for block in model.blocks])  # A
steps = steps_taken(ids)
print("half-lives (layers, directions, heads):", tuple(memory.shape))
if check.half_life(half_life):
    mine = half_life(steps[3, :, 0, 5], rates[3, 0, 5])
    print(f"layer 3, forward head 5: yours {float(mine):.3f}, the package's {memory[3, 0, 5]:.3f}")
    torch.testing.assert_close(torch.as_tensor(mine).float(), memory[3, 0, 5])

# %%
figure = go.Figure(layout={"xaxis_title": "head, by its memory", "height": 380})
for direction, name in enumerate(("forward", "reverse")):
    ordered = memory[:, direction].flatten().sort().values.tolist()
    figure.add_scatter(y=ordered, name=name, mode="markers")
figure.update_yaxes(type="log", title="half-life in tokens")
figure.add_hline(y=len(ids), line_dash="dash", annotation_text="the whole text")
show(figure)
print(f"Of the {memory.numel()} heads")
for low, high in ((0, 5), (5, 20), (20, len(ids)), (len(ids), math.inf)):
    share = ((memory >= low) & (memory < high)).float().mean().item()
    until = "or more" if high == math.inf else f"to {high}"
    print(f"{share:4.0%} have a half-life of {low} {until} tokens")

# %% [markdown]
# Nobody told the heads how far to look. They began with random rates, and training spread them out: some hold a word or
# two, some a sentence, and a few the whole story. A model needs both: the article *a* matters for the next word, a name
# for the rest of the text.
#
# ### The steps of one head
#
# A half-life is an average. Selective heads take large steps at some tokens and small ones at others. A full stop would
# be a good place to forget. Is there a forward head that does? We let the model read some stories, and search for the
# head whose steps grow most at a full stop.

# %%
from diffuapriel.tales import language as tales

rng = random.Random(3)
stories = [
    torch.tensor(tokenizer.encode(tales.generate(3, rng))) for _ in range(2 if QUICK else 20)
]
read = torch.cat([steps_taken(story) for story in stories], dim=1)[:, :, 0]  # forward heads
stop = torch.cat(stories) == tokenizer.encode(".")[0]  # where a full stop stands
fade = read * rates[:, None, 0].abs()  # dt |A|, (layers, tokens, heads)
growth = fade[:, stop].mean(1) / fade[:, ~stop].mean(1)  # (layers, heads)
layer, number = divmod(growth.argmax().item(), growth.shape[1])
after = [torch.exp(-fade[layer, where, number].mean()).item() for where in (stop, ~stop)]
print(f"layer {layer}, forward head {number}: {growth.max():.1f} times as large at a full stop")
print(f"it keeps {after[0]:.0%} of its memory there, and {after[1]:.0%} at another token")

# %% [markdown]
# Here is this head beside two others, on the beginning of a story: the one with the longest memory and the one with the
# shortest. Yellow is kept, dark is forgotten.

# %%
story = stories[0][:36]
lives = math.log(2) / fade.mean(1)  # half-lives on these stories, (layers, heads)
words = [f"{i} {word.strip()}" for i, word in enumerate(tokenizer.token_strings(story.tolist()))]
kept = torch.exp(steps_taken(story)[:, :, 0] * rates[:, None, 0])  # exp(dt A), (layers, 36, heads)
chosen = {
    "shortest memory": divmod(lives.argmin().item(), lives.shape[1]),
    "longest memory": divmod(lives.argmax().item(), lives.shape[1]),
    "forgets at full stops": (layer, number),
}
squares = go.Heatmap(
    z=[kept[l, :, h].tolist() for l, h in chosen.values()],
    x=words,
    y=[f"{name} ({l}.{h})" for name, (l, h) in chosen.items()],
    zmin=0,
    zmax=1,
    colorscale="Viridis",
)
figure = go.Figure(squares, layout={"title": "Share of the memory that survives a token"})
show(
    figure,
    alt="three heads as rows, the tokens of a story as columns, bright where memory survives",
)

# %% [markdown]
# The long memory hardly changes. The short one loses most of what it knows every few tokens. The head in the top row
# holds on, and dims at full stops and at some tokens besides.
#
# Be careful with such findings. We searched many heads for one that does what we had in mind, and among so many one
# will look the part. What it is *for* is a harder question.

# %% [markdown]
# ## What you built
#
# - **The recurrence**: a table that fades by one number, with B to write and C to read. Little work, but in a chain.
# - **The convolution**: the same where nothing depends on the token. Mamba's steps do.
# - **The dual**: the same as a masked, fading attention matrix. Quick for short texts, quadratic for long ones.
# - **The chunked scan**: the matrix inside chunks, the recurrence between them. Linear, and made of matrix products.
#
# A head remembers for about 1/(dt |A|) tokens, and chooses dt at each of them. Lesson 03 puts heads of both directions
# together and makes a model of them.
#
# ## Going further
#
# - Which chunk length is the fastest here? Time `my_chunked` for q from 8 to 512, and explain both ends.
# - Give `my_chunked` an initial state, and check that a text in two halves gives what the whole text gives.
# - Let each *row* of the state have a rate of its own, as in the first Mamba. Which of the four views breaks?
#
# **Papers.** Mamba-2 and the duality, [arXiv:2405.21060](https://arxiv.org/abs/2405.21060). Selective state spaces, the
# first Mamba: [arXiv:2312.00752](https://arxiv.org/abs/2312.00752). The convolution view, S4:
# [arXiv:2111.00396](https://arxiv.org/abs/2111.00396). Attention as a recurrence, linear attention:
# [arXiv:2006.16236](https://arxiv.org/abs/2006.16236).
