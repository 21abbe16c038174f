# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12 · A kernel by hand
#
# Lesson 02 ended with a scan made of matrix products. Written in PyTorch, each product goes to the slow memory of the
# GPU and comes back for the next one. A *kernel* of your own keeps everything on the chip between one load and one
# store. Here you write it: the scan of lesson 02 in both directions, with its gate. It ends at the kernel that trains
# this project's models. You need no GPU: an interpreter runs the same program on the CPU.
#
# **You will be able to**
#
# - read and write a Triton program: its grid, its tiles, its addresses and masks;
# - scan a text chunk by chunk without storing a state;
# - read a text backwards by its addresses, without a copy;
# - count the bytes that a program moves, and say why a fused kernel is faster.
#
# **You need** lesson 02: the chunked scan. Lesson 03 explains why there are two directions.
#
# | part | minutes |
# |---|---|
# | 1. Programs on a grid | 12 |
# | 2. A chunk at a time | 16 |
# | 3. Backwards, without a copy | 11 |
# | 4. The gate, before the store | 9 |
# | 5. What is never written | 14 |
# | 6. The package's own kernel | 10 |
# | 7. On a GPU | 4 |
#
# {{measured}}
#
# Now and then you are asked to **predict, then run**. Five **exercises** check your answer. Later cells run *your*
# functions; where one is not right yet, they run ours and say so.

# %% [markdown]
# The next cell only prepares things. Run it. It says who runs your programs: Triton on a GPU, Triton's interpreter on
# the CPU, or, where Triton is not installed (on Windows and macOS, for example), a small interpreter of this course.
# All of them run the same programs; only section 6 and the clock of section 7 need Triton itself.

# %%
import inspect
import warnings

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffuapriel.lessons import QUICK, check, predict, prepare, score, show, use
from diffuapriel.lessons.tiles import counted, start
from diffuapriel.ops.ssd import ssd

prepare()
triton, tl, DEVICE = start()

# %% [markdown]
# ## 1. Programs on a grid
#
# ![One program for each head and each direction; it walks the chunks of its text](diagrams/tiles.svg)
#
# A GPU has a large, slow memory and many small processors with a little fast memory each. You write **one program**;
# the GPU runs it many times at once, and each run asks which one it is: `tl.program_id(0)`. The set of all runs is
# the **grid**. A program does not compute with single numbers but with **tiles**: it loads a tile, computes on the
# chip, and stores a tile.
#
# Memory is one long row of numbers. `x` is the **address** of a tensor's first number, and `x + 3` that of its
# fourth. A tile of addresses loads a tile of numbers. The sides of a tile are powers of two, but a text has any
# length. So a load takes a **mask**: where it is false nothing is read, and the tile gets `other`.
#
# Three signs are new in the cell. `@triton.jit` makes a program of a function. `tl.constexpr` marks a number that is
# fixed when the program is compiled, as the sides of tiles must be. And `double_kernel[(3,)](...)` starts the program
# on a grid of 3.


# %%
@triton.jit
def double_kernel(x, out, length, CHUNK: tl.constexpr):
    """One program: CHUNK numbers of a row."""
    rows = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    inside = rows < length
    numbers = tl.load(x + rows, mask=inside, other=0.0)
    tl.store(out + rows, 2 * numbers, mask=inside)


x = torch.arange(40.0, device=DEVICE)
out = torch.zeros(40, device=DEVICE)
double_kernel[(3,)](x, out, 40, CHUNK=16)  # a grid of 3 programs: numbers 0-15, 16-31, 32-47
print("the last numbers:", out[-3:].tolist())
assert torch.equal(out, 2 * x)

# %% [markdown]
# ### Exercise 1: load some rows of a text
#
# *Must · easy · 6 minutes*
#
# A text in memory is a table: one row per token, and `row_stride` numbers from the beginning of a row to that of the
# next. A program needs some `rows` of it, and of each row some `columns`. Write the load. Rows at and beyond `length`
# belong to the next text, so they are masked and read as 0.
#
# <details><summary>Hint 1: the idea</summary>The number in row r and column c has the address start + r times
# row_stride + c. Write all these addresses as one tile.</details>
# <details><summary>Hint 2: the shape</summary><code>rows[:, None]</code> is (rows, 1) and <code>columns[None,
# :]</code> is (1, columns); their sum is (rows, columns). The mask is (rows, 1).</details>
# <details><summary>Hint 3: the code</summary><code>tl.load(start + rows[:, None] * row_stride + columns[None, :],
# mask=(rows &lt; length)[:, None], other=0.0)</code></details>


