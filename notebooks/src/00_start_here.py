# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · Start here
#
# This course is about language models that write by filling in blanks. You build such models, train them, look inside
# them and measure them. In this lesson you check that everything works and let a first model write. You do not need to
# know anything yet, not even what a notebook is.
#
# **You will be able to**
#
# - run the cells of a notebook, and start again when something goes wrong;
# - say what this machine can do, and how long the lessons will take on it;
# - let a model write a text, and fill the holes in yours;
# - use the questions, the exercises and their checkers.
#
# **You need** nothing. A little Python helps. On a laptop where nothing may be installed, open `diffuapriel.html` in a
# browser instead (your teacher has it, or `make page` writes it): a model of the same kind writes there.
#
# | part | minutes |
# |---|---|
# | 1. How a notebook works | 3 |
# | 2. Is everything here? | 2 |
# | 3. What can this machine do? | 3 |
# | 4. Watch a model write | 6 |
# | 5. Texts with holes | 10 |
# | 6. How the course works | 10 |
#
# {{measured}}

# %% [markdown]
# ## 1. How a notebook works
#
# A notebook is made of **cells**: some hold text, like this one, and some hold Python, like the next. To run a cell,
# click into it and press **Shift + Enter**. The result appears below it, and the next cell is selected. Run the cells
# in order, because each one uses what the earlier ones have made.
#
# Try it:

# %%
print("It works.", 6 * 7)

# %% [markdown]
# Three things that help:
#
# - While a cell runs, it shows a star: `[*]`. When it is done, it shows a number. To stop it, press ■ above.
# - You cannot break anything. Change a cell and run it again, as often as you like.
# - If nothing works any more, choose **Kernel → Restart Kernel** in the menu and start again at the top.

# %% [markdown]
# ## 2. Is everything here?
#
# The next cell looks for the packages that the lessons use. You do not need to read its Python. Look at the list below
# it: does every line say *ok*?

# %%
import sys
from importlib.metadata import PackageNotFoundError, version

USED_FOR = {
    "diffuapriel": "this project: the models, the lessons and the app",
    "torch": "the mathematics (PyTorch)",
    "numpy": "tables of numbers",
    "tiktoken": "cutting texts into tokens",
    "safetensors": "reading the bundled models",
    "plotly": "interactive figures",
    "matplotlib": "plain figures",
    "ipywidgets": "buttons",
    "anywidget": "the player, which shows a model writing",
    "tqdm": "progress bars",
    "psutil": "how much memory there is",
}
print(
    f"Python {sys.version.split()[0]}"
    + ("" if sys.version_info >= (3, 11) else "  TOO OLD: 3.11 is needed")
)
missing = []
for package, purpose in USED_FOR.items():
    try:
        print(f"ok       {package:12} {version(package):14} {purpose}")
    except PackageNotFoundError:
        missing.append(package)
        print(f"MISSING  {package:12} {'':14} {purpose}")
if missing:
    print("\nTo install everything and open these lessons again, close JupyterLab and type in the")
    print("project's folder:\n    make lab   (on Windows: python start.py lab)")
    print("Or install only what is missing, for this Python:")
    names = ["--no-deps -e ." if name == "diffuapriel" else name for name in missing]
    for name in names:
        print(f"    {sys.executable} -m pip install {name}")
else:
    print("\nEverything is here.")

# %% [markdown]
# Nearly every lesson begins with a cell like the next one. It loads what the lesson needs, which may take a few
# seconds, and fixes the random numbers so that everybody gets the same ones.

# %%
import os
import time

import psutil
import torch

from diffuapriel.checkpoint import bundled
from diffuapriel.lessons import QUICK, check, predict, prepare, quiz, score, use

prepare()

for name in ("tales-diffuapriel", "tales-diffuapriel-h", "tales-diffutran"):
    print("ok      " if name in bundled() else "MISSING ", f"the bundled model {name}")
if "tales-diffuapriel" not in bundled():
    print("The models belong in the project's folder assets: git checkout -- assets")

# %% [markdown]
# ## 3. What can this machine do?
#
# Every lesson runs on an ordinary processor (CPU), without a network. A graphics card (GPU) is nice to have but never
# needed. The last lines are about the *scan*, the inner loop of the models: they list which implementations can run
# here, and why the others cannot. On a laptop, `recurrent` and `chunked` run, and `chunked` is the fast one. That is
# all you need.

