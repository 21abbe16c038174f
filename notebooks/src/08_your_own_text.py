# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 · Your own text
#
# So far the text was ours. Now take your own: essays, song lyrics, recipes, code. You train a model on it, fill holes
# in your sentences, see which tokens the model relies on, and find out whether it has learned or only copied. At the
# end you take home a replay that opens in any browser. If you have no text, the lesson comes with one.
#
# **You will be able to**
#
# - look at a text before training, and split it so that nothing leaks;
# - train with the package's loop, stop, and resume as if nothing had happened;
# - compare the result with a compressor, and tell learning from memorizing;
# - infill your own sentences, look inside the model, and export what you saw.
#
# **You need** lesson 01 (the loss, sampling), and a few files of text, if you like. Lesson 07 helps with bits per byte.
#
# | part | minutes |
# |---|---|
# | 1. Choose a text | 5 |
# | 2. Look before you train | 7 |
# | 3. A validation split without a leak | 13 |
# | 4. Train, stop, resume | 10 |
# | 5. What has it learned? | 8 |
# | 6. Infill | 8 |
# | 7. Look inside | 6 |
# | 8. Learned or copied? | 10 |
# | 9. Take it home | 4 |
#
# {{measured}}
#
# Where you read **predict, then run**, click a letter before you run the next cell. Three **exercises** check your
# answer, and the lesson then runs *your* code; where you have none, ours takes its place.

# %% [markdown]
# ## 1. Choose a text
#
# Between the quotes, write the path of a folder that contains text files, or of a single file. For the built-in text
# leave it empty, at least the first time: Aesop's fables, 280 of them. "code pages" is another built-in text.

# %%
FOLDER = ""  # for example "/home/me/my_poems"

# %% [markdown]
# The next cell only prepares things. Run it.

# %%
import random
import tempfile
from pathlib import Path

import plotly.graph_objects as go
import torch
from tqdm.auto import tqdm

from diffuapriel import Denoiser, get_schedule, get_tokenizer, preset
from diffuapriel.lessons import QUICK, check, predict, prepare, score, show, use
from diffuapriel.lessons.figure import error_bars

prepare()
tokenizer, schedule = get_tokenizer("gpt2-4k"), get_schedule("log-linear")
scratch = tempfile.TemporaryDirectory()  # deleted when the notebook ends
WORK = Path(scratch.name)

# %% [markdown]
# **What can a small model learn from a small text in a minute or two?** Not English. The fables have 200 kB: a few
# thousand words, and every sentence is new. In such a short time, a model as small as ours learns spelling, common
# words, and which word likes which neighbor. That is enough to ask the questions of this lesson: what has it learned,
# does it carry over to fables it has not seen, and does it copy?
#
# The built-in text has one fable more than the book: a **draft**, an earlier version of one of them, as any folder of
# essays has. Keep it in mind. If you write "code pages" above, you get a much narrower text: tables of the names of
# characters, which Python itself contains. They are full of near copies.

# %%
import encodings  # the code pages, one module each
import pkgutil  # lists modules
import unicodedata  # the names of characters


def code_pages():
    """{table: text}: the names of its characters 128 to 255, one per line."""
    texts = {}
    for module in pkgutil.iter_modules(encodings.__path__):
        if module.name.startswith(("cp", "iso8859", "koi8", "mac_")):
            found = (bytes([i]).decode(module.name, "ignore") for i in range(128, 256))
            names = [unicodedata.name(character, "").lower() for character in found if character]
            names = [name for name in names if name]
            if len(names) >= 64:  # some have few single-byte characters
                texts[module.name] = "\n".join(names) + "\n"
    return texts


# %%
from diffuapriel import assets


def fables():
    """{title: text} of Aesop's fables, one sentence per line, and a draft of one of them."""
    blocks = assets.path("fables.txt").read_text(encoding="utf-8").strip().split("\n\n")
    found = dict(block.split("\n", 1) for block in blocks)
    longest = max(found, key=lambda title: found[title].count("\n"))
    lines = found[longest].splitlines()
    found[f"{longest} (draft)"] = "\n".join(line for i, line in enumerate(lines) if i % 5 != 3)
    return {title: text + "\n" for title, text in found.items()}


# %% [markdown]
# For a folder, the package reads it as a corpus, in the same way as for training, and says what it read. If there are
# only a few documents, we cut them into pieces, so that there is something to hold out: after lines, and after words if
# there are few lines.

# %%
import re

from diffuapriel.data.files import file_corpus


