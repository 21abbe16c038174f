# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 · Speed
#
# The reason to replace the Transformer by Mamba is speed on long texts. How much faster is it, from which length on,
# and why? In this lesson you measure it on your own machine, and you learn how easily such a measurement goes wrong.
# Then you predict the times by arithmetic, and see what a whole generation costs. Every number comes from your machine.
#
# **You will be able to**
#
# - time two models fairly, with a warm-up, medians and interleaved runs, and say why each is needed;
# - fit an exponent to a latency curve, and find the length at which two curves cross;
# - count multiply-adds by hand and compare them with your machine's matrix rate and bandwidth;
# - say what a generation costs in time and memory, for any length and number of steps.
#
# **You need** lesson 01 (steps of a sampler) and a rough idea of what attention and a scan compute (lessons 02 and
# 03).
#
# | part | minutes |
# |---|---|
# | 1. How not to measure | 10 |
# | 2. Latency against length | 7 |
# | 3. The exponent | 8 |
# | 4. Where the curves cross | 7 |
# | 5. Counting multiply-adds | 12 |
# | 6. The roofline of this machine | 8 |
# | 7. What a generation costs | 8 |
# | 8. Memory | 5 |
# | 9. A race to watch | 8 |
# | 10. On a GPU | 5 |
#
# {{measured}}
#
# Three times you **predict, then run**. Three **exercises** check your answer, and the lesson then runs *your* code;
# where you have none, ours takes its place. **Close other programs** and plug in your laptop: on a busy or power-saving
# machine you measure the machine, not the models.

# %% [markdown]
# The next cell only prepares things. `F` holds PyTorch's functions, `statistics` the median. Run it.

# %%
import math
import statistics
import threading
import time

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from IPython.display import display
from tqdm.auto import tqdm

from diffuapriel.charts.palette import COLORS
from diffuapriel.lessons import QUICK, check, predict, prepare, score, show, use

prepare()
print(f"{torch.get_num_threads()} threads")

# %% [markdown]
# ## 1. How not to measure
#
# We time one *forward pass*: a row of tokens goes through the denoiser once, with every second token hidden, as in the
# middle of a generation. An `Entry` is a model with everything a fair comparison must know about it. The weights are
# random, because speed does not depend on them. The three architectures have about the same number of parameters.

# %%
from diffuapriel.benchmark.entry import Entry

entries = {
    name: Entry.random("nano", name) for name in ("diffuapriel", "diffuapriel-h", "diffutran")
}
for name, entry in entries.items():
    print(f"{name:14} {entry.parameters:,} parameters, {entry.config.depth} blocks")
MASK = entries["diffuapriel"].config.mask_id


def model_inputs(length):
    """The denoiser's inputs: ids, the noise level, and the positions where it predicts."""
    ids = torch.randint(MASK, (1, length), generator=torch.Generator().manual_seed(length))
    positions = torch.arange(length)[None] % 2 == 0
    return ids.masked_fill(positions, MASK), torch.tensor([math.log(2.0)]), positions


@torch.inference_mode()
def one_pass(entry, length):
    """Milliseconds of one forward pass."""
    inputs = model_inputs(length)
    began = time.perf_counter()
    entry.denoiser(*inputs)
    return 1000 * (time.perf_counter() - began)


# %% [markdown]
# The obvious way is to run it once and time it. We do this ten times in a row. Look at the first bar.

# %%
fresh = Entry.random("nano", "diffuapriel", seed=1)
times = [one_pass(fresh, 128 if QUICK else 500) for _ in range(10)]
figure = go.Figure(layout={"xaxis_title": "call", "yaxis_title": "ms"})
figure.add_bar(x=[str(i + 1) for i in range(10)], y=times, name="one forward pass")
show(figure)
print(f"first call {times[0]:.1f} ms")
print(
    f"the others: median {statistics.median(times[1:]):.1f}, mean {statistics.mean(times[1:]):.1f}, ",
    end="",
)
print(f"min {min(times[1:]):.1f}, max {max(times[1:]):.1f} ms")

# %% [markdown]
# - **Warm-up.** The first call pays for work that is done only once: allocating memory, waking threads, choosing
#   *kernels* (the small programs that do the arithmetic) for this shape. So run every shape once without timing it.
# - **Medians.** The other calls differ too. Now and then the machine does something else, and such a pause makes a time
#   larger, never smaller. It affects the mean, but hardly the median.
#
# There is a third mistake. It is the worst, because repetition does not help. We race a model **against itself**: first
# all runs of A, then all runs of B, with the same model and the same length. Halfway through, something else starts to
# use the machine: a thread that multiplies matrices.

