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
# A Transformer compares every token with every other token. Mamba reads a text with a small memory that fades.
# Surprisingly, both are the same computation, seen from two sides. In this lesson you build the memory of Mamba-2,
# called a *head*, in four ways that agree to ten digits. Then you look at what the heads of a trained model remember.
#
# **You will be able to**
#
# - write the recurrence of Mamba-2, and say what A, B, C, D and dt are for;
# - turn it into a convolution, and into an attention matrix;
# - count what each of these three views costs, and explain why none of them is used as it is;
# - write the chunked scan, the one that is used;
# - say how many tokens a head remembers, and what *selective* means.
#
# **You need** PyTorch tensors, matrix products and the exponential function. You do not need lesson 01.
#
# | part | minutes |
# |---|---|
# | 1. A leaky memory | 12 |
# | 2. A memory with addresses | 13 |
# | 3. The same as a convolution | 6 |
# | 4. The same as attention | 15 |
# | 5. What the views cost | 5 |
# | 6. The chunked scan | 22 |
# | 7. What a head remembers | 10 |
#
# {{measured}}
#
# Now and then you are asked to **predict, then run**: the cell below the question shows buttons. Click a letter before
# you run the cell after it. Five **exercises** check your answer, and the lesson then runs *your* code; where you have
# none, ours takes its place.

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
# ## 1. A leaky memory
#
# To read a long text token by token, we want a memory that does not grow with the text. The smallest such memory is a
# single number, the **state** $h$. At each token it fades a little, and something is added:
#
# $$h_t = e^{dt_t A}\, h_{t-1} + dt_t\, x_t$$
#
# - $t$ counts the tokens. (It is not the time *t* of lesson 01.) Before the first token, the state is 0.
# - $x_t$ is the **input** at token $t$, here a number.
# - $A$ is the **decay rate**: one negative number, the same at every token.
# - $dt_t$ is the **step size**: a positive number. Think of it as the time that token $t$ takes. (In the papers: Δ.)
#
# The factor $e^{dt_t A}$ is between 0 and 1. It is the share of the memory that survives token $t$.
#
# Where does it come from? From a **state space**: a quantity $h$ that changes in continuous time, $h' = A h + x$. A
# heated room is one: without heating its temperature difference to the outside fades at the rate $A$, and the heating
# $x$ raises it. If $x$ stays constant for a time $dt$, the exact solution fades by $e^{dt\,A}$ and adds about
# $dt\, x$: the longer the token lasts, the more it fades and the more it writes. That is why $dt$ stands in both
# places.


# %%
def my_memory(x, dt, A):
    """x and dt (length,), A a negative number. Returns the state after each token, (length,)."""
    h, states = torch.zeros(()), []
    for t in range(len(x)):
        h = torch.exp(dt[t] * A) * h + dt[t] * x[t]
        states.append(h)
    return torch.stack(states)


x = torch.zeros(60)
x[5], x[25] = 1.0, 1.0  # silence, except for two signals
figure = go.Figure(layout={"xaxis_title": "token", "yaxis_title": "state", "height": 350})
for A in (-0.02, -0.1, -0.5):
    figure.add_scatter(y=my_memory(x, torch.ones(60), A).tolist(), name=f"A = {A}")
show(figure)

# %% [markdown]
# Each signal enters the memory at once and then leaks out. The rate decides how fast. A state that hardly fades still
# holds the first signal when the second one arrives.
#
# **Predict, then run.** A memory keeps 99 % at each token. After how many tokens is half of it gone?
#
# - **A** · 50
# - **B** · 69
# - **C** · 100
# - **D** · never, because something is always left

# %%
guess_1 = predict("A", "B", "C", "D", name="02.1")
guess_1

# %%
left, tokens = 1.0, 0
while left > 0.5:
    left, tokens = left * 0.99, tokens + 1
print(f"after {tokens} tokens, {left:.3f} is left")
guess_1.reveal({50: "A", 69: "B", 100: "C"}[tokens])