# %% tags=["exercise"]
def load_rows(start, rows, columns, row_stride, length):
    """rows (q,) and columns (p,) are tiles of numbers. Returns a tile (q, p)."""
    return None  # your line here


# %% tags=["solution"]
def load_rows(start, rows, columns, row_stride, length):
    """rows (q,) and columns (p,) are tiles of numbers. Returns a tile (q, p)."""
    at = start + rows[:, None] * row_stride + columns[None, :]
    return tl.load(at, mask=(rows < length)[:, None], other=0.0)


# %%
check.load_rows(load_rows)

# %% [markdown]
# **Predict, then run.** Two texts of 40 tokens lie one behind the other in memory. A program loads the rows 32 to 47
# of the *first* one, and its author forgot the mask. What stands in the last eight rows of the tile?
#
# - **A** · zeros
# - **B** · the beginning of the second text
# - **C** · nothing: the program stops with an error

# %%
guess_1 = predict("A", "B", "C", name="12.1")
guess_1

# %%
load = triton.jit(use(check.load_rows, load_rows))


@triton.jit
def last_rows_kernel(
    texts, out, length, P: tl.constexpr, CHUNK: tl.constexpr, MASKED: tl.constexpr
):
    """The last chunk of the first text, with a mask or without."""
    rows, p = 32 + tl.arange(0, CHUNK), tl.arange(0, P)
    until = length if MASKED else 2 * length
    tile = load(texts, rows, p, P, until)
    tl.store(out + tl.arange(0, CHUNK)[:, None] * P + p[None, :], tile)


texts = torch.randn(2, 40, 16, device=DEVICE)
seen = {}
for masked in (True, False):
    out = torch.zeros(16, 16, device=DEVICE)
    last_rows_kernel[(1,)](texts, out, 40, P=16, CHUNK=16, MASKED=masked)
    seen[masked] = out[8:]
print("with the mask, the last eight rows sum to", seen[True].abs().sum().item())
letter = "A" if not seen[False].any() else "B" if torch.equal(seen[False], texts[1, :8]) else "C"
guess_1.reveal(letter)

# %% [markdown]
# ## 2. A chunk at a time
#
# One program scans one head of one text. It walks the chunks in a loop, and the state $H$ stays on the chip: it is
# never written to memory. Inside the loop stands the chunk of lesson 02:
#
# $$Y = \big(L \circ C B^T\big)\,(dt\, X) + e^{s}\, C H$$
#
# $$H' = e^{s_{end}} H + B^T \big(e^{s_{end} - s}\, dt\, X\big)$$
#
# Two things differ from lesson 02. The state lies on its side, $N \times P$, so that no product needs it transposed.
# And the last chunk is cut off by the mask: its missing tokens have $dt = 0$, so that nothing fades and nothing is
# written.
#
# ### Exercise 2: the chunk, in tiles
#
# *Must · hard · 10 minutes*
#
# The functions of a program are few: `tl.dot` multiplies matrices, `tl.trans` transposes, `tl.cumsum` and `tl.sum` go
# along an axis, `tl.exp` and `tl.where` work number by number. A tile has no index: in place of `s[-1]` take the
# *sum* of all `dt * rate`. D x comes later.
#
# <details><summary>Hint 1: the idea</summary>Translate <code>my_chunk</code> of lesson 02 line by line. For L, put
# minus infinity where row u comes after row t, <i>before</i> taking the exponential.</details>
# <details><summary>Hint 2: the shape</summary><code>s = tl.cumsum(dt * rate, 0)</code> is (q,). L is (q, q):
# <code>s[:, None] - s[None, :]</code>, kept where <code>rows[:, None] &gt;= rows[None, :]</code>. The new state is a
# product (N, q) times (q, P).</details>
# <details><summary>Hint 3: the code</summary>With <code>written = dt[:, None] * x</code> the outputs are
# <code>tl.dot(L * tl.dot(C, tl.trans(B)), written) + tl.exp(s)[:, None] * tl.dot(C, H)</code>, and the state is
# <code>tl.exp(s_end) * H + tl.dot(tl.trans(B), tl.exp(s_end - s)[:, None] * written)</code>.</details>