def pieces(text, count=20):
    """About `count` pieces of a text, cut after lines, or after words, or anywhere: whatever it has enough of."""
    units = text.splitlines(keepends=True)
    if len(units) < count:
        units = re.findall(r"\s*\S+", text)
    if len(units) < count:
        units = list(text)
    size = max(1, len(units) // count)
    return ["".join(units[i : i + size]) for i in range(0, len(units), size)]


def folder_texts(folder):
    """{number and first words: text} of every document in a folder; fewer than ten are cut into pieces."""
    corpus = file_corpus(Path(folder).expanduser(), tokenizer)
    print(corpus.description)
    documents = [*corpus.splits["train"], *corpus.splits["validation"]]
    if len(documents) < 10:
        documents = [piece for piece in pieces("\n".join(documents)) if piece.strip()]
    if len(documents) < 10:
        raise ValueError(f"{folder} has too little text: a few hundred words are needed")
    words = [re.sub(r"\W+", "-", text.strip()[:24]) for text in documents]
    return {f"{i:05}-{start}": text for i, (start, text) in enumerate(zip(words, documents))}


builtin = {"": fables, "code pages": code_pages}
texts = builtin[FOLDER]() if FOLDER in builtin else folder_texts(FOLDER)
print(f"{len(texts)} documents, {sum(map(len, texts.values())):,} characters")

# %% [markdown]
# ## 2. Look before you train
#
# Many surprises in training come from the text. So read some of it first.

# %%
for name in random.Random(1).sample(sorted(texts), 3):
    print(f"--- {name}\n{texts[name][:230]} ...\n")

# %% [markdown]
# Then look at it as the model will, cut into tokens. The tokenizer was made for English text and knows 4,096 pieces. A
# common English word is one token; a rare word is cut into pieces. The fewer bytes per token, the worse the tokenizer
# fits the text.

# %%
some = texts[sorted(texts)[0]]
ids = tokenizer.encode(some)
print(" | ".join(tokenizer.token_strings(ids[:60])).replace("\n", "⏎"))

tokens = sum(len(tokenizer.encode(text)) for text in texts.values())
size = sum(len(text.encode()) for text in texts.values())
print(f"\n{tokens:,} tokens, {size:,} bytes: {size / tokens:.2f} bytes per token")
print(f"{len({i for text in texts.values() for i in tokenizer.encode(text)}):,} different tokens")

# %% [markdown]
# How much information is in the text? A **compressor** gives an answer: `xz` finds what is repeated and stores it only
# once. *Bits per byte* is the number of bits it needs for each byte of text. 8 means that it found no repetition. Later
# we compare the model with it.

# %%
import lzma  # the compressor xz, without the file's header

FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]


def packed_bits(text):
    """The number of bits that xz needs for a text."""
    return 8 * len(lzma.compress(text.encode(), format=lzma.FORMAT_RAW, filters=FILTERS))


for name in sorted(texts)[:3]:
    print(
        f"{name:12} alone {packed_bits(texts[name]) / len(texts[name].encode()):.2f} bits per byte"
    )
everything = "".join(texts.values())
print(f"{'all':12} together {packed_bits(everything) / size:.2f} bits per byte")

# %% [markdown]
# Do they need far fewer bits per byte together than each alone? Then the files repeat *each other*. Remember this.
#
# ## 3. A validation split without a leak
#
# To know what a model has learned, test it on text that it has not seen. So some files are held out for validation.
# Which ones? Random ones, you might say. But if a held-out file has a near copy among the training files, the model
# *has* seen it. This is called a **leak**, and it is the most common way to fool yourself. Your own folder probably
# contains such copies: drafts of the same essay, emails that quote each other, two exports of one page.
#
# Let us look for relatives: two files are related if the longer one contains most lines of the shorter one. Relatives
# of relatives count too. So the files form **groups**.

# %%
from itertools import combinations


def find_groups(texts, share=0.5):
    """Lists of related names, the largest first."""
    lines = {name: set(text.splitlines()) - {""} for name, text in texts.items()}
    group = {name: [name] for name in texts}  # name: the list that contains it
    for a, b in combinations(texts, 2):
        shorter = min(len(lines[a]), len(lines[b]))
        if shorter and len(lines[a] & lines[b]) / shorter > share and group[a] is not group[b]:
            group[a] += group[b]
            for name in list(group[b]):
                group[name] = group[a]
    different = {id(names): names for names in group.values()}
    return sorted(different.values(), key=lambda names: (-len(names), names))


groups = find_groups(texts)
if len(groups) < 3:  # too few to hold out two and train on the rest
    print("almost all documents are related: whatever you hold out leaks. Each is now a group.")
    groups = [[name] for name in texts]
for names in groups[:8]:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    print(f"{len(names):3}  {', '.join(names[:6])}{more}")