# %% [markdown]
# So we can measure **in tokens** how far back a memory reaches. If every step is $dt$, then $e^{n\,dt\,A}$ is left
# after $n$ tokens. After −1/(dt A) tokens that is 1/e, a little more than a third. After the **half-life** it is one
# half.
#
# ### Exercise 1: the half-life of a memory
#
# *May · easy · 4 minutes*
#
# The steps of a real head differ from token to token. Each token multiplies the memory by its own $e^{dt_t A}$. Return
# the half-life: the number of tokens after which one half would be left if every step were the *mean* of these steps.
#
# <details><summary>Hint 1: the idea</summary>Decays multiply, so their exponents add up. Let m be the mean of all dt.
# What is left after n tokens with the step m?</details>
# <details><summary>Hint 2: the shape</summary>Solve e^(n m A) = 1/2 for n. Take the logarithm of both sides; A is
# negative.</details>
# <details><summary>Hint 3: the code</summary>n is <code>math.log(2)</code> divided by <code>dt.mean()</code> times the
# absolute value of A.</details>


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
# it from the token. A large step means: forget, and write this down. A step near zero means: ignore this token; nothing
# fades and nothing is written. Such a memory is called **selective**.
#
# In the next cell the input is noise, with two numbers worth keeping. Watch the two memories.

# %%
generator = torch.Generator().manual_seed(1)
x = torch.randn(60, generator=generator) * 0.7
worth = torch.zeros(60, dtype=torch.bool)
worth[10], worth[35] = True, True
x[worth] = torch.tensor([2.0, -2.0])

fixed = my_memory(x, torch.full((60,), 0.3), A=-1.0)
dt = torch.where(worth, 4.0, 0.01)  # what a model could learn: large where it matters
selective = my_memory(x, dt, A=-1.0) / 4  # a token that lasts 4 also writes 4 times as much

figure = go.Figure(layout={"xaxis_title": "token", "yaxis_title": "value", "height": 350})
figure.add_scatter(y=x.tolist(), name="input", mode="markers", marker_color="silver")
figure.add_scatter(y=fixed.tolist(), name="every step 0.3", line_color="orange")
figure.add_scatter(y=selective.tolist(), name="selective", line_color="teal")
show(figure)

# %% [markdown]
# The selective memory stores 2, holds it through the noise, and replaces it by −2. With a fixed step there are only two
# bad choices: follow the noise, or miss the numbers that matter.

# %% [markdown]
# ## 2. A memory with addresses
#
# One number cannot hold much. A **head** of Mamba-2 keeps a table of $P$ rows and $N$ columns, still called $h$. Four
# things are new:
#
# - $x_t$ is now a vector of $P$ numbers. (The package calls $P$ `headdim` and $N$ `d_state`.)
# - $B_t$, a vector of $N$ numbers, says **where** to write: it spreads $x_t$ over the columns.
# - $C_t$, a vector of $N$ numbers, says what to **read**: a weighted sum of the columns.
# - $D$, a number, lets $x_t$ bypass the memory.
#
# $$h_t = e^{dt_t A}\, h_{t-1} + dt_t\, x_t B_t^{T} \qquad\qquad y_t = h_t C_t + D\, x_t$$
#
# $x_t B_t^T$ is a table: its entry $(p, n)$ is $x_t[p]\, B_t[n]$. The whole table fades by **one** factor, $e^{dt_t
# A}$. This is what makes Mamba-2 fast, as you will see. $B_t$, $C_t$ and $dt_t$ are computed from the token.
#
# If nothing fades and the addresses do not overlap, such a table is a perfect dictionary:

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
# *Must · easy · 5 minutes*
#
# Write the two formulas. You are given the old state and the values of one token. Return the new state and the output.
# Do not change `h` in place.
#
# <details><summary>Hint 1: the idea</summary>Make the new state first, then read it: the output contains what this
# token has just written.</details>
# <details><summary>Hint 2: the shape</summary><code>torch.outer(x, B)</code> is the table (P, N) of all products x[p]
# B[n]; <code>h @ C</code> reads it, (P,).</details>
# <details><summary>Hint 3: the code</summary>The faded state is <code>torch.exp(dt * A) * h</code>. Add <code>dt *
# torch.outer(x, B)</code> to it. The output is the new <code>h @ C</code>, plus <code>D * x</code>.</details>


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
# says why. It takes several texts and heads at once, so we add an axis for each. We compute in `float64`, with sixteen
# digits: then a difference larger than rounding means a mistake.

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
    """Print the largest difference between two results; stop if it is more than rounding."""
    print(f"largest difference {(a - b).abs().max().item():.0e}")
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