# %% tags=["exercise"]
def scan_tile(H, x, dt, B, C, rate, rows):
    """H (N, P) enters; x (q, P), dt (q,), B and C (q, N), rows (q,). Returns outputs (q, P), new H."""
    return None  # your lines here


# %% tags=["solution"]
def scan_tile(H, x, dt, B, C, rate, rows):
    """H (N, P) enters; x (q, P), dt (q,), B and C (q, N), rows (q,). Returns outputs (q, P), new H."""
    s = tl.cumsum(dt * rate, 0)
    s_end = tl.sum(dt * rate, 0)
    past = rows[:, None] >= rows[None, :]
    L = tl.exp(tl.where(past, s[:, None] - s[None, :], float("-inf")))
    written = dt[:, None] * x
    inside = tl.dot(L * tl.dot(C, tl.trans(B)), written)
    before = tl.exp(s)[:, None] * tl.dot(C, H)
    left = tl.exp(s_end - s)[:, None] * written
    return inside + before, tl.exp(s_end) * H + tl.dot(tl.trans(B), left)


# %%
check.scan_tile(scan_tile)

# %% [markdown]
# Now the program around it: find the addresses of this head and this text, then walk. All sizes are tiny, because an
# interpreter is slow: 2 texts of 40 tokens, 2 heads, $P = N = 16$, chunks of 16.

# %%
scan = triton.jit(use(check.scan_tile, scan_tile))


@triton.jit
def forward_kernel(
    x, dt, A, B, C, D, y, length, heads, P: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr
):
    """One program: one head of one text. x and y (texts, length, heads, P), dt (texts, heads, length)."""
    head, text = tl.program_id(0), tl.program_id(1)
    p, n, row = tl.arange(0, P), tl.arange(0, N), heads * P
    x += text * length * row + head * P
    y += text * length * row + head * P
    dt += (text * heads + head) * length
    B += text * length * N
    C += text * length * N
    rate = tl.load(A + head)
    skip = tl.load(D + head)
    H = tl.zeros((N, P), tl.float32)
    for c in range(tl.cdiv(length, CHUNK)):
        rows = c * CHUNK + tl.arange(0, CHUNK)
        inside = rows < length
        step = tl.load(dt + rows, mask=inside, other=0.0)
        keys = load(B, rows, n, N, length)
        queries = load(C, rows, n, N, length)
        tile = load(x, rows, p, row, length)
        out, H = scan(H, tile, step, keys, queries, rate, rows)
        tl.store(y + rows[:, None] * row + p[None, :], out + skip * tile, mask=inside[:, None])


# %% [markdown]
# It is checked against the recurrence of lesson 02, which the package computes in `float64`. The kernel computes in
# `float32`, with seven digits.

# %%
TEXTS, LENGTH, HEADS, P, N, CHUNK = 2, 40, 2, 16, 16, 16


def draw(texts, length, heads, P, N, device=DEVICE):
    """x, z, dt, A, B, C and D of a mixer with two directions."""
    g = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, texts, length, 2, heads, P, generator=g)
    B, C = torch.randn(2, texts, length, 2, N, generator=g)
    dt = F.softplus(torch.randn(texts, 2, heads, length, generator=g) - 2)
    A, D = -torch.rand(2, heads, generator=g) - 0.2, torch.randn(2, heads, generator=g)
    return [value.to(device) for value in (x, z, dt, A, B, C, D)]


def recurrence(x, dt, A, B, C, D, direction):
    """y (texts, length, heads, P) of one direction, token by token in float64."""
    k, double = direction, torch.float64
    parts = x[:, :, k], dt[:, k].mT, A[k], B[:, :, k, None], C[:, :, k, None], D[k]
    return ssd(*(v.to(double) for v in parts), backend="recurrent", reverse=k == 1)