# %% [markdown]
# ### Exercise 1: a split that does not leak
#
# *Must · medium · 6 minutes*
#
# Write the split. You are given the groups and the share of the files to hold out. Do not split a group: hold it out
# completely or not at all. Take the smallest groups first, and stop as soon as the held-out files are at least this
# share of all files.
#
# <details><summary>Hint 1: the idea</summary>Go through the groups from the smallest to the largest. For each group,
# decide by the number of files held out so far.</details>
# <details><summary>Hint 2: the shape</summary>Two lists of names. <code>sorted(groups, key=len)</code> returns the
# groups in the right order; <code>total = sum(map(len, groups))</code> is the number of all files.</details>
# <details><summary>Hint 3: the code</summary><code>if len(validation) &lt; share * total:
# validation.extend(names)</code>, otherwise <code>train.extend(names)</code>.</details>


# %% tags=["exercise"]
def split_by_group(groups, share):
    """groups: lists of names. Returns two lists of names: training and validation."""
    return None  # your lines here


# %% tags=["solution"]
def split_by_group(groups, share):
    """groups: lists of names. Returns two lists of names: training and validation."""
    train, validation = [], []
    total = sum(map(len, groups))
    for names in sorted(groups, key=len):
        side = validation if len(validation) < share * total else train
        side.extend(names)
    return train, validation


# %%
check.split_by_group(split_by_group)

# %% [markdown]
# In this lesson we deliberately hold out two different kinds of files:
#
# - the **strangers**: what your split holds out, a tenth of the files. None of their relatives is in the training text.
# - a **twin**: a single file from a group whose other files stay in the training text. It makes the leak visible. Among
#   the fables, it is the one whose draft is in the training text.
#
# If your folder has no groups, all the better: then the twin is just another held-out file.

# %%
split = use(check.split_by_group, split_by_group)
train_names, strangers = split(groups, 0.1)
families = [names for names in groups if len(names) > 1 and set(names) <= set(train_names)]
twin = max(random.Random(8).choice(families or [train_names]), key=lambda name: len(texts[name]))
train_names = [name for name in train_names if name != twin]
print(
    f"{len(train_names)} files to train on\n{len(strangers)} strangers: {', '.join(strangers)[:90]} ..."
)
print(f"twin: {twin}")

for number, name in enumerate(train_names):  # what the training loop reads
    file = WORK / "train" / f"{number:05}.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_text(texts[name], encoding="utf-8")

# %% [markdown]
# ## 4. Train, stop, resume
#
# You saw the training loop in lesson 01. The package's loop is the same, plus what a long run needs: a progress bar, a
# log, an average of the weights, and a **state** on disk, so that a stopped run can resume. A `TrainConfig` contains
# all the settings. A folder is a corpus; the loop holds out a tenth of its files for its own validation curve.

# %%
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.loop import train

LENGTH = 16 if QUICK else 64  # tokens per sequence
shape = preset("nano", "diffuapriel", depth=2, expand=1, d_state=32, headdim=64)  # as in lesson 01


def options(folder, steps, **more):
    """The options of a run that has its own folder."""
    return TrainConfig(
        model=shape,
        corpus=str(WORK / "train"),
        folder=str(WORK / folder),
        length=LENGTH,
        batch_size=16,
        steps=steps,
        learning_rate=4e-3,
        warmup_steps=min(40, steps),
        **more,
    )


# %% [markdown]
# Does a stopped run really resume *exactly*? A short test: one run without interruption, and one that is stopped after
# half a second, as if somebody had closed the laptop. The same call resumes it. Then we compare the losses of all
# steps, to the last digit.

# %%
from diffuapriel.training.logging import read_log

N = 3 if QUICK else 12
train(options("whole", N), progress=False)
stopped = train(options("parts", N, stop_after_minutes=0.01), progress=False)
finished = train(options("parts", N), progress=False)
print(f"stopped after {stopped.step} of {N} steps, resumed until step {finished.step}")


def losses(folder):
    """The loss of every step of a run."""
    return [line["loss"] for line in read_log(WORK / folder) if "loss" in line]


assert losses("whole") == losses("parts")
print("all losses are equal:", " ".join(f"{loss:.4f}" for loss in losses("parts")[:6]), "...")

# %% [markdown]
# How is that possible? No random state has to be remembered: batches and noise are computed from the seed and the step
# number. So the complete state is the weights, the optimizer's state and the step number.
#
# Before the real run, keep an untrained model for later. Then train. This takes one to two minutes. While you wait,
# open a file of the text and try to guess the next line yourself.

# %%
torch.manual_seed(0)
untrained = Denoiser(shape)
STEPS = 4 if QUICK else 800
result = train(options("run", STEPS, validate_every=160))