# %%
head = draw_head(200)
x, dt, A, B, C, D = head
y = package(*head)

step = use(check.one_step, one_step)
h, outputs = torch.zeros(16, 8, dtype=torch.float64), []
for t in range(200):
    h, out = step(h, x[t], dt[t], A, B[t], C[t], D)
    outputs.append(out)
same(torch.stack(outputs), y)
print("One step, applied 200 times, is the package's recurrence.")

# %% [markdown]
# A Mamba that *writes* from left to right works this way: each token costs the same work however long the text is, and
# the only thing to keep is one table per head. Our models fill in blanks instead, so they read whole texts, again and
# again. For that, a loop over tokens is the worst possible program: each iteration is tiny and must wait for the one
# before.

# %% [markdown]
# ## 3. The same as a convolution
#
# For now, let $dt$, $B$ and $C$ be the same at every token. Then an input that is $j$ tokens old has always faded by
# the same amount. What it adds to the output is the input times
#
# $$K_j = (C \cdot B)\; dt\; e^{j\, dt\, A}$$
#
# These numbers are called a **kernel**, and the output is a convolution, a sum over all ages:
#
# $$y_t = \sum_{j \ge 0} K_j\, x_{t-j} + D\, x_t$$


# %%
def my_convolution(x, dt, A, B, C, D):
    """y (length, P) from x (length, P), for constant numbers dt, A, D and vectors B, C (N,)."""
    length = len(x)
    K = (C @ B) * dt * torch.exp(torch.arange(length) * dt * A)  # (length,), by age
    past = F.pad(x.T[:, None], (length - 1, 0))  # (P, 1, zeros and then the text)
    y = F.conv1d(past, K.flip(0)[None, None])  # the oldest comes first
    return y[:, 0].T + D * x


dt0, B0, C0 = dt[0], B[0], C[0]  # the first token's values, used for all tokens
constant = (x, dt0.expand(200), A, B0.expand(200, -1), C0.expand(200, -1), D)
same(my_convolution(x, dt0, A, B0, C0, D), package(*constant))

figure = go.Figure(layout={"xaxis_title": "age in tokens", "yaxis_title": "share left"})
for step in (0.05, 0.2, 1.0):
    kernel = torch.exp(torch.arange(60) * step * A)
    figure.add_scatter(y=kernel.tolist(), name=f"dt = {step}")
figure.update_layout(height=320, title="The shape of the kernel")
show(figure)

# %% [markdown]
# A convolution needs no loop over tokens. All outputs can be computed at once, and for long texts the fast Fourier
# transform does it in about length · log(length) operations. The first models of this family (S4) were trained this
# way.
#
# But a convolution needs the same kernel everywhere, and a *selective* memory does not have one. If the steps differ,
# the age of an input does not tell how much of it is left. So Mamba gave up the convolution, and Mamba-2 found
# something better.

# %% [markdown]
# ## 4. The same as attention
#
# ![A lower triangle that fades, both triangles, and attention's full square](diagrams/staircase.svg)
#
# Substitute the recurrence into itself until no state is left. Token $u$ writes $dt_u\, x_u B_u^T$. This fades at each
# later token up to $t$, and then $C_t$ reads it:
#
# $$y_t = \sum_{u \le t} L_{tu}\; (C_t \cdot B_u)\; dt_u\, x_u \;+\; D\, x_t
# \qquad\text{with}\qquad L_{tu} = e^{dt_{u+1} A} \cdots e^{dt_t A}$$
#
# The matrix $C B^T$ holds all products of a $C_t$ and a $B_u$. So one line computes the whole text, where ∘ multiplies
# entry by entry:
#
# $$Y = \big(L \circ C B^T\big)\,(dt\, X) + D\,X$$
#
# Compare this with attention: $C$ plays the role of the *query*, $B$ of the *key*, $X$ of the *value*. In causal
# attention $L$ is a mask of ones and zeros, so that no token sees the future. Here the ones fade with distance. (And
# there is no softmax.) That a recurrence and such a matrix are the same thing is called the **state-space duality**.
#
# The product of decays is the exponential of a sum. With the running sum $s_t = dt_1 A + \dots + dt_t A$ it is
# $L_{tu} = e^{s_t - s_u}$.