# %% [markdown]
# **Predict, then run.** A and B are the same model. Which one has the lower median?
#
# - **A** · A, clearly: it had the machine to itself
# - **B** · B, clearly: it ran when everything was warm
# - **C** · neither; medians take care of the disturbance

# %%
guess_1 = predict("A", "B", "C", name="06.1")
guess_1


# %%
def disturbed(order, length):
    """Median milliseconds of "A" and "B"; a second thread is busy during the second half."""
    stop, matrix = threading.Event(), torch.randn(400, 400)

    def other_work():
        while not stop.is_set():
            matrix @ matrix

    times, thread = {"A": [], "B": []}, threading.Thread(target=other_work)
    for run, name in enumerate(tqdm(order)):
        if run == len(order) // 2:
            thread.start()
        times[name].append(one_pass(entries["diffuapriel"], length))
    stop.set()
    thread.join()
    return {name: statistics.median(taken) for name, taken in times.items()}


runs, length = (4, 64) if QUICK else (12, 500)
one_pass(entries["diffuapriel"], length)  # warm-up
sequential = disturbed("A" * runs + "B" * runs, length)
alternating = disturbed("ABBA" * (runs // 2), length)
for label, medians in (("one after the other", sequential), ("interleaved", alternating)):
    print(f"{label:20} A {medians['A']:6.1f} ms   B {medians['B']:6.1f} ms   ", end="")
    print(f"B / A = {medians['B'] / medians['A']:.2f}")

ratio = sequential["B"] / sequential["A"]
right = "A" if ratio > 1.15 else "B" if ratio < 1 / 1.15 else "C"
guess_1.reveal(right, f"Here B / A was {ratio:.2f}.")

# %% [markdown]
# - **Interleaved runs.** If the runs alternate (A B, B A, A B, ...), whatever happens to the machine happens to both
#   entries. Each single time is still disturbed, but the *ratio* is about right, and the ratio is what we want. The
#   order is reversed each time, so that neither entry always comes second.
#
# The rest of the lesson measures in this way. The package's implementation is in `diffuapriel.benchmark.timing`.

# %% [markdown]
# ## 2. Latency against length
#
# First by hand: at each length a warm-up, then interleaved runs, then medians.


# %%
def my_order(entries, repeats):
    """Entry numbers in the order in which they are timed: 0 1, then 1 0, then 0 1, ..."""
    there, back = list(range(entries)), list(reversed(range(entries)))
    return [i for r in range(repeats) for i in (there if r % 2 == 0 else back)]


from diffuapriel.benchmark.timing import interleaved

assert my_order(3, 4) == interleaved(range(3), 4)  # the package's


def my_sweep(entries, lengths, repeats):
    """Median milliseconds: {name: {length: ms}}; entries {name: entry}."""
    curves = {name: {} for name in entries}
    for length in lengths:
        times = {name: [] for name in entries}
        for entry in entries.values():
            one_pass(entry, length)  # warm-up
        for i in my_order(len(entries), repeats):
            name = list(entries)[i]
            times[name].append(one_pass(entries[name], length))
        for name, taken in times.items():
            curves[name][length] = statistics.median(taken)
    return curves


mine = my_sweep(entries, (64, 128) if QUICK else (128, 256, 512), repeats=2 if QUICK else 6)
for name, curve in mine.items():
    print(f"{name:14}", "   ".join(f"{length}: {ms:.1f} ms" for length, ms in curve.items()))

# %% [markdown]
# Now the package's sweep. It does the same, also measures memory during the warm-up, and refuses a length that would
# not fit. It goes up to a few thousand tokens and takes up to a minute. Most of this time goes to one entry. Which
# one?

# %%
from diffuapriel.benchmark.sweep import sweep_events

lengths = (64, 128, 256) if QUICK else (128, 256, 512, 1024, 2048, 4096, 8192)
bar = tqdm(total=100)
options = {"lengths": lengths, "repeats": 2 if QUICK else 3, "max_seconds": 30}
for event in sweep_events(list(entries.values()), **options):
    bar.update(round(100 * event.fraction) - bar.n)
    bar.set_postfix_str(event.message)
    result = event.result
bar.close()
curves = dict(zip(entries, (result.curve(name) for name in result.entries)))

print(f"{'tokens':>8}", *(f"{name:>16}" for name in curves), f"{'diffutran / diffuapriel':>26}")
for n in curves["diffutran"]:
    row = [curve[n] for curve in curves.values()]
    print(f"{n:8,}", *(f"{ms:13.1f} ms" for ms in row), f"{row[2] / row[0]:25.2f}x")
for refusal in result.refusals:
    print(refusal.message)


# %%
def log_log(curves, y_title):
    """A figure of curves {name: {length: value}} with both axes logarithmic."""
    figure = go.Figure(layout={"xaxis_title": "tokens", "yaxis_title": y_title})
    for name, curve in curves.items():
        figure.add_scatter(
            x=list(curve), y=list(curve.values()), name=name,
            mode="lines+markers", line_color=COLORS.get(name),
        )  # fmt: skip
    figure.update_xaxes(type="log").update_yaxes(type="log")
    return figure


show(log_log(curves, "ms for one forward pass"))

# %% [markdown]
# Both axes are logarithmic: each step to the right doubles the length. Look at where the curves cross, and at how steep
# each one is at its right end.

# %% [markdown]
# ## 3. The exponent
#
# If the time grows as *c* · lengthᵏ, its logarithm is log *c* + *k* · log(length): **a straight line on log axes, with
# slope k**. k = 1 is linear: twice the text, twice the time. k = 2 is quadratic: twice the text, four times the time.
#
# **Predict, then run.** Attention compares every token with every other token. In the last step of our sweep the length
# doubles once more. By what factor does DiffuTran's time grow?
#
# - **A** · less than 2.5 times
# - **B** · 2.5 to 3.5 times
# - **C** · more than 3.5 times

# %%
guess_2 = predict("A", "B", "C", name="06.2")
guess_2

# %% [markdown]
# We look at every doubling: by what factor does the time grow? The exponent between two neighboring lengths is the
# base-2 logarithm of that factor.

# %%
for name, curve in curves.items():
    pairs = list(zip(list(curve)[:-1], list(curve)[1:]))
    factors = [curve[b] / curve[a] for a, b in pairs]
    print(name)
    print("   to tokens ", *(f"{b:>7,}" for _, b in pairs))
    print("   times     ", *(f"{factor:7.2f}" for factor in factors))
    print("   exponent  ", *(f"{math.log2(factor):7.2f}" for factor in factors))
    last = factors[-1]  # after the loop: DiffuTran's, the last of the three
guess_2.reveal(
    "A" if last < 2.5 else "B" if last <= 3.5 else "C",
    f"Measured here: {last:.2f} times.",
)

# %% [markdown]
# **An exponent belongs to a range of lengths.** DiffuTran's time is a linear part (matrices, MLP, head) plus a
# quadratic part (attention). For short texts the linear part dominates, or even the fixed cost of each call. So the
# exponent climbs from below 1 towards 2. If you report an exponent, say for which lengths it was fitted.
#
# ### Exercise 1: fit an exponent
#
# *Must · medium · 5 minutes*
#
# Fit one slope to several points: **least squares on log axes**. With x = log(length) and y = log(ms), the slope of
# the best line is the sum of (x − mean x)(y − mean y), divided by the sum of (x − mean x)².
#
# <details><summary>Hint 1: the idea</summary>Take logarithms of both lists first. The base does not matter, as long as
# it is the same for both. Then subtract both means.</details>
# <details><summary>Hint 2: the shape</summary>With tensors: <code>x = torch.tensor(lengths).double().log()</code>,
# (points,), and the same for y. The result is one number.</details>
# <details><summary>Hint 3: the code</summary><code>x = x - x.mean()</code>, the same for y, then <code>(x * y).sum() /
# (x * x).sum()</code>, as a number: <code>.item()</code>.</details>


# %% tags=["exercise"]
def exponent(lengths, ms):
    """Least-squares slope of log(ms) over log(length); two equally long lists of numbers."""
    return None  # your lines here


# %% tags=["solution"]
def exponent(lengths, ms):
    """Least-squares slope of log(ms) over log(length); two equally long lists of numbers."""
    x = torch.tensor(lengths).double().log()
    y = torch.tensor(ms).double().log()
    x, y = x - x.mean(), y - y.mean()
    return ((x * y).sum() / (x * x).sum()).item()


# %%
check.exponent(exponent)

# %% [markdown]
# The package's version is `fit_exponent`. By default it uses the last four lengths; yours uses all that it gets.

# %%
from diffuapriel.benchmark.sweep import fit_exponent

slope = use(check.exponent, exponent)
for name, curve in curves.items():
    ns, ms = list(curve), list(curve.values())
    print(f"{name:14} exponent {slope(ns[-4:], ms[-4:]):.2f} over the last four lengths,", end=" ")
    print(
        f"{slope(ns, ms):.2f} over all; the package: {fit_exponent(ns, ms):.2f} over the last four"
    )

# %% [markdown]
# ## 4. Where the curves cross
#
# DiffuTran is faster on short texts, DiffuApriel on long ones. Where is the crossover? Between two measured lengths the
# curves are nearly straight *on log axes*, so we draw the line between neighboring points there.
#
# ### Exercise 2: the crossover
#
# *Must · hard · 7 minutes*
#
# At each length let *g* = log(a / b), where a and b are the two times. If g is negative, a is faster; if it is
# positive, b is. Find the two neighboring lengths between which g changes its sign. Draw a straight line between them,
# over log(length), and return the length at which it crosses zero.
#
# <details><summary>Hint 1: the idea</summary>Find the neighbors between which g changes its sign. On the way from g₁
# (at length n₁) to g₂ (at n₂), the line reaches zero after the share s = g₁ / (g₁ − g₂).</details>
# <details><summary>Hint 2: the shape</summary>The share is measured on the log axis: log n = log n₁ + s (log n₂ − log
# n₁).</details>
# <details><summary>Hint 3: the code</summary><code>g = [math.log(x / y) for x, y in zip(a, b)]</code>. Where
# <code>g[i] * g[i + 1] &lt; 0</code>, return <code>math.exp</code> of that log n.</details>


# %% tags=["exercise"]
def crossing(lengths, a, b):
    """Length at which the curves a and b (lists of ms) cross once, interpolated on log axes."""
    return None  # your lines here


# %% tags=["solution"]
def crossing(lengths, a, b):
    """Length at which the curves a and b (lists of ms) cross once, interpolated on log axes."""
    g = [math.log(x / y) for x, y in zip(a, b)]
    for i in range(len(g) - 1):
        if g[i] * g[i + 1] < 0:
            share = g[i] / (g[i] - g[i + 1])
            first, second = math.log(lengths[i]), math.log(lengths[i + 1])
            return math.exp(first + share * (second - first))


# %%
check.crossing(crossing)

# %% [markdown]
# The package's `crossover` takes the last crossing, because noise can cause several where two curves nearly touch. It
# also says so if the curves do not cross at all.

# %%
from diffuapriel.benchmark.sweep import crossover

cross_of = use(check.crossing, crossing)
measured = list(curves["diffutran"])  # the lengths
times = {name: [curves[name][n] for n in measured if n in curves[name]] for name in curves}
mine = cross_of(measured, times["diffuapriel"], times["diffutran"])
print(f"yours: {f'{mine:,.0f} tokens' if mine else 'these curves do not cross'}")
for name in ("diffuapriel", "diffuapriel-h"):
    cross = crossover(name, curves[name], "diffutran", curves["diffutran"])
    print(cross.message)
    if name == "diffuapriel":
        measured_crossing = cross.length  # None if the curves do not cross

# %% [markdown]
# ## 5. Counting multiply-adds
#
# Why do they cross there? Count the work. Nearly all of it is *multiply-adds*: one multiplication and one addition, the
# elementary step of a matrix product. **A matrix with n entries costs n multiply-adds per token**, because each entry
# is multiplied by one number of the token's vector. So for the matrices, count parameters as in lesson 03: 16 d² in a
# Mamba block, plus those for B, C and dt; 12 d² in a Transformer block, where d is the width `d_model`.
#
# **The scan** adds to this. It works in chunks of q tokens. In each direction, with 2d channels and a state of size N:
#
# - within a chunk each token is compared with the q tokens of its chunk: N multiply-adds for C · B, then 2d for the
#   channels, together q N + q 2d;
# - between chunks each token writes to the state and reads from it: 2 · N · 2d.
#
# The length does not appear in this count. A program that skips the unneeded pairs compares each token with half of its
# chunk on average.


# %%
def mamba_multiply_adds(config, seen):
    """Multiply-adds per token in one block; `seen`: tokens of its chunk that it meets."""
    d, inner, N = config.d_model, config.d_inner, config.d_state
    in_proj = d * 2 * (2 * inner + 2 * N + config.n_heads)
    out_proj = 2 * inner * d
    mlp = 2 * d * config.mlp_ratio * d
    scan = 2 * (seen * N + seen * inner + 2 * N * inner)  # two directions
    return in_proj + out_proj + mlp + scan


from diffuapriel.benchmark.roofline import backbone_work  # the package's count, all blocks

config = entries["diffuapriel"].config
for n in (128, 4096):
    work = backbone_work(config, n)
    counted = (work.product_flops + work.attention_flops + work.scan_flops) / 2 / n  # 2 flops each
    mine = config.depth * mamba_multiply_adds(config, seen=64)  # chunks of 128, half of them met
    print(f"{n:5,} tokens: {mine:,} multiply-adds per token by hand, {counted:,.0f} by the package")
    assert math.isclose(mine, counted)

# %% [markdown]
# ### Exercise 3: count an attention block
#
# *May · medium · 5 minutes*
#
# How many multiply-adds does **one token** cost in a Transformer block of width d, in a text of L tokens? Count the
# matrices (queries, keys, values, output, and an MLP that is 4 times as wide inside) and the attention itself: the
# token's query is multiplied by every key, then all values are summed. All heads together are d wide. Leave out norms
# and the softmax.
#
# <details><summary>Hint 1: the idea</summary>The matrices have 4 d² + 8 d² entries. For the rest, think of one token
# and one other token: what gets multiplied?</details>
# <details><summary>Hint 2: the shape</summary>Query times key is d multiply-adds over all heads, and so is weight
# times value. Both happen once for each of the L tokens.</details>
# <details><summary>Hint 3: the code</summary>12 d² for the matrices, plus L times 2 d.</details>


# %% tags=["exercise"]
def attention_multiply_adds(d, L):
    """Multiply-adds per token in one Transformer block of width d, in a text of L tokens."""
    return None  # your line here


# %% tags=["solution"]
def attention_multiply_adds(d, L):
    """Multiply-adds per token in one Transformer block of width d, in a text of L tokens."""
    return 12 * d**2 + 2 * L * d


# %%
check.attention_multiply_adds(attention_multiply_adds)

# %% [markdown]
# The next figure contains no measured times. DiffuTran's line comes from exercise 3, the others from the package's
# count. It is pure arithmetic, and it already shows the crossing.

# %%
attention_of, counts = use(check.attention_multiply_adds, attention_multiply_adds), {}
for name, entry in entries.items():
    counts[name] = {}
    for n in lengths:
        work = backbone_work(entry.config, n)
        counts[name][n] = (work.product_flops + work.attention_flops + work.scan_flops) / 2 / n
        if name == "diffutran":
            by_hand = entry.config.depth * attention_of(entry.config.d_model, n)
            assert math.isclose(by_hand, counts[name][n], rel_tol=0.01)
            counts[name][n] = by_hand
show(log_log(counts, "multiply-adds per token, all blocks"))
cross = crossover("diffuapriel", counts["diffuapriel"], "diffutran", counts["diffutran"])
print(f"by counting:   {cross.message}")
if measured_crossing:
    print(f"by timing:     they cross at about {measured_crossing:,.0f} tokens")

# %% [markdown]
# Do the two agree? Not exactly: a multiply-add in a large product takes less time than one in a scan, and there is
# other work too. How much other work? To find out, we must know the best this machine can do.

# %% [markdown]
# ## 6. The roofline of this machine
#
# ![A rising line limited by memory, a flat one limited by arithmetic](diagrams/roofline.svg)
#
# Two numbers bound every computation. The **matrix rate** is the highest number of multiply-adds per second, measured
# on one large product. The **bandwidth** is the number of bytes per second that move to and from memory, measured on
# one large copy.


# %%
def median_seconds(call, repeats=3 if QUICK else 9):
    """Median over the repeats, after a warm-up."""
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


side = 256 if QUICK else 1536
a, b = torch.randn(side, side), torch.randn(side, side)
rate = side**3 / median_seconds(lambda: a @ b)  # multiply-adds per second

source = torch.randn(1_000_000 if QUICK else 32_000_000)
target = torch.empty_like(source)
bandwidth = 2 * source.nbytes / median_seconds(lambda: target.copy_(source))  # read and written
print(f"matrix rate {rate / 1e9:.1f} billion multiply-adds per second")
print(f"bandwidth   {bandwidth / 1e9:.1f} GB per second")
print(f"{rate / bandwidth:.1f} multiply-adds take as long as moving one byte")

# %% [markdown]
# If a forward pass consisted only of multiply-adds at the full rate, how long would it take? Add the *head* to the
# blocks: a matrix of d times V (V is the size of the vocabulary), applied to the hidden half of the tokens.
#
# **Predict, then run.** What share of DiffuApriel's measured time at the longest length does this explain?
#
# - **A** · more than 80 %: it is all matrix products
# - **B** · 30 to 80 %
# - **C** · less than 30 %: most of the time goes elsewhere

# %%
guess_3 = predict("A", "B", "C", name="06.3")
guess_3

# %%
explained = {}
for name, entry in entries.items():
    explained[name] = {}
    head = entry.config.d_model * entry.config.padded_vocab_size / 2
    for n in curves[name]:
        at_best = 1000 * n * (counts[name][n] + head) / rate  # ms
        explained[name][n] = at_best / curves[name][n]
print(f"{'tokens':>8}", *(f"{name:>16}" for name in explained))
for n in curves["diffutran"]:
    print(f"{n:8,}", *(f"{curve[n]:15.0%} " for curve in explained.values()))
share = list(explained["diffuapriel"].values())[-1]
guess_3.reveal(
    "A" if share > 0.8 else "B" if share >= 0.3 else "C", f"Here it explains {share:.0%}."
)

# %% [markdown]
# Where does the rest go? To operations that compute little and **move a lot of data**: a norm, a SiLU, a sum. The
# border is the third number printed above, the multiply-adds in the time of one byte. An operation with fewer
# multiply-adds per byte waits for memory; one with more waits for arithmetic. A figure of this is called a
# **roofline**: on the left the bandwidth is the limit, on the right the matrix rate. We place single operations of the
# two models under it.

# %%
from diffuapriel.ops.ssd import ssd_bidirectional

L, d, inner, N, H = 256 if QUICK else 2048, 128, 256, 64, 8  # as in DiffuApriel nano
u, wide = torch.randn(L, d), torch.randn(L, 2 * inner)
matrix = torch.randn(d, 4 * inner)
x, dt = torch.randn(1, L, 2, H, inner // H), torch.rand(1, L, 2, H)
B, C = torch.randn(2, 1, L, 2, 1, N).unbind(0)
A = -torch.ones(2, H)
q = torch.randn(1, 7, L, 16)  # as in DiffuTran nano: 7 heads of 16
values = 4 * (
    2 * x.numel() + dt.numel() + B.numel() + C.numel()
)  # bytes that the scan reads and writes

# name: (what to run, multiply-adds, bytes that must at least be moved)
steps = {
    "large product": (lambda: a @ b, side**3, 12 * side**2),
    "in_proj": (lambda: u @ matrix, L * matrix.numel(), 4 * (L * d + matrix.numel() + L * 4 * inner)),
    "scan": (
        lambda: ssd_bidirectional(x, dt, A, B, C),
        2 * L * (32 * N + 32 * inner + 2 * N * inner),  # on a CPU: chunks of 32, all pairs computed
        values,
    ),
    "attention": (
        lambda: F.scaled_dot_product_attention(q, q, q), 2 * L * L * 112, 4 * 4 * L * 112,
    ),
    "rms norm": (lambda: F.rms_norm(wide, (2 * inner,)), 2 * wide.numel(), 2 * wide.nbytes),
    "silu": (lambda: F.silu(wide), wide.numel(), 2 * wide.nbytes),
}  # fmt: skip

# %%
figure = go.Figure(
    layout={
        "xaxis_title": "multiply-adds per byte",
        "yaxis_title": "billion multiply-adds per second",
    }
)
ridge = rate / bandwidth
edge = [0.05, ridge, max(1000, 4 * ridge)]
figure.add_scatter(
    x=edge, y=[min(rate, x_ * bandwidth) / 1e9 for x_ in edge], name="roofline", line_color="gray"
)
for name, (call, multiply_adds, moved) in steps.items():
    with torch.inference_mode():
        seconds = median_seconds(call)
    got, intensity = multiply_adds / seconds, multiply_adds / moved
    figure.add_scatter(x=[intensity], y=[got / 1e9], name=name, mode="markers")
    roof = min(rate, intensity * bandwidth)
    print(f"{name:14} {1000 * seconds:7.2f} ms   {got / roof:5.0%} of the roofline above it")
figure.update_xaxes(type="log").update_yaxes(type="log")
show(figure)

# %% [markdown]
# A point can lie above the left part of the line: the bandwidth was measured on a copy of many megabytes, and data that
# fits in the processor's cache moves faster. The scan and attention both have enough arithmetic per byte. What keeps
# them below the roofline is that their products are small, and that exponentials do not count as multiply-adds. A
# specialized kernel loads a piece once, does everything with it, and stores it once. That is what the Triton kernels of
# this project do on a GPU. (Triton is a language for such programs.)

# %% [markdown]
# ## 7. What a generation costs
#
# A forward pass is not yet a text. A sampler calls the denoiser once per step, so
#
# $$\text{time of a text} \;\approx\; \text{steps} \times \text{time of one forward pass at this length}$$
#
# Is this true? The sampler has its own work, choosing and drawing tokens. And the head runs only on hidden positions,
# so later steps are cheaper than the half-hidden one that we timed, and earlier ones are more expensive.

# %%
from diffuapriel import Canvas, Sampler, SamplerConfig, generate, get_schedule

entry = entries["diffuapriel"]
print(f"{'tokens':>8}{'steps':>8}{'steps x pass':>16}{'measured':>12}{'ratio':>9}")
grid = [(n, s) for n in lengths[1:4:2] for s in ((2, 4) if QUICK else (8, 16, 32))]
for n, steps_ in tqdm(grid):
    options = SamplerConfig(strategy="low_confidence", steps=steps_)
    sampler = Sampler(options, get_schedule("log-linear"), MASK)
    began = time.perf_counter()
    generate(sampler, entry.denoiser, Canvas.masks(n, entry.tokenizer))
    took, guessed = time.perf_counter() - began, steps_ * curves["diffuapriel"][n] / 1000
    print(f"{n:8,}{steps_:8}{guessed:14.2f} s{took:10.2f} s{took / guessed:9.2f}")

# %% [markdown]
# So two settings multiply: length and steps. If the number of steps is fixed, the cost of a text grows like the cost of
# a pass: linearly for Mamba, towards quadratically for attention. But if **one token is revealed per step**, for the
# best quality, the number of steps grows with the length too, and **each exponent rises by one**. The next cell
# computes this from the measured passes, without running anything:

# %%
print(
    f"{'tokens':>8}",
    *(
        f"{name + ', 64 steps':>24}{'1 token per step':>20}"
        for name in ("diffuapriel", "diffutran")
    ),
)
for n in curves["diffutran"]:
    cells = []
    for name in ("diffuapriel", "diffutran"):
        seconds = curves[name][n] / 1000
        cells.append(f"{64 * seconds:22.1f} s{n * seconds / 60:16.1f} min")
    print(f"{n:8,}", *cells)

# %% [markdown]
# This is why the art of unmasking (lesson 05) and the speed of a pass belong together: a backbone that is twice as fast
# allows twice as many steps in the same time.

# %% [markdown]
# ## 8. Memory
#
# The sweep also recorded the peak memory of a pass, including the weights. A naive attention holds a table of length
# times length for each head. Does ours?

# %%
peaks = {name: {} for name in entries}
for name, title in zip(entries, result.entries):
    peaks[name] = {p.length: p.peak_memory_bytes / 1e6 for p in result.points if p.entry == title}
config = entries["diffutran"].config
heads = config.d_model // config.attention_headdim
naive = {n: heads * n * n * 4 / 1e6 for n in lengths}
show(log_log({**peaks, "tables of one layer, if stored": naive}, "MB"))
n = lengths[-1]
print(f"At {n:,} tokens the tables of one attention layer would be {naive[n]:,.0f} MB.")
for name, curve in peaks.items():
    print(f"{name:14} took {curve[max(curve)]:,.0f} MB at {max(curve):,} tokens")
print(f"How it was measured: {result.memory_method}.\n")
per_token = {}
for name, curve in peaks.items():
    short, long = sorted(curve)[-2:]
    per_token[name] = 1000 * (curve[long] - curve[short]) / (long - short)
    print(f"{name:14} {per_token[name]:6.1f} kB for each further token")
ratio = (
    per_token["diffuapriel"] / per_token["diffutran"] if per_token["diffutran"] > 0 else math.nan
)
print(f"DiffuApriel takes {ratio:.1f} times DiffuTran's memory per token")

# %% [markdown]
# PyTorch's attention works through the table piece by piece and never stores it (the idea of FlashAttention). So **the
# memory** of both backbones grows linearly; only the time of attention grows with the square. On log axes two linear
# curves look parallel, whatever their factor, so look at the last lines printed: kilobytes for each further token. A
# Mamba layer keeps more numbers per token, because `in_proj` makes z, x, B, C and dt for both directions: 2 (4 d + 2 N
# + H) numbers, beside 3 d for attention's queries, keys and values. At the left, the height of the lines is the
# weights.

# %% [markdown]
# ## 9. A race to watch
#
# Numbers are one thing, watching is another. Two trained models that come with the project write at the length that
# they were trained on, 128 tokens, in the same number of steps and in interleaved runs as above. `race_events` yields
# after each step, so that we can draw a progress bar; the drawing is not timed.

# %%
from diffuapriel.benchmark.generation import race_events


def race(racing, length, steps, **options):
    """The outcome of a race, with a progress bar."""
    bar = tqdm(total=100, desc=f"{length:,} tokens")
    for event in race_events(racing, length, steps, repeats=2, warmup_steps=1, **options):
        bar.update(round(100 * event.fraction) - bar.n)
        outcome = event.result
    bar.close()
    return outcome


trained = [Entry.from_checkpoint(name) for name in ("tales-diffuapriel", "tales-diffutran")]
outcome = race(trained, 128, 8 if QUICK else 64, block_length=16, top_p=0.9)
for entry in outcome.entries:
    print(
        f"{entry.name:20} {entry.seconds:6.2f} s, {entry.tokens_per_second:6.0f} tokens/s", end=""
    )
    print(f", {entry.denoiser_share:.0%} of it in the denoiser")
print()
print(*outcome.fairness(), sep="\n")

# %% [markdown]
# A result without such information is an advertisement. Now the replay. Both players contain the measured times: choose
# the measured speed in each, start both, and watch.

# %%
from diffuapriel.trace.player.widget import Player

for entry in outcome.entries:
    display(Player.from_trace(entry.trace, height="14em"))

# %% [markdown]
# Which model should have won at this length, according to section 4? Now the clock alone, for texts that these models
# were not trained to write: the untrained *nano* models, whose words do not matter. Three races show the crossing
# again, this time of whole generations.

# %%
distances = (64, 128, 256) if QUICK else (256, 1024, 4096)
clock = {"diffuapriel": {}, "diffutran": {}}
for n in distances:
    outcome = race([entries[name] for name in clock], n, 2)
    for name, entry in zip(clock, outcome.entries):
        clock[name][n] = 1000 * entry.seconds / 2
show(log_log(clock, "ms per step of a race"))
for n in distances:
    print(
        f"{n:6,} tokens: DiffuTran takes {clock['diffutran'][n] / clock['diffuapriel'][n]:.2f}",
        end=" ",
    )
    print("times as long as DiffuApriel")
mine = cross_of(list(distances), *(list(curve.values()) for curve in clock.values()))
print(f"the races cross at {f'{mine:,.0f} tokens' if mine else 'no length between these'}")

# %% [markdown]
# The trained models are wider and deeper than *nano*. A wider model spends more time on its matrices, so its crossing
# is at a greater length.

# %% [markdown]
# ## 10. On a GPU
#
# ![A program loads a chunk, scans it, gates it, and stores it once](diagrams/kernel.svg)
#
# On a GPU the picture is the same, with larger numbers and two differences. The matrix rate is so high that a kernel on
# a short text is done before the next one has been launched: at short lengths you measure the launches, and all curves
# are flat. So the package compiles the blocks and records each shape once as a *CUDA graph*, in the same way for all
# entries. And attention has excellent kernels on GPUs, so the crossing moves to longer texts. If there is a GPU, the
# next cell runs the sweep with the Triton kernels in bfloat16 (16-bit numbers).

# %%
if torch.cuda.is_available():
    gpu_entries = [Entry.random("small", name, device="cuda").tuned() for name in entries]
    for event in sweep_events(gpu_entries, lengths=(1024, 2048, 4096, 8192, 16384), repeats=5):
        on_gpu = event.result
    show(log_log({n: on_gpu.curve(t) for n, t in zip(entries, on_gpu.entries)}, "ms on this GPU"))
    for cross in on_gpu.crossovers:
        print(cross.message)
    print({entry.architecture: (entry.scan, entry.attention, entry.dtype) for entry in gpu_entries})
else:
    print("No CUDA GPU here. On one, the curves are flat at short lengths, then DiffuTran's bends")
    print(
        "upwards, and they cross at a few thousand tokens instead of a few hundred. The command is"
    )
    print("    diffuapriel bench --gpu")

# %% [markdown]
# And the paper? These are **its** numbers, not ours, for another machine and larger models:

# %%
from diffuapriel.benchmark.verdict import PUBLISHED

for said in PUBLISHED:
    print(f"{said.architecture:14} up to {said.ratio} times DiffuTran's throughput ", end="")
    print(f"({said.version}: {said.setting})")
n = max(curves["diffutran"])
ours = curves["diffutran"][n] / curves["diffuapriel"][n]
print(f"\nhere, diffuapriel at {n:,} tokens: {ours:.1f} times DiffuTran's speed")

# %%
score()

# %% [markdown]
# Two ratios can be compared only if length, model size, machine, batch size and attention kernel are known for both.
# The longer the text, the larger the ratio, without limit: "up to" says something about the longest length that
# somebody tried.
#
# ## What you learned
#
# - **Measuring**: warm up, take medians, interleave the runs. Otherwise a model can beat itself.
# - **Curves**: an exponent belongs to a range of lengths; the crossing tells you which model to use for which text.
# - **Counting**: per token, matrices cost as many multiply-adds as they have parameters, attention 2 L d more, the scan
#   a constant. The machine's matrix rate and bandwidth are the limits.
# - **Generations**: the number of steps times the time of a pass. Both matter.
#
# ## Going further
#
# - Use the preset *tiny* instead of `nano`. Where does the crossing move? Predict it by counting first.
# - Set `torch.set_num_threads(1)` and repeat sections 2 and 6. Which of the two models gains more from a second
#   thread?
# - Change the batch: `sweep_events(..., batch=8)`. Does the crossing move? Why (not)?
#
# **Papers.** DiffuApriel, [arXiv:2511.15927](https://arxiv.org/abs/2511.15927). Mamba-2 and its chunked scan,
# [arXiv:2405.21060](https://arxiv.org/abs/2405.21060). Attention without the table: FlashAttention,
# [arXiv:2205.14135](https://arxiv.org/abs/2205.14135).