# %%
from diffuapriel import load_checkpoint

model, _ = load_checkpoint(result.checkpoint)  # the averaged weights
log = read_log(WORK / "run")
loss = [line["loss"] for line in log if "loss" in line]
window = min(20, len(loss))  # steps
smooth = torch.tensor(loss).unfold(0, window, 1).mean(1).tolist()
checks = [line for line in log if "validation" in line]

figure = go.Figure(layout={"xaxis_title": "step", "yaxis_title": "nats/token", "height": 400})
figure.add_scatter(y=loss, name="one batch", line_color="silver")
figure.add_scatter(x=list(range(window, len(loss) + 1)), y=smooth, name="training, smoothed")
figure.add_scatter(
    x=[line["step"] for line in checks],
    y=[line["validation"] for line in checks],
    name="validation (the loop's own)",
    mode="lines+markers",
)
show(figure)

# %% [markdown]
# ## 5. What has it learned?
#
# We score three texts with the untrained and the trained model: the **training** text, the **twin** and the
# **strangers**. The score is the NELBO in bits per byte, so that we can compare it with `xz`. And `xz` gets a fair
# chance: it may read the training text first. Its cost for a held-out text is what it needs for both together, minus
# what it needs for the training text alone.
#
# **Predict, then run.** In what order are the model's scores after training?
#
# - **A** · all three about equal: it has learned the patterns
# - **B** · training text and twin about equal, the strangers much worse
# - **C** · the training text much better than both

# %%
guess_1 = predict("A", "B", "C", name="08.1")
guess_1

# %%
from diffuapriel.data.documents import DocumentCorpus  # a corpus from texts in memory
from diffuapriel.evaluation.nelbo import evaluate_nelbo

parts = {"training": train_names, "twin": [twin], "strangers": strangers}
seen = "".join(texts[name] for name in train_names)
num_sequences, num_mc_samples = (4, 1) if QUICK else (48, 8)
scores, intervals = {}, {}
for part, names in tqdm(parts.items()):
    chosen = [texts[name] for name in names]
    corpus = DocumentCorpus(part, tokenizer, train=chosen, validation=chosen)
    how = {
        "length": LENGTH,
        "num_sequences": num_sequences,
        "num_mc_samples": num_mc_samples,
    }
    found = [evaluate_nelbo(its_model, corpus, **how) for its_model in (untrained, model)]
    text = "".join(chosen)
    primed = (packed_bits(seen + text) - packed_bits(seen)) / len(text.encode())
    scores[part] = [*(one.bits_per_byte for one in found), primed]
    unit = found[1].bits_per_byte / found[1].nats_per_token  # bits per byte of one nat/token
    intervals[part] = tuple(unit * end for end in found[1].ci95)

# %%
kinds = ["untrained", "trained", "xz after the training text"]
figure = go.Figure(layout={"yaxis_title": "bits per byte", "height": 400})
for i, kind in enumerate(kinds):
    y = [scores[part][i] for part in parts]
    bars = error_bars(y, list(intervals.values())) if kind == "trained" else None
    figure.add_bar(x=list(parts), y=y, name=kind, error_y=bars)
show(figure)
for part in parts:
    line = ", ".join(f"{kind} {value:.2f}" for kind, value in zip(kinds, scores[part]))
    low, high = intervals[part]
    print(f"{part:10} {line}; trained from {low:.2f} to {high:.2f}")
of_train, of_twin, of_strangers = (scores[part][1] for part in parts)
carried = scores["strangers"][0] - of_strangers
print(f"On the strangers, training has gained {carried:.2f} bits per byte: ", end="")
print(
    "what it learned carries over"
    if intervals["strangers"][1] < scores["strangers"][0]
    else "nothing"
)
seen_apart = intervals["twin"][1] < intervals["strangers"][0]
print(f"The leak {'shows' if seen_apart else 'does not show yet'}: twin {of_twin:.2f},", end=" ")
print(
    f"strangers {of_strangers:.2f}; xz, which forgets nothing: {scores['twin'][2]:.2f} and", end=" "
)
print(f"{scores['strangers'][2]:.2f}")
near = of_twin < (of_train * of_strangers) ** 0.5
answer = "A" if of_strangers < 1.5 * of_train else "B" if near else "C"
guess_1.reveal(answer, "Look at the bars of the trained model.")