# %%
def my_decay(dt, A):
    """L (length, length): the share of token u's write that is left at token t; 0 where u > t."""
    s = torch.cumsum(dt * A, 0)
    future = torch.ones(len(dt), len(dt), dtype=torch.bool).triu(1)
    return torch.exp((s[:, None] - s[None, :]).masked_fill(future, -math.inf))


def my_quadratic(x, dt, A, B, C, D):
    """The scan as one matrix (length, length) times the inputs."""
    M = my_decay(dt, A) * (C @ B.T)
    return M @ (dt[:, None] * x) + D * x


same(my_quadratic(*head), y)

# %% [markdown]
# `my_decay` avoids two traps. A quotient of running *products*, instead of a running sum, gives 0 divided by 0 for a
# long text. And where $u$ is later than $t$, the exponent is positive. There the exponential may overflow, and infinity
# times 0 is not a number. So we put minus infinity there *before* taking the exponential.

# %%
many, fast = torch.full((1000,), 2.0), torch.tensor(-1.0)  # a long text with large steps
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
# differ, with a very large step at token 12. In which matrix does each diagonal, from top left to bottom right, have a
# single color?
#
# - **A** · only where the steps are equal
# - **B** · in both: the distance is the same along a diagonal
# - **C** · in neither

# %%
guess_2 = predict("A", "B", "C", name="02.2")
guess_2


# %%
def heatmap(matrix, title):
    """Show a matrix as colored squares, the first row at the top."""
    labels = [str(t) for t in range(len(matrix))]
    most = matrix.abs().max().item()
    signed = {"colorscale": "RdBu", "zmin": -most, "zmax": most}  # white is zero
    scale = signed if matrix.min() < 0 else {"colorscale": "Viridis"}
    squares = go.Heatmap(z=matrix.tolist(), x=labels, y=labels, **scale)
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
guess_2.reveal(right)

# %% [markdown]
# Constant diagonals *are* the convolution of section 3: only the age counts. With selective steps the matrix has edges.
# From row 12 down, everything left of column 12 is dark: token 12 has almost wiped the memory. In this way a head can
# start afresh, for example at a full stop. And this is the matrix that a layer applies, $L \circ C B^T$:

# %%
heatmap((my_decay(differ, A.float()) * (C @ B.T)[:24, :24].float()), "L ∘ C Bᵀ")

# %% [markdown]
# ### Exercise 3: reading backwards
#
# *May · hard · 7 minutes*
#
# Our models read in both directions. A second scan starts at the **last** token and goes to the first, so its state
# meets the tokens in the opposite order. Return its $L$: for $u \ge t$, entry $(t, u)$ is the share of token $u$'s
# write that is left at token $t$; elsewhere it is 0. As before, each token first multiplies the state by its own $e^{dt
# A}$ and then writes.
#
# <details><summary>Hint 1: the idea</summary>Reading a text backwards is the same as reading the reversed text
# forwards. It is not the transpose of <code>my_decay(dt, A)</code>: from token 2 back to token 0 the state fades at
# token 1 and at token 0.</details>
# <details><summary>Hint 2: the shape</summary><code>dt.flip(0)</code> is the reversed text. The matrix of that text
# counts rows and columns from the end.</details>
# <details><summary>Hint 3: the code</summary><code>my_decay(dt.flip(0), A)</code>, with rows and columns flipped:
# <code>.flip(0, 1)</code>.</details>


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
# The package scans backwards with `reverse=True`. With your matrix, the formula from above must give the same result.

# %%
backward_decay = use(check.reverse_decay, reverse_decay)
backwards = (backward_decay(dt, A) * (C @ B.T)) @ (dt[:, None] * x) + D * x
same(backwards, package(*head, reverse=True))

