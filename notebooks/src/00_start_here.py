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
# This course is about language models that write by filling in blanks. You build them, train them, look inside them and
# measure them. Here you check that everything works, and let a first model write. You need not know anything yet, not
# even what a notebook is.
#
# **You will be able to**
#
# - run the cells of a notebook, and start again when something goes wrong;
# - say what this machine can do, and how long the lessons will take on it;
# - let a model write a text, and fill the holes of yours;
# - use the questions, the exercises and their checkers.
#
# **You need** nothing. A little Python helps.
#
# | part | minutes |
# |---|---|
# | 1. How a notebook works | 3 |
# | 2. Is everything here? | 2 |
# | 3. What can this machine do? | 3 |
# | 4. Watch a model write | 6 |
# | 5. Texts with holes | 10 |
# | 6. How the course works | 4 |
#
# {{measured}}

# %% [markdown]
# ## 1. How a notebook works
#
# A notebook is made of **cells**: some hold text, like this one, and some hold Python, like the next. To run a cell,
# click into it and press **Shift + Enter**; the result appears below, and the cell after it is next. Run the cells in
# order, as each one knows what those before it have made.
#
# Try it:

# %%
print("It works.", 6 * 7)

# %% [markdown]
# Three things that help:
#
# - While a cell works, a star stands beside it: `[*]`. Then comes a number. To stop it, press ■ above.
# - You cannot break anything. Change a cell and run it again, as often as you like.
# - If all seems lost, choose **Kernel → Restart Kernel** in the menu, and begin at the top.

# %% [markdown]
# ## 2. Is everything here?
#
# The next cell looks for the packages that the lessons use. You need not read its Python. Look at the list below it:
# does each line say *ok*?

# %%
import sys
from importlib.metadata import PackageNotFoundError, version

USED_FOR = {
    "diffuapriel": "this project: the models, the lessons and the app",
    "torch": "the mathematics (PyTorch)",
    "numpy": "tables of numbers",
    "tiktoken": "cutting texts into tokens",
    "safetensors": "reading the bundled models",
    "plotly": "figures that answer to the mouse",
    "matplotlib": "plain figures",
    "ipywidgets": "buttons",
    "anywidget": "the player, which shows a model writing",
    "tqdm": "progress bars",
    "psutil": "how much memory there is",
}
print(
    f"Python {sys.version.split()[0]}" + ("" if sys.version_info >= (3, 11) else "  TOO OLD: 3.11")
)
missing = []
for package, purpose in USED_FOR.items():
    try:
        print(f"ok       {package:12} {version(package):14} {purpose}")
    except PackageNotFoundError:
        missing.append(package)
        print(f"MISSING  {package:12} {'':14} {purpose}")
if missing:
    print(
        "\nTo get what is missing, close JupyterLab and type in the folder of the project:\n    make lab"
    )
    print("That installs everything and opens these lessons again. Or, for this Python alone:")
    names = ["--no-deps -e ." if name == "diffuapriel" else name for name in missing]
    for name in names:
        print(f"    {sys.executable} -m pip install {name}")
else:
    print("\nEverything is here.")

# %% [markdown]
# Nearly every lesson begins with a cell like the next one. It loads what is needed, which may take some seconds, and
# makes random numbers come out the same for everybody. `QUICK` is True where the tests of this project run the lesson.

# %%
import os
import time

import psutil
import torch

from diffuapriel.checkpoint import bundled
from diffuapriel.lessons import QUICK, check, predict, prepare

prepare()

for name in ("tales-diffuapriel", "tales-diffuapriel-h", "tales-diffutran"):
    print("ok      " if name in bundled() else "MISSING ", f"the bundled model {name}")
if "tales-diffuapriel" not in bundled():
    print("The models lie in the folder assets of the project: git checkout -- assets")

# %% [markdown]
# ## 3. What can this machine do?
#
# Every lesson runs on an ordinary processor (CPU), without a network. A graphics card (GPU) is nice to have and never
# needed. The last lines are about the *scan*, the inner loop of the models: which programs for it can run here, and why
# the others cannot. On a laptop, `chunked` is the one that works, and that is as it should be.

# %%
from diffuapriel.ops.ssd import report

gpu = torch.cuda.is_available()
memory = psutil.virtual_memory()
print(f"processor   {os.cpu_count()} cores, of which the lessons use {torch.get_num_threads()}")
print(f"memory      {memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB of it free")
print(
    f"GPU         {torch.cuda.get_device_name() if gpu else 'none (the lessons do not need one)'}"
)
print()
for line in report(torch.empty(0, device="cuda" if gpu else "cpu")):
    print(line)