def same(ours, exact):
    """Print the largest difference in units of the largest value; stop if it is more than rounding."""
    error = ((ours.double() - exact).abs().max() / exact.abs().max()).item()
    print(f"largest difference {error:.0e} of the largest value")
    assert error < 1e-5


x, z, dt, A, B, C, D = draw(TEXTS, LENGTH, HEADS, P, N)
ahead = [value.contiguous() for value in (x[:, :, 0], dt[:, 0], A[0], B[:, :, 0], C[:, :, 0], D[0])]
y = torch.zeros_like(ahead[0])
forward_kernel[(HEADS, TEXTS)](*ahead, y, LENGTH, HEADS, P=P, N=N, CHUNK=CHUNK)
same(y, recurrence(x, dt, A, B, C, D, direction=0))

# %% [markdown]
# ## 3. Backwards, without a copy
#
# The second direction reads each text from its last token to its first. In PyTorch one would flip the inputs, scan,
# and flip the output. A program need not: it starts at the address of the *last* row and goes on with a **negative
# stride**. Row 0 of the walk is then the last token; nothing else in the loop changes.
#
# ### Exercise 3: walk either way
#
# *Must · medium · 5 minutes*
#
# `reverse` is 0 or 1. Return the address of the first row in the order of the walk, and the step from one row of the
# walk to the next. Compute it: a program that asks `if` for a number on the chip is slow, or is refused.
#
# <details><summary>Hint 1: the idea</summary>Forward: start, and row_stride. Backward: the address of the last row,
# and minus row_stride. Find one formula that gives both.</details>
# <details><summary>Hint 2: the shape</summary>Two things, separated by a comma. The last of length rows has the
# number length - 1. For reverse = 0 and 1, <code>1 - 2 * reverse</code> is 1 and -1.</details>
# <details><summary>Hint 3: the code</summary><code>start + reverse * (length - 1) * row_stride</code>, and <code>(1 -
# 2 * reverse) * row_stride</code></details>


# %% tags=["exercise"]
def walk(start, row_stride, length, reverse):
    """reverse is 0 or 1. Returns an address and a step."""
    return None  # your line here


# %% tags=["solution"]
def walk(start, row_stride, length, reverse):
    """reverse is 0 or 1. Returns an address and a step."""
    return start + reverse * (length - 1) * row_stride, (1 - 2 * reverse) * row_stride


# %%
check.walk(walk)

# %% [markdown]
# Both directions now run in **one launch**: the grid gets a third axis. Direction 0 walks ahead, direction 1
# backwards.

# %%
direct = triton.jit(use(check.walk, walk))


@triton.jit
def both_kernel(
    x, dt, A, B, C, D, y, length, heads, P: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr
):
    """One program: one head of one direction of one text. x and y (texts, length, 2, heads, P)."""
    head, text, k = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    p, n, row = tl.arange(0, P), tl.arange(0, N), 2 * heads * P
    first = (text * length * 2 + k) * heads * P + head * P  # of token 0
    x_start, step = direct(x + first, row, length, k)
    y_start, step = direct(y + first, row, length, k)
    B_start, key_step = direct(B + (text * length * 2 + k) * N, 2 * N, length, k)
    C_start, key_step = direct(C + (text * length * 2 + k) * N, 2 * N, length, k)
    dt_start, sign = direct(dt + ((text * 2 + k) * heads + head) * length, 1, length, k)
    rate = tl.load(A + k * heads + head)
    skip = tl.load(D + k * heads + head)
    H = tl.zeros((N, P), tl.float32)
    for c in range(tl.cdiv(length, CHUNK)):
        rows = c * CHUNK + tl.arange(0, CHUNK)
        inside = rows < length
        size = tl.load(dt_start + sign * rows, mask=inside, other=0.0)
        keys = load(B_start, rows, n, key_step, length)
        queries = load(C_start, rows, n, key_step, length)
        tile = load(x_start, rows, p, step, length)
        out, H = scan(H, tile, size, keys, queries, rate, rows)
        at = y_start + rows[:, None] * step + p[None, :]
        tl.store(at, out + skip * tile, mask=inside[:, None])