# %% [markdown]
# ## 5. What the views cost
#
# Let us count multiplications for one head and a text of $n$ tokens.
#
# - **Recurrence.** Each token fades the table, writes to it and reads it: 3 $P N$. All tokens: $3 n P N$. Memory: one
#   table, $P N$ numbers.
# - **Quadratic form.** $C B^T$ takes $n^2 N$, the product with $L$ another $n^2$, and the product with the inputs $n^2
#   P$. Together $n^2 (N + P + 1)$. Memory: the matrix, $n^2$ numbers.


# %%
def count_recurrence(n, P, N):
    return 3 * n * P * N, P * N


def count_quadratic(n, P, N):
    return n * n * (N + P + 1), n * n


print("          recurrence               quadratic form")
print(" tokens   operations       memory   operations       memory")
for n in (64, 1_024, 16_384):
    numbers = (*count_recurrence(n, 64, 64), *count_quadratic(n, 64, 64))
    print(f"{n:7,} " + " ".join(f"{value:12,.1e}" for value in numbers))
equal = 3 * 64 * 64 / (64 + 64 + 1)
print(f"\nequal operations at about {equal:.0f} tokens (P = N = 64)")

# %% [markdown]
# For a short text the matrix is cheaper, for a long one the recurrence. But the recurrence is a chain of tiny steps,
# and processors are fastest at large matrix products. Can we have both? Yes: use the matrix inside short pieces, and
# the recurrence from piece to piece.

# %% [markdown]
# ## 6. The chunked scan
#
# ![Four chunks; a state is handed on from one to the next](diagrams/chunks.svg)
#
# Cut the text into **chunks** of $q$ tokens. Let $H$ be the state that enters a chunk, and $s_t$ the running sum of
# $dt\,A$ *from the start of the chunk*; $s_{end}$ is its last value. Two things reach token $t$:
#
# 1. What was written inside the chunk, up to $t$. That is the quadratic form, $q$ by $q$.
# 2. What came before the chunk. All of it is in $H$, has faded by $e^{s_t}$, and is read by $C_t$.
#
# The state that leaves the chunk is $H$, faded by $e^{s_{end}}$, plus what the chunk itself has written: token $t$'s
# write, faded by $e^{s_{end} - s_t}$.
#
# ### Exercise 4: one chunk
#
# *Must · hard · 10 minutes*
#
# Write it: from the state that enters and the tokens of one chunk, the outputs of the chunk and the state that leaves.
#
# <details><summary>Hint 1: the idea</summary>Three lines make the outputs: the quadratic form of section 4 for what
# was written inside, the faded state read by C for what came before, and D x. One line makes the new state.</details>
# <details><summary>Hint 2: the shape</summary><code>s = torch.cumsum(dt * A, 0)</code> is (q,). Inside: a matrix (q,
# q) times <code>dt[:, None] * x</code>, (q, P). Before: <code>C @ H.T</code> is (q, P), and row t is multiplied by
# <code>exp(s[t])</code>. The state is (P, N): an outer product summed over the chunk is <code>a.T @ B</code>, with a
# (q, P).</details>
# <details><summary>Hint 3: the code</summary>With <code>written = dt[:, None] * x</code>: <code>(my_decay(dt, A) * (C
# @ B.T)) @ written</code>, then <code>torch.exp(s)[:, None] * (C @ H.T)</code>. The new state is
# <code>torch.exp(s[-1]) * H + (torch.exp(s[-1] - s)[:, None] * written).T @ B</code>.</details>


# %% tags=["exercise"]
def my_chunk(H, x, dt, A, B, C, D):
    """H (P, N) enters; x (q, P), dt (q,), B and C (q, N). Returns outputs (q, P) and the new H."""
    return None  # your lines here


# %% tags=["solution"]
def my_chunk(H, x, dt, A, B, C, D):
    """H (P, N) enters; x (q, P), dt (q,), B and C (q, N). Returns outputs (q, P) and the new H."""
    s = torch.cumsum(dt * A, 0)
    written = dt[:, None] * x
    inside = (my_decay(dt, A) * (C @ B.T)) @ written
    before = torch.exp(s)[:, None] * (C @ H.T)
    to_the_end = torch.exp(s[-1] - s)[:, None]  # how much of each token's write is left
    leaves = torch.exp(s[-1]) * H + (to_the_end * written).T @ B
    return inside + before + D * x, leaves