# %% [markdown]
# **The strangers' score is the honest one.** The twin's says nothing about new text: its relatives were in the training
# text. How far the two are apart depends on how much the model remembers: 800 steps on the fables show it each
# sentence some fifteen times. On "code pages", whose files repeat each other, the gap is wide: with a random split, the
# twin's score would have been your result, and it would have been wrong. `xz` shows the leak at once, because a
# compressor has a perfect memory.
#
# On the strangers, compare the model with `xz`. `xz` keeps learning while it reads them, and soon knows *their* words.
# The model has stopped learning, and sees one sequence at a time. And `xz` cannot write.

# %% [markdown]
# ## 6. Infill
#
# Now the model fills a hole in a text. It was trained on sequences of several lines, so give it lines around the hole
# too. A canvas must say how many tokens to fill in: `[MASK:n]` stands for n tokens.

# %% [markdown]
# ### Exercise 2: dig a hole
#
# *Must · medium · 6 minutes*
#
# Write a function that replaces a word by a hole of the right size. There is one trap: a token usually includes the
# space before it. In `a red kite` the word *red* is the token ` red`, with the space, and the package knows that one
# space before a hole belongs to the hole. So count the tokens of the word *with* the space before it, if there is one.
#
# <details><summary>Hint 1: the idea</summary>Find the word, look at the character before it, and count the tokens of
# what the hole replaces.</details>
# <details><summary>Hint 2: the shape</summary><code>start = text.index(word)</code> is a number. If <code>text[start -
# 1] == " "</code>, the tokens are <code>encode(" " + word)</code>, otherwise <code>encode(word)</code>.</details>
# <details><summary>Hint 3: the code</summary>The text before <code>start</code>, then <code>[MASK:n]</code>, then the
# text from <code>start + len(word)</code> on. The space itself stays in the text.</details>


# %% tags=["exercise"]
def dig(text, word, encode):
    """Replace the first `word` in `text` by [MASK:n]; encode(string) returns its tokens."""
    return None  # your lines here


# %% tags=["solution"]
def dig(text, word, encode):
    """Replace the first `word` in `text` by [MASK:n]; encode(string) returns its tokens."""
    start = text.index(word)
    space = " " if start > 0 and text[start - 1] == " " else ""
    count = len(encode(space + word))
    return f"{text[:start]}[MASK:{count}]{text[start + len(word) :]}"


# %%
check.dig(dig)

# %% [markdown]
# Now some lines of the twin, which was not in the training text. We take out the last word of the middle line.