if memory.available < 3e9:
    print("\nMemory is short. Close other programs, and other notebooks (Kernel → Shut Down All).")

# %% [markdown]
# And how fast is it? We load one of the *bundled* models, which were trained before and come with the project, and let
# it read a text again and again, for a second or two. A text is made of **tokens**: short words, or pieces of longer
# ones. So the speed is given in *tokens per second*.
#
# In the head of each lesson stands how many minutes the machine works for all of it. That was measured on two
# processor cores. The last line says what it means for you. (If the machine is busy with something else, wait until it
# is not, and run the cell again.)

# %%
from diffuapriel import load_checkpoint

THERE = 1250  # tokens per second of the two cores on which the minutes were measured
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
factor = THERE / speed
if factor <= 1.5:
    print("Comfortable: expect the minutes in the heads of the lessons, or fewer.")
elif factor <= 4:
    print(
        f"Long: expect about {factor:.1f} times the minutes in the heads. Close what else is running."
    )
else:
    print(f"Very long: about {factor:.0f} times the minutes in the heads. Team up with a neighbor.")

# %% [markdown]
# ## 4. Watch a model write
#
# The model has learnt from *tales*, little stories made for this project. We give it a row of 64 tokens: a name, *Mia*,
# which is two tokens, and 62 blanks. A blank is a token of its own, called `[MASK]`.
#
# **Predict, then run.** In which order will the blanks be filled? The next cell shows the letters as buttons: run it,
# and click on one of them. Only *then* run the cells after it.
#
# - **A** · from left to right, as you read and write
# - **B** · all at once
# - **C** · here and there, in no simple order

# %%
guess_1 = predict("A", "B", "C")
guess_1

# %%
from diffuapriel import Canvas, Sampler, SamplerConfig, generate, get_schedule
from diffuapriel.trace.player.widget import Player


def make_writer(steps, seed=0):
    """A sampler: it asks the model what belongs in the blanks, and fills in a few at each step."""
    options = SamplerConfig(strategy="low_confidence", steps=steps, top_p=0.9, seed=seed)
    return Sampler(options, get_schedule("log-linear"), tokenizer.mask_id)


canvas = Canvas.from_text("Mia", tokenizer, length=64)
writer = make_writer(steps=4 if QUICK else 64)
trace = Player().record(writer, model, canvas, tokenizer, model="tales-diffuapriel")

# %% [markdown]
# Press play to see it again. Drag the slider. Point at a token to see what else the model had in mind at that moment.
# If you see `<|endoftext|>`: that is the token for *the story ends here*.
#
# Now the answer. We look at which places were filled in which order.

# %%
order = [place for frame in trace.frames for place in frame.revealed]
print("The first places filled, counted from 0:", *order[:20])
if len(trace.frames) == 2:  # the start, and one step
    answer = "B"
else:
    answer = "A" if order == sorted(order) else "C"
guess_1.reveal(answer, "It fills what it is most sure of, and looks at both sides of each blank.")

# %% [markdown]
# Look at the first numbers. Did it begin at the end of the row? That nothing comes after a story is often what it knows
# most surely.
#
# That is a **masked diffusion** model. Lesson 01 builds one from nothing.

# %% [markdown]
# ## 5. Texts with holes
#
# What the model starts from is called a **canvas**: a row of tokens, some given, some masked. You write one as a text.
# `[MASK]` is one masked token, `[MASK:6]` stands for six.

# %%
canvas = Canvas.from_text("Tom had a [MASK:2], but he lost it at the [MASK:1].", tokenizer)
print(f"{len(canvas)} tokens, as numbers: {canvas.ids.tolist()}")
print(f"[MASK] has the number {canvas.mask_id}")
filled = generate(make_writer(steps=8), model, canvas)[0]
print(tokenizer.decode(filled.tolist()))