# %%
check.chunk(my_chunk)

# %%
chunk = use(check.chunk, my_chunk)


def my_chunked(x, dt, A, B, C, D, q=32):
    """The scan in chunks of q tokens; shapes as before."""
    H, outputs = x.new_zeros(x.shape[1], B.shape[1]), []  # H (P, N)
    for part in (slice(i, i + q) for i in range(0, len(x), q)):
        out, H = chunk(H, x[part], dt[part], A, B[part], C[part], D)
        outputs.append(out)
    return torch.cat(outputs)


for q in (1, 7, 32, 200):
    print(f"chunks of {q:3}: ", end="")
    same(my_chunked(*head, q=q), y)
print("the package: ", end="")
same(package(*head, backend="chunked"), y)

# %% [markdown]
# Note the two extremes. With chunks of one token this *is* the recurrence; with one chunk for all tokens it *is* the
# quadratic form.
#
# Models are trained with gradients. PyTorch derives ours automatically. The package's chunked scan has a hand-written
# backward pass, which is faster. Do they agree?

# %%
weights = torch.randn(200, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def gradients(scan):
    """Gradients of a weighted sum of all outputs, for x, dt, A, B, C and D."""
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
# ### Exercise 5: hand the state on
#
# *May · easy · 5 minutes*
#
# In `my_chunked` each chunk waits for the one before. But most of the work in a chunk does not need $H$: the products
# inside, and what the chunk writes. So a fast program does this work for **all chunks at once**. Only a little must be
# done one chunk after another: hand the state on. Write that part.
#
# `writes[c]` is what chunk c adds to the state, and `decays[c]` is its $e^{s_{end}}$. Return the state that **enters**
# each chunk. The first chunk gets zero.
#
# <details><summary>Hint 1: the idea</summary>It is the recurrence of section 1, with chunks in place of tokens: the
# state that leaves chunk c is decays[c] times the one that entered it, plus writes[c].</details>
# <details><summary>Hint 2: the shape</summary>Keep a list of states (P, N), one for each chunk, and
# <code>torch.stack</code> it at the end. The first one is <code>torch.zeros_like(writes[0])</code>.</details>
# <details><summary>Hint 3: the code</summary>In each iteration of a loop, append the state <b>first</b>, then compute
# the new one: <code>H = decay * H + write</code>.</details>


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
# Now that loop is the only one in the scan. The first axis is the chunk, so `@` multiplies all chunks at once.


# %%
hand_on = use(check.carry, carry)


def all_at_once(x, dt, A, B, C, D, q=25):
    """The chunked scan with your carry; the length must be a multiple of q."""
    x, dt, B, C = (value.unflatten(0, (-1, q)) for value in (x, dt, B, C))  # (chunks, q, ...)
    s = torch.cumsum(dt * A, 1)
    future = torch.ones(q, q, dtype=torch.bool).triu(1)
    L = torch.exp((s[:, :, None] - s[:, None, :]).masked_fill(future, -math.inf))
    written = dt[..., None] * x
    inside = (L * (C @ B.mT)) @ written
    writes = (torch.exp(s[:, -1:] - s)[..., None] * written).mT @ B  # (chunks, P, N)
    H = hand_on(writes, torch.exp(s[:, -1]))
    before = torch.exp(s)[..., None] * (C @ H.mT)
    return (inside + before + D * x).flatten(0, 1)


same(all_at_once(*head), y)
print("This is the package's chunked scan, for one head.")

# %% [markdown]
# Count again. Inside a chunk each token is compared with $q$ tokens: $q (N + P + 1)$ operations per token. Writing and
# reading the state takes $2 P N$ per token. With $q$ fixed, the total is **linear** in the length. Memory: one small
# matrix and one state per chunk.


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
# With these sizes the chunked scan needs as many operations as the recurrence: the two lines coincide.
#
# **Predict, then run.** Operations are not time. We run all three on texts of up to 4,096 tokens. Which one is the
# fastest on this machine for the longest text?
#
# - **A** · the recurrence: it has the fewest operations
# - **B** · the quadratic form: it is two large matrix products, which processors do best
# - **C** · the chunked scan

# %%
guess_3 = predict("A", "B", "C", name="02.3")
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
        for _ in range(4):  # take the best of four: other work on the machine only adds time
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
guess_3.reveal("ABC"[list(scans).index(fastest)], f"Fastest at {n:,} tokens here: {fastest}.")

# %% [markdown]
# Compare the slopes. For long texts, the recurrence and the chunked scan take about twice as long for twice the text,
# at very different heights. The quadratic form starts low and climbs: four times for each doubling, and more once the
# matrix outgrows the processor's cache. For short texts it may win, and so may a Transformer, for the same reason.
# Lesson 06 measures this for whole models.
#
# From here on we use the package's scan. You now know what it computes.

# %% [markdown]
# ## 7. What a head remembers
#
# The bundled model `tales-diffuapriel` has Mamba-2 layers, with heads that read forward and heads that read in reverse.
# Each has its own $A$ and computes its own $dt$ from each token. First, let the model write the text that we then watch
# it read.

# %%
from diffuapriel import Canvas, Sampler, SamplerConfig, get_schedule, load_checkpoint
from diffuapriel.trace.player.widget import Player

model, tokenizer = load_checkpoint("tales-diffuapriel")
options = SamplerConfig(strategy="low_confidence", steps=4 if QUICK else 72, top_p=0.9)
writer = Sampler(options, get_schedule("log-linear"), tokenizer.mask_id)
canvas = Canvas.from_text("Mia", tokenizer, length=72)
trace = Player().record(writer, model, canvas, tokenizer, model="tales-diffuapriel")

# %% [markdown]
# `head_half_lives` lets the model read the text and returns the half-life of every head, computed from the steps it
# actually took. It needs the noise level of the text, which is 0 here: nothing is masked. `step_sizes` returns the
# steps themselves. To see what goes into a layer, we attach a *hook* to it: a function that PyTorch calls each time the
# layer runs.

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
half_lives = torch.stack([layer.half_life for layer in head_half_lives(model, ids, 0.0)])
rates = torch.stack([-block.mixer.A_log.detach().exp() for block in model.blocks])  # A
steps = steps_taken(ids)
print("half-lives (layers, directions, heads):", tuple(half_lives.shape))
my_half_life = use(check.half_life, half_life)
mine = my_half_life(steps[3, :, 0, 5], rates[3, 0, 5])
print(f"layer 3, forward head 5: {float(mine):.3f}, the package's {half_lives[3, 0, 5]:.3f}")
torch.testing.assert_close(torch.as_tensor(mine).float(), half_lives[3, 0, 5])

# %%
figure = go.Figure(layout={"xaxis_title": "heads, sorted by half-life", "height": 380})
for direction, name in enumerate(("forward", "reverse")):
    ordered = half_lives[:, direction].flatten().sort().values.tolist()
    figure.add_scatter(y=ordered, name=name, mode="markers")
figure.update_yaxes(type="log", title="half-life in tokens")
figure.add_hline(y=len(ids), line_dash="dash", annotation_text="the whole text")
show(figure)
print(f"Of the {half_lives.numel()} heads")
for low, high in ((0, 5), (5, 20), (20, len(ids)), (len(ids), math.inf)):
    share = ((half_lives >= low) & (half_lives < high)).float().mean().item()
    until = "or more" if high == math.inf else f"to {high}"
    print(f"{share:4.0%} have a half-life of {low} {until} tokens")

# %% [markdown]
# Nobody told the heads how far to look. They started with different rates, and training did the rest: some hold a word
# or two, some a sentence, and a few the whole story. A model needs all of them: the article *a* matters for the next
# word, a name for the rest of the text.
#
# ### The steps of one head
#
# A half-life is an average. Selective heads take large steps at some tokens and small ones at others. A full stop would
# be a good moment to forget. Is there a forward head that forgets there? We let the model read some stories and search
# in two ways: for the head whose *steps* grow by the largest factor at a full stop, and for the head that loses the
# largest *share of its memory* there, compared with other tokens. Which search do you trust?

# %%
from diffuapriel.tales import language as tales

rng = random.Random(3)
stories = [
    torch.tensor(tokenizer.encode(tales.generate(3, rng))) for _ in range(2 if QUICK else 20)
]
read = torch.cat([steps_taken(story) for story in stories], dim=1)[:, :, 0]  # forward heads
stop = torch.cat(stories) == tokenizer.encode(".")[0]  # which tokens are full stops
fade = read * rates[:, None, 0].abs()  # dt |A|, (layers, tokens, heads)
growth = fade[:, stop].mean(1) / fade[:, ~stop].mean(1)  # (layers, heads)
survives = torch.exp(-fade)  # the share of the memory that survives a token
lost = survives[:, ~stop].mean(1) - survives[:, stop].mean(1)
found = {"largest factor": growth, "largest loss": lost}
found = {how: divmod(by.argmax().item(), by.shape[1]) for how, by in found.items()}
for how, (l, h) in found.items():
    at_stop, elsewhere = (survives[l, where, h].mean().item() for where in (stop, ~stop))
    print(
        f"{how:15} layer {l}, head {h}: steps grow {growth[l, h]:.1f} times at a full stop;",
        end=" ",
    )
    print(f"it keeps {at_stop:.0%} of its memory there and {elsewhere:.0%} elsewhere")

# %% [markdown]
# The first search is a trap: a large factor of two tiny fades is still a tiny fade. The second asks for what we mean by
# *forgetting*. The next figure shows both heads on the beginning of a story, together with the heads that have the
# longest and the shortest memory. Yellow is kept, dark is forgotten.

# %%
story = stories[0][:36]
lives = math.log(2) / fade.mean(1)  # half-lives on these stories, (layers, heads)
words = [f"{i} {word.strip()}" for i, word in enumerate(tokenizer.token_strings(story.tolist()))]
kept = torch.exp(steps_taken(story)[:, :, 0] * rates[:, None, 0])  # exp(dt A), (layers, 36, heads)
chosen = {
    "shortest memory": divmod(lives.argmin().item(), lives.shape[1]),
    "longest memory": divmod(lives.argmax().item(), lives.shape[1]),
    "largest factor at full stops": found["largest factor"],
    "largest loss at full stops": found["largest loss"],
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
    alt="four heads as rows, the tokens of a story as columns, bright where memory survives",
)

# %% [markdown]
# The long memory hardly changes. The short one loses most of what it knows every few tokens. Compare the two rows at
# the bottom at each full stop: one dims there, the other does not.
#
# Be careful with such findings. We searched many heads for one that does what we had in mind, and among many heads one
# will always seem to. What it is *for* is a harder question.

# %%
score()

# %% [markdown]
# ## What you built
#
# - **The recurrence**: a table that fades by one factor, with B to write and C to read. Little work, but one step at a
#   time.
# - **The convolution**: the same if nothing depends on the token. Mamba's steps do depend on it.
# - **The dual**: the same as a masked, fading attention matrix. Fast for short texts, quadratic in the length.
# - **The chunked scan**: the matrix inside chunks, the recurrence between them. Linear in the length, and made of
#   matrix products.
#
# A head remembers for about 1/(dt |A|) tokens, and chooses dt at each token. Lesson 03 combines heads of both
# directions and builds a model from them.
#
# ## Going further
#
# - Which chunk length is the fastest on your machine? Time `my_chunked` for q from 8 to 512, and explain what happens
#   at both ends.
# - Give `my_chunked` an initial state, and check that two halves of a text give the same result as the whole text.
# - Give each *row* of the state its own rate, as in the first Mamba. Which of the four views breaks?
#
# **Papers.** Mamba-2 and the duality, [arXiv:2405.21060](https://arxiv.org/abs/2405.21060). Selective state spaces, the
# first Mamba: [arXiv:2312.00752](https://arxiv.org/abs/2312.00752). The convolution view, S4:
# [arXiv:2111.00396](https://arxiv.org/abs/2111.00396). Attention as a recurrence, linear attention:
# [arXiv:2006.16236](https://arxiv.org/abs/2006.16236).