# %%
def lines_of(name, first=20, budget=LENGTH - 4):
    """As many lines of a text as a sequence holds, from line number `first` on."""
    chosen, lines = [], texts[name].splitlines(keepends=True)
    for line in lines[min(first, len(lines) // 2) :]:
        if chosen and len(tokenizer.encode("".join([*chosen, line]))) > budget:
            break
        chosen.append(line)
    return chosen


def with_hole(lines):
    """The text before the last word of the middle line, that word, and the text after it."""
    middle = len(lines) // 2
    front, _, word = lines[middle].rstrip().rpartition(" ")
    before = "".join(lines[:middle]) + front + word[:-40]  # of a very long word only the end
    after = "\n" + "".join(lines[middle + 1 :])
    return before[-2 * LENGTH :], word[-40:], after[: 2 * LENGTH]  # long lines are cut


before, word, after = with_hole(lines_of(twin))
print(f"{before} [ {word} ]{after}")

# %%
from diffuapriel import Canvas, Sampler, SamplerConfig, generate
from diffuapriel.trace.player.widget import Player

holes = len(tokenizer.encode(" " + word))
canvas = Canvas.from_text(f"{before} [MASK:{holes}]{after}", tokenizer)
sampler = Sampler(SamplerConfig(steps=max(1, holes), temperature=0), schedule, tokenizer.mask_id)
trace = Player().record(sampler, model, canvas, tokenizer, model="my model")
written = tokenizer.decode(trace.final[i] for i in canvas.masked.nonzero()[:, 0].tolist())
print(f"the text has {word!r}, the model wrote {written.strip()!r}")

# %% [markdown]
# One hole proves little. So we dig holes into many lines, of the twin and of the others, and count how often exactly
# the same word comes back.


# %%
def hit_rate(names, tries):
    """How many last words of lines the greedy model restores, and how many it was asked for."""
    hits = asked = 0
    rng = random.Random(3)
    for _ in range(tries):
        name = rng.choice(names)
        lines = lines_of(name, first=rng.randrange(len(texts[name].splitlines())))
        before, word, after = with_hole(lines)
        holes = len(tokenizer.encode(" " + word))
        if not before.strip() or not 1 <= holes <= 8:
            continue
        canvas = Canvas.from_text(f"{before} [MASK:{holes}]{after}", tokenizer)
        greedy = SamplerConfig(steps=holes, temperature=0)
        ids = generate(Sampler(greedy, schedule, tokenizer.mask_id), model, canvas)[0]
        hits += tokenizer.decode(ids[canvas.masked].tolist()).strip() == word
        asked += 1
    return hits, asked


for part in parts:
    hits, asked = hit_rate(parts[part], 2 if QUICK else 40)
    print(f"{part:10} {hits} of {asked} words restored")

# %% [markdown]
# Now your turn. Write a text of the same kind, name a word, and `dig` makes the hole. Run the cell again with other
# words, and try other sizes of the hole.

# %%
MY_TEXT, MY_WORD = "A Fox once saw a bunch of grapes and was very hungry.", "grapes"
if FOLDER == "code pages":
    MY_TEXT, MY_WORD = "greek small letter alpha\ngreek small letter beta\n", "beta"
MY_TEXT = use(check.dig, dig)(MY_TEXT, MY_WORD, tokenizer.encode)
print(MY_TEXT)
canvas = Canvas.from_text(MY_TEXT, tokenizer)
options_of_mine = SamplerConfig(strategy="low_confidence", steps=32, top_p=0.9, seed=1)
sampler = Sampler(options_of_mine, schedule, tokenizer.mask_id)
mine = Player().record(sampler, model, canvas, tokenizer, model="my model")

# %% [markdown]
# ## 7. Look inside
#
# Which words of the text made the model choose as it did? Ask it for its prediction at one position. Then hide one
# other token and ask again. If the prediction changes a lot, this token mattered. We measure the change in nats (the
# Kullback-Leibler divergence of the two predictions); the method is called **occlusion**.
#
# It makes sense only where the model is sure of something. So we look through many holes and take the one whose first
# token it predicts with the highest probability.
#
# **Predict, then run.** Which tokens matter most for it, *per token*?
#
# - **A** · the tokens of its own line
# - **B** · the tokens of the lines above and below
# - **C** · all about the same

# %%
guess_2 = predict("A", "B", "C", name="08.2")
guess_2

# %%
from diffuapriel.interpret.adaln import time_of_text
from diffuapriel.interpret.influence import occlusion_influence


@torch.no_grad()
def sure_of(name, first):
    """How sure the model is of the first token of a hole, and the hole: (probability, canvas, word)."""
    before, word, after = with_hole(lines_of(name, first))
    holes = max(1, len(tokenizer.encode(" " + word)))
    canvas = Canvas.from_text(f"{before} [MASK:{holes}]{after}", tokenizer)
    where = canvas.masked[None].clone()
    sigma = schedule.sigma(torch.tensor([time_of_text(canvas.ids, tokenizer.mask_id)]))
    p = model(canvas.ids[None], sigma, where)[0, : tokenizer.mask_id].softmax(-1)
    return p.max().item(), canvas, word


# %%
rng, candidates = random.Random(9), []
for name in rng.choices(strangers, k=2 if QUICK else 40):
    candidates.append(sure_of(name, rng.randrange(len(texts[name].splitlines()))))
probability, canvas, word = max(candidates, key=lambda found: found[0])
ids = canvas.ids
position = int(canvas.masked.nonzero()[0])  # the first token of the hole
level = schedule.sigma(torch.tensor(time_of_text(ids, tokenizer.mask_id))).item()
*_, found = occlusion_influence(model, ids, position, level)  # the last one is complete
values = found.values.nan_to_num()  # a [MASK] has no influence: 0

label = [f"{i} {text!r}" for i, text in enumerate(tokenizer.token_strings(ids.tolist()))]
figure = go.Figure(layout={"xaxis_title": "token", "yaxis_title": "nats", "height": 420})
figure.add_scatter(y=values.tolist(), mode="lines+markers", name="occlusion", hovertext=label)
figure.add_vline(x=position, line_dash="dash")
show(figure)
shown = [i for i in values.topk(min(6, len(ids) - 1)).indices.tolist() if values[i] >= 0.05]
for i in shown:
    print(f"{values[i]:6.3f} nats   {label[i]}, at distance {i - position:+}")
if not shown:
    print("no token changes the prediction by 0.05 nats or more: nothing to interpret here")
predicted = tokenizer.token_strings([found.token])[0]
print(
    f"the model predicts {predicted!r} with probability {found.probability:.2f}; the word is {word!r}"
)

# %%
breaks = [i for i, text in enumerate(tokenizer.token_strings(ids.tolist())) if "\n" in text]
start = max([i + 1 for i in breaks if i < position], default=0)
end = min([i for i in breaks if i > position], default=len(ids))
inside = torch.zeros(len(ids), dtype=torch.bool)
inside[start:end] = True
visible = ~canvas.masked
own, others = (
    values[visible & side].mean().item() if (visible & side).any() else 0.0
    for side in (inside, ~inside)
)
print(f"a token of its own line matters {own:.4f} nats on average, a token elsewhere {others:.4f}")
answer = "A" if own > 1.5 * others else "B" if others > 1.5 * own else "C"
guess_2.reveal(answer)

# %% [markdown]
# The tab *Inside* of the app shows this for any token, and more. Try another position: change `position` above.
#
# ## 8. Learned or copied?
#
# A model that only repeats its training text has learned nothing, and may reveal what was in it. So look at what it
# writes from masks only. Is each line in the training text?

# %%
ROWS = 2 if QUICK else 24
free = SamplerConfig(strategy="low_confidence", steps=LENGTH, top_p=0.9, seed=2)
blank = torch.full((ROWS, LENGTH), tokenizer.mask_id)
drawn = generate(Sampler(free, schedule, tokenizer.mask_id), model, blank).tolist()

known = {line for name in train_names for line in texts[name].splitlines()}
written = []  # whole lines only: the first and the last of a row are cut
for row in drawn:
    for document in tokenizer.decode(row).split("<|endoftext|>"):
        written += [line for line in document.split("\n")[1:-1] if line.strip()]
copied = sum(line in known for line in written)
print(f"{len(written)} whole lines written, {copied} of them are in the training text")

# %% [markdown]
# A copied line is no fault if the text itself repeats its lines all the time. What about the other lines? For each,
# find the nearest training line, and look at its words. A word that occurs in none of the training files is either
# *invented* or learned from its pieces: does it occur in the files that were held out?

# %%
import difflib  # compares texts


def words_of(names):
    """The words of some files, in small letters."""
    return {word for name in names for word in re.findall(r"[a-z]+", texts[name].lower())}


new = [line for line in dict.fromkeys(written) if line not in known]
trained_words, held_out_words = words_of(train_names), words_of([twin, *strangers])
for line in new[:8]:
    near = difflib.get_close_matches(line, sorted(known)[:5000], n=1, cutoff=0.0)[0]
    print(f"{line!r}\n    nearest: {near!r}")
written_words = {word for line in new for word in re.findall(r"[a-z]+", line.lower())}
unseen = sorted(written_words - trained_words)
print(
    f"\n{len(new)} different new lines of {len(written_words)} words; {len(unseen)} words are not in the",
    end=" ",
)
print(f"training text, of which {len(set(unseen) & held_out_words)} occur in the held-out files")
print(", ".join(unseen[:12]))

# %% [markdown]
# Look at the new lines. Their pieces are plausible: beginnings of sentences, animals, quotation marks. Whether a line
# makes sense is another question, and the words that no file contains show how far the model has got: it knows what a
# word *looks* like.
#
# Lines are short, and a copy may span many of them. The measure for that is the **longest common run**: the longest
# piece of a sample that occurs, token for token, in the training text.

# %% [markdown]
# ### Exercise 3: the longest common run
#
# *May · hard · 8 minutes*
#
# Given two lists of token ids, find the length of the longest contiguous piece of the first that also occurs in the
# second.
#
# <details><summary>Hint 1: the idea</summary>If a run ends at position i of one list and at position j of the other,
# then a run that is one shorter ends at i − 1 and j − 1.</details>
# <details><summary>Hint 2: the shape</summary>For each position j of <code>training</code>, keep the length of the run
# that ends there: a list that you make anew for each i, from the one of i − 1.</details>
# <details><summary>Hint 3: the code</summary>If <code>sample[i] == training[j]</code>, the length is 1 + the previous
# list's value at j − 1, otherwise 0. The answer is the largest length that occurs.</details>


# %% tags=["exercise"]
def longest_run(sample, training):
    """Length of the longest piece of `sample` that occurs in `training`; both lists of ids."""
    return None  # your lines here


# %% tags=["solution"]
def longest_run(sample, training):
    """Length of the longest piece of `sample` that occurs in `training`; both lists of ids."""
    best, before = 0, [0] * (len(training) + 1)  # before[j + 1]: the run that ends at j
    for token in sample:
        now = [0] * (len(training) + 1)
        for j, other in enumerate(training):
            if token == other:
                now[j + 1] = before[j] + 1
        best, before = max(best, *now), now
    return best


# %%
check.longest_run(longest_run)

# %% [markdown]
# Yours measures the samples. For the other rows we take Python's `difflib`, which does the same and is faster; on the
# first sample the two must agree. How long must a run be to be *suspicious*? Again the held-out text answers: if new
# text by people shares runs of this length with the training text, a model's text may share them too.

# %%
training_ids = tokenizer.encode(seen)


def run_of(ids):
    """The longest common run with the training text, by difflib."""
    match = difflib.SequenceMatcher(None, training_ids, ids, autojunk=False)
    return match.find_longest_match().size


def sequences_of(names):
    """Random sequences from the files, as long as the samples."""
    corpus = DocumentCorpus("w", tokenizer, train=[texts[n] for n in names], validation=["-"])
    return corpus.batch(0, split="train", batch_size=ROWS, length=LENGTH, seed=5).tolist()


run_by_hand = use(check.longest_run, longest_run)
assert run_by_hand(drawn[0], training_ids[:20_000]) == (
    difflib.SequenceMatcher(None, training_ids[:20_000], drawn[0], autojunk=False)
    .find_longest_match()
    .size
)
rows = {"samples": drawn, **{part: sequences_of(names) for part, names in parts.items()}}
for kind, table in rows.items():
    measure = (lambda ids: run_by_hand(ids, training_ids)) if kind == "samples" else run_of
    runs = sorted(measure(ids) for ids in tqdm(table, desc=kind))
    print(f"{kind:10} median {runs[len(runs) // 2]} of {LENGTH} tokens, longest {runs[-1]}")

# %% [markdown]
# How to read this: *training* sequences are copies, so their run is the whole sequence. The *twin* comes close
# where a relative is in the training text, although we did not train on it. The *strangers* show what two texts share
# without any copying: set phrases, or a list that both have in the same order. Where are the samples? The closer they
# are to the training sequences, the more the model repeats from memory. If your text contains something private, look
# at the longest run before you give the model to anybody.
#
# More training steps on a small text push the samples towards copies, and the loss on the training text keeps falling
# while the loss on the strangers rises again. This is called *overfitting*. The loop's validation curve shows it only
# if its files are not twins.

# %% [markdown]
# ## 9. Take it home
#
# A recorded generation can be saved as a single HTML file. It contains the player and the data, and opens in any
# browser, without Python and without a network. We also save the checkpoint. Both go to `runs/my-text` in the project's
# folder.

# %%
import shutil

HOME = WORK / "home" if QUICK else assets.root().parent / "runs" / "my-text"
HOME.mkdir(parents=True, exist_ok=True)
page = HOME / "replay.html"
page.write_text(mine.to_html("My text"), encoding="utf-8")
shutil.copytree(result.checkpoint, HOME / "checkpoint", dirs_exist_ok=True)

print(f"{page.name}: {page.stat().st_size / 1e3:.0f} kB, opens with a double click")
asks = any(word in page.read_text(encoding="utf-8") for word in ('src="http', "@import"))
print(f"does it load anything from the network? {'yes' if asks else 'no'}")
print("in the app, on any system:\n    python start.py demo --checkpoint runs/my-text/checkpoint")

# %% [markdown]
# Started this way, the app lists your model: write with it, race it, look inside it. On the command line, the same
# training is one line. Run it again and it resumes where it stopped (on Windows: `.venv\Scripts\diffuapriel`):
#
# `.venv/bin/diffuapriel train --corpus my_texts/ --minutes 30 --out runs/mine`

# %%
score()

# %% [markdown]
# That was the last lesson of the course's main path. Answer the ten questions of lesson 00 again, with
# `quiz("after")`: then the answers are told.

# %%
from diffuapriel.lessons import quiz

quiz("after")

# %% [markdown]
# ## What you learned
#
# - **Look first**: tokens, size, and what a compressor finds.
# - **Split by groups of relatives.** A twin in the training text makes a validation score worthless.
# - **A run is its seed and its state**: you can stop it at any moment, resume it, and repeat it.
# - **Copied or learned?** Compare with the nearest training line, and with the runs that held-out text shares.
#
# ## Going further
#
# - Set `FOLDER` to a folder of your own. 800 steps are few for prose: set `STEPS = 5000` and come back after ten
#   minutes or more. Which of the three scores still falls?
# - Write "code pages" for the folder. How far apart are the twin and the strangers now?
# - Train on the three smallest files only, for as many steps. When do the samples become copies?
# - Train `diffutran` on the same text, with its own learning rate (lesson 04). Does it copy more?
#
# **Papers.** The loss: MDLM, [arXiv:2406.07524](https://arxiv.org/abs/2406.07524). The backbone: DiffuApriel,
# [arXiv:2511.15927](https://arxiv.org/abs/2511.15927). Near copies in training text and their effects:
# [arXiv:2107.06499](https://arxiv.org/abs/2107.06499). How language models reveal their training text:
# [arXiv:2012.07805](https://arxiv.org/abs/2012.07805).