# %% [markdown]
# ### Exercise 1: count the masks
#
# Your first exercise. Write a function that counts the masked tokens of a canvas. `canvas.ids` holds the numbers of its
# tokens, and `canvas.mask_id` is the number of `[MASK]`.
#
# Write your line in place of `return None`, run the cell, and then the one after it: it tries your function on canvases
# that you have not seen. If you are stuck, click on a hint.
#
# <details><summary>Hint 1</summary>Compare the two: <code>canvas.ids == canvas.mask_id</code> is a row of True and
# False. Try it in a cell of your own (the + above makes one).</details>
# <details><summary>Hint 2</summary>True counts as 1 and False as 0, and a row of them can be added up with
# <code>.sum()</code>. Remember the word <code>return</code>.</details>


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
# The box says *Right*, *Not yet* with a hint, or *Not done yet*. A checker never stops you: you may always go on.
#
# **Predict, then run.** The canvas is `[MASK:2] lost her map. She was sad.` Two tokens are room for a name. The stories
# know as many boys as girls. We fill the canvas many times. How often will the name be a girl's?
#
# - **A** · about half of the time: when the name is written, *her* is not there yet
# - **B** · nearly always
# - **C** · hardly ever

# %%
guess_2 = predict("A", "B", "C")
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
guess_2.reveal(
    "B" if share > 0.75 else "C" if share < 0.25 else "A",
    "The model reads the whole row, so it knows of 'her' before it writes the name.",
)

# %% [markdown]
# A writer from left to right cannot do that. Put *his* and *He* in the cell above and run it again.
#
# ### Exercise 2: a canvas of your own
#
# Write a text with three parts: a beginning of yours, **one** hole of two masks or more, and something of yours behind
# it. For example about what somebody found, lost or ate. The model knows only its little stories: names like Mia and
# Tom, things like a kite or a lamp.
#
# <details><summary>Hint 1</summary>A text stands in quotation marks: <code>return "..."</code>. The hole is written in
# capital letters, square brackets, with a colon before the number, as in the cells above.</details>
# <details><summary>Hint 2</summary>Take a sentence, <code>"Anna ate six plums at school."</code>, and replace two or
# three words in the middle.</details>


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
# And now the model fills your hole, five times. (With no text of yours, it takes one of ours.) If the result is odd,
# change the number of masks: the hole has room for so many tokens, and the model must use them all.

# %%
text = my_text() if check.canvas_text(my_text) else "Mia had a [MASK:3], but she lost it."
canvas = Canvas.from_text(text, tokenizer)
for seed in range(5):
    filled = generate(make_writer(steps=32, seed=seed), model, canvas)[0]
    print(tokenizer.decode(filled.tolist()))

# %% [markdown]
# ## 6. How the course works
#
# - **Predict, then run.** Guess before you look. A wrong guess is not counted anywhere, and it teaches more than none.
# - **Exercises** have hints and a checker. In the folder `solutions` every lesson has its exercises solved. Try first.
# - **Minutes** in the head of a lesson are for reading, thinking and waiting. Cells that take long show a bar.
#
# | lesson | what happens there |
# |---|---|
# | 01 · Masked diffusion from nothing | You build a model that writes: noise, loss, training and sampler. |
# | 02 · Mamba-2 by hand | A memory that fades turns out to be attention, and you compute it in four ways. |
# | 03 · The DiffuApriel denoiser | You put two directions together into the model of this project. |
# | 04 · Which backbone learns? | Mamba, Transformer and hybrid learn side by side, on equal terms. |
# | 05 · The art of unmasking | Which blanks first, and how many at once? Quality against steps. |
# | 06 · Speed | Where the Transformer is faster, where Mamba is, and why. |
# | 07 · Is it any good? | How to measure a model, and how measures mislead. |
# | 08 · Your own text | You train a model on a text of yours, and take its writing home. |
#
# Begin with 01. After it, 02 to 08 can be read in order; for a short course, 01, 05 and 06 stand well together.
#
# There is also an **app** with all this behind buttons. In a terminal, in the folder of the project, type `make demo`.

# %% [markdown]
# ## What you learned
#
# - Shift + Enter runs a cell, and cells are run in order.
# - A masked diffusion model fills in blanks, in any order, and sees both sides of each.
# - A canvas is a row of tokens, some given and some masked. A given beginning, a given ending and a hole between them
#   are all the same to the model.
#
# ## Going further
#
# - Change the name in section 4, or the length, or the seed of the writer. What stays alike in all the stories?
# - Give a canvas that no story would contain, such as `The lamp ate a [MASK:2].` What does the model do?
# - Leave far too much room: `Mia was [MASK:20] sad.` Why is that hard?
#
# **Papers.** The model of this project: DiffuApriel, [arXiv:2511.15927](https://arxiv.org/abs/2511.15927). Writing by
# unmasking: MDLM, [arXiv:2406.07524](https://arxiv.org/abs/2406.07524).