# %%
y = torch.zeros_like(x)
both_kernel[(HEADS, TEXTS, 2)](x, dt, A, B, C, D, y, LENGTH, HEADS, P=P, N=N, CHUNK=CHUNK)
for k, name in enumerate(("ahead:    ", "backwards:")):
    print(name, end=" ")
    same(y[:, :, k], recurrence(x, dt, A, B, C, D, direction=k))

# %% [markdown]
# **Predict, then run.** Suppose we had flipped the inputs and the output of the backward scan with `torch.flip`.
# Count the bytes that this scan reads and writes, the flips included. Compared with negative strides, it is
#
# - **A** · the same: a flip only changes strides, as in NumPy
# - **B** · twice as many
# - **C** · three times as many

# %%
guess_2 = predict("A", "B", "C", name="12.2")
guess_2


# %%
class Meter(TorchDispatchMode):
    """Counts the bytes that PyTorch's operations read and write, by operation."""

    def __init__(self):
        super().__init__()
        self.moved = {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        name = operation.overloadpacket.__name__
        read = args[1:] if name == "copy_" else (args, kwargs)  # a copy does not read its target
        read, written = (
            [t for t in tree_leaves(part) if isinstance(t, torch.Tensor)] for part in (read, result)
        )
        shared = {t.untyped_storage().data_ptr() for t in read}
        view = any(t.untyped_storage().data_ptr() in shared for t in written)
        if "empty" not in name and (name.endswith("_") or not view):  # these move nothing
            sizes = (min(t.nbytes, t.untyped_storage().nbytes()) for t in read + written)
            self.moved[name] = self.moved.get(name, 0) + sum(sizes)
        return result

    def total(self):
        return sum(self.moved.values())


scanned = sum(v[:, :, 1].nbytes for v in (x, B, C, y)) + dt[:, 1].nbytes  # read once, written once
with Meter() as meter:
    for value in (x[:, :, 1], B[:, :, 1], C[:, :, 1], y[:, :, 1]):
        value.flip(1)
    dt[:, 1].flip(2)
ratio = (scanned + meter.total()) / scanned
print(
    f"the scan itself: {scanned:,} bytes; with flips: {scanned + meter.total():,}, {ratio:.1f} times"
)
guess_2.reveal(min({"A": 1, "B": 2, "C": 3}.items(), key=lambda item: abs(item[1] - ratio))[0])

# %% [markdown]
# ## 4. The gate, before the store
#
# In the mixer each output is multiplied by a gate: $g = y \cdot \mathrm{SiLU}(z)$ with $\mathrm{SiLU}(z) = z / (1 +
# e^{-z})$. In PyTorch that is another trip: $y$ goes to memory, comes back, and $g$ goes out. In the program, the
# tile of $y$ is still on the chip. It loads the tile of $z$, multiplies, and stores $g$ alone: $y$ is never written.
#
# ### Exercise 4: the gate
#
# *Must · easy · 3 minutes*
#
# Write it: from the tiles of $y$ and $z$, the tile that is stored.
#
# <details><summary>Hint 1: the idea</summary>SiLU is z times its sigmoid. It belongs to z; y is only
# multiplied.</details>
# <details><summary>Hint 2: the shape</summary>y and z are tiles (q, P), and so is the result.</details>
# <details><summary>Hint 3: the code</summary><code>y * z / (1 + tl.exp(-z))</code></details>


# %% tags=["exercise"]
def gated(y, z):
    """y and z are tiles (q, P). Returns y times SiLU(z), a tile (q, P)."""
    return None  # your line here


# %% tags=["solution"]
def gated(y, z):
    """y and z are tiles (q, P). Returns y times SiLU(z), a tile (q, P)."""
    return y * z / (1 + tl.exp(-z))


# %%
check.gated(gated)

# %% [markdown]
# The whole kernel. Two lines are new: the address of `z`, and the gate in the store.

# %%
gate = triton.jit(use(check.gated, gated))


@triton.jit
def fused_kernel(
    x, z, dt, A, B, C, D, g, length, heads, P: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr
):
    """One program: one head of one direction of one text. x, z and g (texts, length, 2, heads, P)."""
    head, text, k = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    p, n, row = tl.arange(0, P), tl.arange(0, N), 2 * heads * P
    first = (text * length * 2 + k) * heads * P + head * P  # of token 0
    x_start, step = direct(x + first, row, length, k)
    z_start, step = direct(z + first, row, length, k)
    g_start, step = direct(g + first, row, length, k)
    B_start, key_step = direct(B + (text * length * 2 + k) * N, 2 * N, length, k)
    C_start, key_step = direct(C + (text * length * 2 + k) * N, 2 * N, length, k)
    dt_start, sign = direct(dt + ((text * 2 + k) * heads + head) * length, 1, length, k)
    rate = tl.load(A + k * heads + head)
    skip = tl.load(D + k * heads + head)
    H = tl.zeros((N, P), tl.float32)
    for c in range(tl.cdiv(length, CHUNK)):
        rows = c * CHUNK + tl.arange(0, CHUNK)
        inside = rows < length
        size = tl.load(dt_start + sign * rows, mask=inside, other=0.0)
        keys = load(B_start, rows, n, key_step, length)
        queries = load(C_start, rows, n, key_step, length)
        tile = load(x_start, rows, p, step, length)
        out, H = scan(H, tile, size, keys, queries, rate, rows)
        out = gate(out + skip * tile, load(z_start, rows, p, step, length))
        tl.store(g_start + rows[:, None] * step + p[None, :], out, mask=inside[:, None])


# %%
g = torch.zeros_like(x)
fused_kernel[(HEADS, TEXTS, 2)](x, z, dt, A, B, C, D, g, LENGTH, HEADS, P=P, N=N, CHUNK=CHUNK)
for k, name in enumerate(("ahead:    ", "backwards:")):
    print(name, end=" ")
    exact = recurrence(x, dt, A, B, C, D, direction=k)
    same(g[:, :, k], exact * F.silu(z[:, :, k].double()))

# %% [markdown]
# ## 5. What is never written
#
# An arithmetic unit is done long before the next numbers arrive from memory. So the bytes that a program moves decide
# its speed, until its products are large (the roofline of lesson 06). How many does yours move?
#
# ### Exercise 5: count the bytes
#
# *May · medium · 5 minutes*
#
# Return the bytes that the programs of *one direction of one text* load and store. A program is one head; what two
# heads both need is loaded twice. Leave out A and D, two numbers per program.
#
# <details><summary>Hint 1: the idea</summary>Go through the loop of <code>fused_kernel</code> and note, for each load
# and store, how many numbers per token it moves. The state H is in none of them.</details>
# <details><summary>Hint 2: the shape</summary>Per head and token: x, z and the output have P numbers, B and C have N,
# dt has one.</details>
# <details><summary>Hint 3: the code</summary>3 P + 2 N + 1 numbers per token, times length, heads and
# bytes_each.</details>


# %% tags=["exercise"]
def traffic(length, heads, P, N, bytes_each):
    """Bytes loaded and stored by all heads, for one direction of one text."""
    return None  # your line here


# %% tags=["solution"]
def traffic(length, heads, P, N, bytes_each):
    """Bytes loaded and stored by all heads, for one direction of one text."""
    return bytes_each * heads * length * (3 * P + 2 * N + 1)


# %%
check.traffic(traffic)

# %% [markdown]
# Is the formula true? `counted` runs your kernel once more, by the small interpreter, and counts each number that is
# loaded or stored.

# %%
bytes_of = use(check.traffic, traffic)
tensors = [value.cpu() for value in (x, z, dt, A, B, C, D, torch.zeros_like(x))]
moved = counted(fused_kernel, (HEADS, TEXTS, 2), *tensors, LENGTH, HEADS, P=P, N=N, CHUNK=CHUNK)
assert torch.allclose(tensors[-1], g.cpu(), atol=1e-5)
formula = TEXTS * 2 * bytes_of(LENGTH, HEADS, P, N, 4)
programs = HEADS * TEXTS * 2
print(f"loaded {moved.loaded:,} bytes, stored {moved.stored:,}; together {sum(moved):,}")
print(
    f"your formula {formula:,}, and 2 numbers of 4 bytes in {programs} programs: {formula + 8 * programs:,}"
)
assert formula + 8 * programs == sum(moved)

# %% [markdown]
# **Predict, then run.** The same computation in PyTorch: the package's plain chunked scan, then the gate. Each
# operation reads its inputs from memory and writes its result there. For 512 tokens with 8 heads and P = N = 64, how
# many times as many bytes does it move as your kernel?
#
# - **A** · about 2 times
# - **B** · about 9 times
# - **C** · about 40 times

# %%
guess_3 = predict("A", "B", "C", name="12.3")
guess_3


# %%
def in_pytorch(x, z, dt, A, B, C, D):
    """What fused_kernel computes, in PyTorch: the package's chunked scan, then the gate."""
    both = []
    for k in (0, 1):
        parts = x[:, :, k], dt[:, k].mT, A[k], B[:, :, k, None], C[:, :, k, None], D[k]
        y = ssd(*parts, backend="chunked", reverse=k == 1)
        both.append(y * F.silu(z[:, :, k]))
    return torch.stack(both, 2)


long = 128 if QUICK else 512
values = draw(1, long, 8, 64, 64, "cpu")
with torch.no_grad(), Meter() as meter:
    in_pytorch(*values)
kernel = 2 * bytes_of(long, 8, 64, 64, 4)
ratio = meter.total() / kernel
print(
    f"your kernel {kernel / 1e6:.1f} MB, PyTorch {meter.total() / 1e6:.1f} MB: {ratio:.1f} times as many"
)
guess_3.reveal("A" if ratio < 4 else "B" if ratio < 20 else "C")

# %%
figure = go.Figure(layout={"yaxis_title": "kB per token", "height": 380})
most = sorted(meter.moved.items(), key=lambda item: -item[1])
bars = {"your kernel": kernel} | dict(most[:6])
bars["all others"] = sum(size for _, size in most[6:])
colors = ["teal"] + ["silver"] * (len(bars) - 1)
y = [size / 1000 / long for size in bars.values()]
figure.add_bar(x=list(bars), y=y, marker_color=colors, name="")
figure.update_layout(
    title="Your kernel, and the operations of the PyTorch version", showlegend=False
)
show(figure, alt="one bar for the kernel, and one for each operation of PyTorch")

# %% [markdown]
# These are counts, not measurements: they are the same on every machine, so they need no interval. Most of PyTorch's
# bytes belong to tensors that nobody asked for: the state that enters each chunk, the matrices $L$ of all chunks, and
# the two parts of $y$ before they are added. Your kernel computes the same numbers and lets them go.
#
# The count is an upper limit for both: a cache holds what was read a moment ago. It helps the kernel, too, whose
# heads all load the same B and C.
#
# ## 6. The package's own kernel
#
# You have written the skeleton of `diffuapriel/ops/triton/scan.py`. Here are its lines beside yours.
#
# | yours | the package's | why |
# |---|---|---|
# | `direct(x + first, ...)` | `b, k, sign, first = scan_order(bk, 0,` | the same arithmetic, once for all tensors |
# | `load(x_start, ...)` | `v = load_conv_silu(` | the short convolution happens in the load |
# | `size = tl.load(...)` | `step = coming  # loaded one chunk ago` | all wait for dt, so it is loaded early |
# | `tl.exp(...)` | `tl.exp2(distance)` | a GPU has powers of two in hardware |
# | `dt[:, None] * x` | `source = s - tl.log2(step)` | dt inside the exponent saves a tile |
# | `out + skip * tile` | `W + skip, W)` | D on the diagonal of the matrix saves another one |
# | `H` | `H0 = tl.zeros((HALF, P), tl.float32)` | a state in two halves needs fewer registers |
# | `gate(...)`, store | `tl.store(squares + here * length` | and the norm's sum of squares: two trips saved |
# | a program per text | `for j in range(0, split * pieces_per_split):` | few heads leave a GPU idle: texts are cut |
#
# Run it on the same numbers. It returns `gated` in the order (direction, text, token, head and column).

# %%
if hasattr(triton, "__version__"):
    from diffuapriel.ops.triton import scan as package

    with warnings.catch_warnings():  # the interpreter speaks up at log2(0), which is meant: no step
        warnings.simplefilter("ignore", RuntimeWarning)
        inputs = x, B[:, :, :, None].contiguous(), C[:, :, :, None].contiguous(), dt, A, D
        done = package.scan_chunks(*inputs, (False, True), gate=(z, None), want_y=False)
    theirs = done.gated.unflatten(3, (HEADS, P)).permute(1, 2, 0, 3, 4)  # as g
    print("the package's kernel and yours:", end=" ")
    same(g, theirs.double())
    lines = {
        name: len(inspect.getsource(kernel.fn).splitlines())
        for name, kernel in (("yours", fused_kernel), ("the package's", package.scan_kernel))
    }
    print("lines:", ", ".join(f"{name} {count}" for name, count in lines.items()))
else:
    print("The package's kernel needs Triton itself, so it does not run here.")
    print(
        "Read it: diffuapriel/ops/triton/scan.py, from `def scan_kernel` on, beside the table above."
    )

# %% [markdown]
# ## 7. On a GPU
#
# An interpreter's time says nothing about a GPU. On a GPU the next cell times three programs on the same numbers:
# yours, the package's, and PyTorch's operations one by one.


# %%
def microseconds(run, repeats=20):
    """The median time of a run on the GPU."""
    taken = []
    for _ in range(3 + repeats):  # three to warm up
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        taken.append(1000 * begin.elapsed_time(end))
    return sorted(taken[3:])[repeats // 2]


if DEVICE == "cuda":
    values = draw(4, 2048, 16, 64, 64)
    big, z_big, dt_big, A_big, B_big, C_big, D_big = values
    to, sizes = torch.empty_like(big), {"P": 64, "N": 64, "CHUNK": 32}
    keys = [value[:, :, :, None].contiguous() for value in (B_big, C_big)]
    wide = big, *keys, dt_big, A_big, D_big
    options = {"gate": (z_big, None), "want_y": False}
    runs = {
        "yours": lambda: fused_kernel[(16, 4, 2)](*values, to, 2048, 16, **sizes),
        "the package's": lambda: package.scan_chunks(*wide, (False, True), **options),
        "PyTorch": lambda: in_pytorch(*values),
    }
    for name, run in runs.items():
        print(f"{name:14} {microseconds(run):9,.0f} microseconds")
else:
    print("There is no CUDA GPU here, so nothing is timed.")

# %%
score()

# %% [markdown]
# ## What you learned
#
# - A kernel is **one program for many tiles**. It asks for its place in the grid, and computes its addresses.
# - **Masks** keep a tile inside its text. Without them a program reads its neighbor's numbers, without an error.
# - The scan walks chunks, and its **state never leaves the chip**.
# - **Strides** are numbers: a negative one reads backwards, and no flip is needed.
# - What is computed before the store is not written and read again. **Bytes moved** are what a fused kernel saves.
#
# ## Going further
#
# - Swap the axes of the grid. Does the result change? May it?
# - Store the state at the end of each text, and start from a given one. That is the cache of lesson 09.
# - Load `x` before the convolution, and do the convolution of lesson 03 in the load. Which rows does a chunk need
#   that are not its own?
# - Take chunks of 32 and of 8 in place of 16. What changes in the count of bytes, and what in the products?
#
# **Papers.** Triton, and its tutorials: [triton-lang.org](https://triton-lang.org). The chunked scan as a kernel:
# section 6 of [arXiv:2405.21060](https://arxiv.org/abs/2405.21060). Keeping intermediate results on the chip:
# FlashAttention, [arXiv:2205.14135](https://arxiv.org/abs/2205.14135). Exercises in Triton's interpreter: Triton
# Puzzles, [github.com/srush/Triton-Puzzles](https://github.com/srush/Triton-Puzzles). The code:
# `diffuapriel/ops/triton/`.