# %%
from diffuapriel.ops.ssd import report

gpu = torch.cuda.is_available()
memory = psutil.virtual_memory()
print(f"processor   {os.cpu_count()} cores; the lessons use {torch.get_num_threads()}")
print(f"memory      {memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free")
print(
    f"GPU         {torch.cuda.get_device_name() if gpu else 'none (the lessons do not need one)'}"
)
print()
for line in report(torch.empty(0, device="cuda" if gpu else "cpu")):
    print(line)
if memory.available < 3e9:
    print("\nMemory is low. Close other programs and other notebooks (Kernel → Shut Down All).")

# %% [markdown]
# How fast is it? We load one of the *bundled* models, which come with the project already trained, and let it read a
# text again and again for a second or two. A text is made of **tokens**: short words, or pieces of longer ones. So we
# measure speed in *tokens per second*.
#
# The header of each lesson says how many minutes the machine needs to run all of it, measured on two processor cores.
# The last line below says what that means for your machine. (If it is busy with something else, wait until it is idle
# and run the cell again.)

# %%
from diffuapriel import load_checkpoint

REFERENCE = 3100  # tokens per second on the two cores where the minutes were measured
model, tokenizer = load_checkpoint("tales-diffuapriel")
ids = torch.full((1, 128), tokenizer.mask_id)  # one text of 128 tokens, all of them masked
sigma, everywhere = torch.tensor([3.0]), torch.ones(1, 128, dtype=torch.bool)

runs = []
with torch.no_grad():
    for _ in range(3 if QUICK else 15):
        began = time.perf_counter()
        model(ids, sigma, everywhere)
        runs.append(time.perf_counter() - began)
speed = 128 / sorted(runs)[len(runs) // 2]  # the median run

print(f"The model reads {speed:,.0f} tokens per second here.")
factor = REFERENCE / speed
if factor <= 1.5:
    print("Fast enough: expect the minutes in the lessons' headers, or fewer.")
elif factor <= 4:
    print(
        f"Slow: expect about {factor:.1f} times the minutes in the headers. Close other programs."
    )
else:
    print(f"Very slow: about {factor:.0f} times the minutes in the headers. Share a laptop.")

# %% [markdown]
# ## 4. Watch a model write
#
# The model was trained on *tales*, short stories made for this project. We give it a row of 64 tokens (32 on a very
# slow machine): a name, *Mia*, which is two tokens long, and otherwise masks. A mask is a special token called
# `[MASK]`. It writes one token per step, which takes some seconds.
#
# **Predict, then run.** In which order will the model fill the masks? The next cell shows the letters as buttons. Run
# it and click one of them before you run the cells after it.
#
# - **A** · from left to right, as you read and write
# - **B** · all at once
# - **C** · here and there, in no simple order

# %%
guess_1 = predict("A", "B", "C", name="00.1")
guess_1

# %%
from diffuapriel import Canvas, Sampler, SamplerConfig, generate, get_schedule
from diffuapriel.trace.player.widget import Player


def make_writer(steps, seed=0):
    """A sampler: it asks the model what belongs in the masks and fills in a few at each step."""
    options = SamplerConfig(strategy="low_confidence", steps=steps, top_p=0.9, seed=seed)
    return Sampler(options, get_schedule("log-linear"), tokenizer.mask_id)


length = 64 if factor <= 4 else 32
canvas = Canvas.from_text("Mia", tokenizer, length=length)
writer = make_writer(steps=4 if QUICK else length)
trace = Player().record(writer, model, canvas, tokenizer, model="tales-diffuapriel")

# %% [markdown]
# Press play to see it again. Drag the slider. Point at a token to see what else the
# model considered at that moment. If you see `<|endoftext|>`: that token means *the story ends here*.
#
# Now the answer. We list the positions in the order in which they were filled.

# %%
order = [position for frame in trace.frames for position in frame.revealed]
print("The first positions filled, counted from 0:", *order[:20])
if len(trace.frames) == 2:  # the start, and one step
    answer = "B"
else:
    answer = "A" if order == sorted(order) else "C"
guess_1.reveal(answer)

# %% [markdown]
# Look at the first numbers. Did it begin at the end of the row? Often the model is surest that nothing comes after the
# story.
#
# This is a **masked diffusion** model. In lesson 01 you build one from nothing.

# %% [markdown]
# ## 5. Texts with holes
#
# The model starts from a **canvas**: a row of tokens, some given, some masked. You write a canvas as a text. `[MASK]`
# is one masked token, `[MASK:6]` is six.

# %%
canvas = Canvas.from_text("Tom had a [MASK:2], but he lost it at the [MASK:1].", tokenizer)
print(f"{len(canvas)} tokens, as numbers: {canvas.ids.tolist()}")
print(f"[MASK] has the number {canvas.mask_id}")
filled = generate(make_writer(steps=8), model, canvas)[0]
print(tokenizer.decode(filled.tolist()))

# %% [markdown]
# ### Exercise 1: count the masks
#
# *Must · easy · 4 minutes*
#
# This is your first exercise. Write a function that counts the masked tokens of a canvas. `canvas.ids` holds the
# canvas's tokens as numbers (their *ids*), and `canvas.mask_id` is the id of `[MASK]`.
#
# Replace `return None` with your line. Run the cell, then run the next one: it tries your function on canvases that you
# have not seen. If you are stuck, click a hint.
#
# <details><summary>Hint 1: the idea</summary>Compare every token with the id of <code>[MASK]</code>, and count where
# they are equal.</details>
# <details><summary>Hint 2: the shape</summary><code>canvas.ids == canvas.mask_id</code> is a row of True and False.
# Try it in a cell of your own (the + button above adds one). True counts as 1 and False as 0.</details>
# <details><summary>Hint 3: the code</summary><code>.sum()</code> adds up such a row. Do not forget
# <code>return</code>.</details>


# %% tags=["exercise"]
def count_masks(canvas):
    """canvas.ids (length,) are numbers. Returns how many of them are [MASK]."""
    return None  # your line here


# %% tags=["solution"]
def count_masks(canvas):
    """canvas.ids (length,) are numbers. Returns how many of them are [MASK]."""
    return (canvas.ids == canvas.mask_id).sum().item()


# %%
check.count_masks(count_masks)

# %% [markdown]
# The box says *Right*, *Not yet* with a hint, or *Not done yet*. A checker never stops you: you can always go on.
#
# **Predict, then run.** The canvas is `[MASK:2] lost her map. She was sad.` Two tokens are enough for a name. The
# stories are about boys as often as about girls. We fill the canvas many times. How often will the name be a girl's?
#
# - **A** · about half the time: the name comes before *her*
# - **B** · nearly always
# - **C** · hardly ever

# %%
guess_2 = predict("A", "B", "C", name="00.2")
guess_2

# %%
from diffuapriel.tales.lexicon import BOYS, GIRLS

TIMES = 4 if QUICK else 32
canvas = Canvas.from_text("[MASK:2] lost her map. She was sad.", tokenizer)
table = generate(make_writer(steps=8), model, [canvas] * TIMES)
names = [tokenizer.decode(row.tolist()).split(" lost")[0] for row in table]
girls, boys = (sum(name in group for name in names) for group in (GIRLS, BOYS))
print(", ".join(names))
print(f"\n{girls} girls, {boys} boys")
share = girls / TIMES
guess_2.reveal("B" if share > 0.75 else "C" if share < 0.25 else "A")

# %% [markdown]
# A model that writes from left to right cannot do that. Put *his* and *He* in the cell above and run it again.
#
# ### Exercise 2: a canvas of your own
#
# *Must · easy · 4 minutes*
#
# Write a text with three parts: a beginning of your own, **one** hole of two masks or more, and an ending of your own.
# It could be about what somebody found, lost or ate. The model knows only its short stories: names like Mia and Tom,
# things like a kite or a lamp.
#
# <details><summary>Hint 1: the idea</summary>Take a sentence, "Anna ate six plums at school.", and replace two or
# three words in the middle by a hole.</details>
# <details><summary>Hint 2: the shape</summary>The text is in quotation marks: <code>return "..."</code>. The hole is
# in square brackets, with a colon before the number of masks, as in the cells above.</details>
# <details><summary>Hint 3: the code</summary><code>return "Anna ate [MASK:3] at school."</code>, but with your own
# words.</details>


# %% tags=["exercise"]
def my_text():
    """Returns a text: something given, one hole of two masks or more, something given."""
    return None  # your line here


# %% tags=["solution"]
def my_text():
    """Returns a text: something given, one hole of two masks or more, something given."""
    return "One day, Anna found a [MASK:3] in the park. She was very happy."


# %%
check.canvas_text(my_text)

# %% [markdown]
# Now the model fills your hole five times, one mask per step; `count_masks` of exercise 1 says how many steps that are.
# (Where you have no answer yet, one of ours is taken.) If the result looks odd, change the number of masks: the model
# must fill every one of them with a token.

# %%
count = use(check.count_masks, count_masks)
text = use(check.canvas_text, my_text)()
canvas = Canvas.from_text(text, tokenizer)
for seed in range(5):
    filled = generate(make_writer(steps=count(canvas), seed=seed), model, canvas)[0]
    print(tokenizer.decode(filled.tolist()))

# %% [markdown]
# ## 6. How the course works
#
# ![The lessons as boxes, with arrows to those that need them](diagrams/course.svg)
#
# - **Predict, then run.** Guess before you look. A wrong guess teaches more than none.
# - **Exercises** have three hints (the idea, the shape, the code), a difficulty and the minutes they take. *Must*:
#   later lessons build on it. *May*: do it if you like. A checker says *Right* or gives a hint, and later cells run
#   your code if it is right, otherwise ours. The folder `solutions` has every lesson with its exercises solved. Try
#   first.
# - **Your score** is told at the end of each lesson and kept on this machine, in `runs/lessons`.
# - **Minutes** in the header of a lesson are for reading, thinking and waiting. Slow cells show a progress bar.
#
# | lesson | what happens there |
# |---|---|
# | 01 · Masked diffusion from nothing | You build a model that writes: noise, loss, training and sampler. |
# | 02 · Mamba-2 by hand | A fading memory turns out to be attention, and you compute it in four ways. |
# | 03 · The DiffuApriel denoiser | You combine two directions into the model of this project. |
# | 04 · Which backbone learns? | A Mamba, a Transformer and a hybrid learn side by side, on equal terms. |
# | 05 · The art of unmasking | Which masks are filled first, and how many at once? Quality against steps. |
# | 06 · Speed | Where the Transformer is faster, where Mamba is faster, and why. |
# | 07 · Is it any good? | How to measure a model, and how measures can mislead. |
# | 08 · Your own text | You train a model on your own text, and take its writing home. |
# | 09 · Blocks, and a cache that is exact | One model writes token by token, in blocks, or all at once. |
# | 10 · Against GPT | Twins that write from left to right: who predicts better, and who fills holes? |
# | 11 · Recall | How many pairs fit into a state, and why the hybrid has attention. |
# | 12 · A kernel by hand | You write the scan as a GPU program. No GPU is needed. |
# | 13 · Learning from a verifier | A reward makes stories right. What does it cost? |
#
# Begin with 01. After that, take 02 to 08 in order; 09 to 13 are to choose from. For a short course, take 01, sections
# 1 and 2 of 03, then 06 and 05.
#
# ### Ten questions before you begin
#
# Answer them now, and again after lesson 08: the difference is what you have learned. Do not worry if you know
# none of it. The answers are told the second time: change "before" to "after" then.

# %%
quiz("before")

# %%
score()

# %% [markdown]
# There is also an **app** that does all this with buttons. In a terminal, in the project's folder, type `make demo` (on
# Windows: `python start.py demo`). These lessons open with `make lab` (on Windows: `python start.py lab`).

# %% [markdown]
# ## What you learned
#
# - Shift + Enter runs a cell. Run the cells in order.
# - A masked diffusion model fills in blanks, in any order, and sees both sides of each.
# - A canvas is a row of tokens, some given and some masked. The given tokens may be at the beginning, at the end or
#   anywhere else: to the model it is all the same.
#
# ## Going further
#
# - Change the name in section 4, or the length, or the seed of the writer. What do all the stories have in common?
# - Give a canvas that no story would contain, such as `The lamp ate a [MASK:2].` What does the model do?
# - Leave far too much room: `Mia was [MASK:20] sad.` Why is that hard?
#
# **Papers.** The model of this project: DiffuApriel, [arXiv:2511.15927](https://arxiv.org/abs/2511.15927). Writing by
# unmasking: MDLM, [arXiv:2406.07524](https://arxiv.org/abs/2406.07524).
