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
# So far the text was ours. Now take one of yours: essays, song lines, recipes, code. You train a model on it, fill
# holes in your sentences, look at what the model looks at, and find out whether it has learnt or only copied. At the
# end you take home a replay that opens in any browser. Without a text of yours, the lesson brings one.
#
# **You will be able to**
#
# - look at a text before training, and split it so that nothing leaks;
# - train with the package's loop, stop, and go on as if nothing had happened;
# - hold the result against a compressor, and tell learning from memorizing;
# - infill your own sentences, look inside, and export what you saw.
#
# **You need** lesson 01 (the loss, sampling), and a few files of text, if you like. Lesson 07 helps with bits a byte.
#
# | part | minutes |
# |---|---|
# | 1. Choose a text | 5 |
# | 2. Look before you train | 7 |
# | 3. Hold out, without a leak | 12 |
# | 4. Train, stop, go on | 10, of which up to 4 are waiting |
# | 5. What was learnt? | 8 |
# | 6. Infill | 8 |
# | 7. Look inside | 6 |
# | 8. Learnt or copied? | 10 |
# | 9. Take it home | 4 |
#
# {{measured}}
#
# Where it says **predict, then run**, click a letter before you run the next cell. Three **exercises** check your
# answer.

# %% [markdown]
# ## 1. Choose a text
#
# Write the path of a folder between the quotes, with `.txt` files in it (or `.jsonl`, or `.parquet`). Leave it empty
# for the built-in text, at least the first time.

# %%
FOLDER = ""  # for example "/home/me/my_poems"

# %% [markdown]
# The next cell only prepares things. Run it. `QUICK` is True where the tests of this project run the lesson.

# %%
import random
import tempfile
from pathlib import Path

import plotly.graph_objects as go
import torch
from tqdm.auto import tqdm

from diffuapriel import Denoiser, get_schedule, get_tokenizer, preset
from diffuapriel.lessons import QUICK, check, predict, prepare, show

prepare()
tokenizer, schedule = get_tokenizer("gpt2-4k"), get_schedule("log-linear")
scratch = tempfile.TemporaryDirectory()  # deleted when the notebook ends
WORK = Path(scratch.name)

# %% [markdown]
# **Which text can a small model learn in three minutes?** Not English. A language is wide: thousands of words, and
# every sentence is new. A model as small as ours, in so short a time, would learn common words and endings, and write
# nonsense. It needs a *narrow* text, whose few patterns return again and again.
#
# Every Python has one on board. Before all alphabets had one common table, each region had tables of its own: 256
# numbers for 256 characters. Python still knows dozens of these *code pages*, and it knows each character's name. So
# the built-in text has one file for a table, and in it one line for a character: the upper half of the table, in
# order.

# %%
import encodings  # the code pages, one module each
import pkgutil  # lists modules
import unicodedata  # the names of characters


def code_pages():
    """{table: text}: the names of its characters 128 to 255, one a line."""
    texts = {}
    for module in pkgutil.iter_modules(encodings.__path__):
        if module.name.startswith(("cp", "iso8859", "koi8", "mac_")):
            found = (bytes([i]).decode(module.name, "ignore") for i in range(128, 256))
            names = [unicodedata.name(character, "").lower() for character in found if character]
            names = [name for name in names if name]
            if len(names) >= 64:  # some have few characters of one byte
                texts[module.name] = "\n".join(names) + "\n"
    return texts


# %% [markdown]
# For a folder, the package's `read_documents` reads each file. If there are only a few documents, they are cut into
# pieces at the ends of lines, so that there is something to hold out.

# %%
from diffuapriel.data.files import SUFFIXES, read_documents


def folder_texts(folder):
    """{name: text} of every document in a folder, cut into pieces where there are fewer than ten."""
    files = sorted(f for f in Path(folder).expanduser().rglob("*") if f.suffix.lower() in SUFFIXES)
    texts = {
        f"{file.stem}-{i}": text for file in files for i, text in enumerate(read_documents(file))
    }
    if len(texts) >= 10:
        return texts
    lines = [line for text in texts.values() for line in text.splitlines(keepends=True)]
    size = max(1, len(lines) // 20)
    return {f"piece-{i:05}": "".join(lines[i : i + size]) for i in range(0, len(lines), size)}


texts = folder_texts(FOLDER) if FOLDER else code_pages()
print(f"{len(texts)} documents, {sum(map(len, texts.values())):,} characters")

# %% [markdown]
# ## 2. Look before you train
#
# Half of all surprises in training are in the text. So read some of it first.

# %%
for name in random.Random(1).sample(sorted(texts), 3):
    print(f"--- {name}\n{texts[name][:230]} ...\n")

# %% [markdown]
# Then look at it as the model will: cut into tokens. The tokenizer was made for English text, and knows 4,096 pieces.
# What is common there is one token; what is rare falls into pieces. The fewer bytes in a token, the worse it fits.

# %%
some = texts[sorted(texts)[0]]
ids = tokenizer.encode(some)
print(" | ".join(tokenizer.token_strings(ids[:60])).replace("\n", "⏎"))

tokens = sum(len(tokenizer.encode(text)) for text in texts.values())
size = sum(len(text.encode()) for text in texts.values())
print(f"\n{tokens:,} tokens, {size:,} bytes: {size / tokens:.2f} bytes a token")
print(f"{len({i for text in texts.values() for i in tokenizer.encode(text)}):,} different tokens")

# %% [markdown]
# How much is really in there? A **compressor** answers: `xz` finds what returns, and writes it down only once. *Bits
# a byte* is how many bits it needs for each byte of text. 8 means that nothing was found. We will hold the model
# against it.

# %%
import lzma  # the compressor xz, without the file's header

FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]


def packed_bits(text):
    """How many bits xz needs for a text."""
    return 8 * len(lzma.compress(text.encode(), format=lzma.FORMAT_RAW, filters=FILTERS))


for name in sorted(texts)[:3]:
    print(f"{name:12} alone {packed_bits(texts[name]) / len(texts[name].encode()):.2f} bits a byte")
everything = "".join(texts.values())
print(f"{'all':12} at once {packed_bits(everything) / size:.2f} bits a byte")

# %% [markdown]
# All together they need far fewer bits a byte than each alone? Then the files repeat *each other*. Remember this.
#
# ## 3. Hold out, without a leak
#
# To know what a model has learnt, ask it about text that it has not seen. So some files are held out. Which ones? At
# random, one would say. But if a held-out file has a near copy among the training files, the model *has* seen it.
# This is called a **leak**, and it is the commonest way to fool oneself. A folder of yours surely holds such copies:
# drafts of the same essay, mails that quote each other, two exports of one page.
#
# Let us look for relatives: two files are related when most lines of the shorter one stand in the other, too.
# Relatives of relatives count as well. So the files fall into **groups**.

# %%
from itertools import combinations


def find_groups(texts, share=0.5):
    """Lists of names that belong together, the largest first."""
    lines = {name: set(text.splitlines()) - {""} for name, text in texts.items()}
    group = {name: [name] for name in texts}  # name: the list that it is in
    for a, b in combinations(texts, 2):
        shorter = min(len(lines[a]), len(lines[b]))
        if shorter and len(lines[a] & lines[b]) / shorter > share and group[a] is not group[b]:
            group[a] += group[b]
            for name in list(group[b]):
                group[name] = group[a]
    different = {id(names): names for names in group.values()}
    return sorted(different.values(), key=lambda names: (-len(names), names))


groups = find_groups(texts)
for names in groups[:8]:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    print(f"{len(names):3}  {', '.join(names[:6])}{more}")

# %% [markdown]
# ### Exercise 1: a split that does not leak
#
# Write the split. You are given the groups, and how large a share of the files is to be held out. A group must not be
# torn apart: it is held out whole, or not at all. Take the smallest groups first, and stop as soon as the held-out
# files are at least this share of all files.
#
# <details><summary>Hint 1</summary>Go through the groups from the smallest to the largest. For each, decide by what
# has been held out so far.</details>
# <details><summary>Hint 2</summary><code>sorted(groups, key=len)</code> gives them in this order. A group goes to the
# held-out files for as long as these are fewer than the share of <b>all</b> files; then to training.</details>


# %% tags=["exercise"]
def split_by_group(groups, share):
    """groups: lists of names. Returns two lists of names: for training, and held out."""
    return None  # your lines here


# %% tags=["solution"]
def split_by_group(groups, share):
    """groups: lists of names. Returns two lists of names: for training, and held out."""
    train, held = [], []
    total = sum(map(len, groups))
    for names in sorted(groups, key=len):
        side = held if len(held) < share * total else train
        side.extend(names)
    return train, held


# %%
check.split_by_group(split_by_group)

# %% [markdown]
# For this lesson two things are held out, on purpose of different kinds:
#
# - the **strangers**: the smallest groups, whole. No relative of theirs is in training.
# - a **twin**: a single file out of a large group, whose relatives stay in training. It is the leak, made visible.
#
# If your folder has no groups of three files or more, be glad: then the twin is only another held-out file.

# %%
few = min(max(2, len(groups) // 10), len(groups) - 1)
strangers = [name for names in groups[-few:] for name in names]
families = [names for names in groups[:-few] if len(names) > 2] or groups[:-few]
twin = random.Random(8).choice(families[min(1, len(families) - 1)])
train_names = [name for names in groups[:-few] for name in names if name != twin]
print(f"{len(train_names)} files to train on\nstrangers: {', '.join(strangers)[:90]}\ntwin: {twin}")

for name in train_names:  # what the training loop reads
    file = WORK / "train" / f"{name}.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_text(texts[name], encoding="utf-8")

# %% [markdown]
# ## 4. Train, stop, go on
#
# In lesson 01 you wrote the loop. The package's loop is the same, with what a long run needs besides: a progress bar,
# a log, an average of the weights, and a **state** on disk, so that a run that is stopped can go on. Everything is
# said in a `TrainConfig`. A folder is a corpus; the loop holds out a tenth of its files for a curve of its own.

# %%
from diffuapriel.training.config import TrainConfig
from diffuapriel.training.loop import train

LENGTH = 16 if QUICK else 64  # tokens of a window
shape = preset("nano", "diffuapriel", depth=2, expand=1, d_state=32, headdim=64)  # as in lesson 01


def options(folder, steps, **more):
    """The options of a run in a folder of its own."""
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
# Does a stopped run really go on *exactly*? A short trial: one run without a stop, and one that is stopped after half
# a second, as if the lid of the laptop had been closed. The same call goes on with it. Then the losses of all updates
# are compared, to the last digit.

# %%
from diffuapriel.training.logging import read_log

N = 3 if QUICK else 12
train(options("whole", N), progress=False)
stopped = train(options("parts", N, stop_after_minutes=0.01), progress=False)
finished = train(options("parts", N), progress=False)
print(f"stopped after {stopped.step} of {N} updates, went on to {finished.step}")


def losses(folder):
    """The loss of every update of a run."""
    return [line["loss"] for line in read_log(WORK / folder) if "loss" in line]


assert losses("whole") == losses("parts")
print("all losses are equal:", " ".join(f"{loss:.4f}" for loss in losses("parts")[:6]), "...")

# %% [markdown]
# Why can it? Nothing in a run is left to a chance that is gone: batches and noise are computed from the seed and the
# number of the update. So weights, the optimizer's memory and that number are the whole state.
#
# Before the real run, keep an untrained model for later. Then train. This takes three minutes or so. While you wait,
# open a file of the text and try to write the next line yourself.

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
window = min(20, len(loss))
smooth = torch.tensor(loss).unfold(0, window, 1).mean(1).tolist()
checks = [line for line in log if "validation" in line]

figure = go.Figure(layout={"xaxis_title": "update", "yaxis_title": "nats a token", "height": 400})
figure.add_scatter(y=loss, name="one batch", line_color="silver")
figure.add_scatter(x=list(range(window, len(loss) + 1)), y=smooth, name="training, smoothed")
figure.add_scatter(
    x=[line["step"] for line in checks],
    y=[line["validation"] for line in checks],
    name="the loop's own held-out files",
    mode="lines+markers",
)
show(figure)

# %% [markdown]
# ## 5. What was learnt?
#
# We score three texts with the untrained and the trained model: the **training** text, the **twin** and the
# **strangers**. The score is the NELBO in bits a byte, so that it can stand beside `xz`. And `xz` gets a fair
# chance: it may read the training text first. Its price for a held-out text is what it needs for both together, minus
# what it needs for the training text alone.
#
# **Predict, then run.** In what order are the model's scores after training?
#
# - **A** · all three about equal: it has learnt the patterns
# - **B** · training text and twin about equal, the strangers much worse
# - **C** · the training text much better than both

# %%
guess_1 = predict("A", "B", "C")
guess_1

# %%
from diffuapriel.data.documents import DocumentCorpus  # a corpus from texts in memory
from diffuapriel.evaluation.nelbo import evaluate_nelbo

parts = {"training": train_names, "twin": [twin], "strangers": strangers}
seen = "".join(texts[name] for name in train_names)
windows, draws = (4, 1) if QUICK else (48, 8)
scores = {}
for part, names in tqdm(parts.items()):
    held = [texts[name] for name in names]
    corpus = DocumentCorpus(part, tokenizer, train=held, validation=held)
    how = {"length": LENGTH, "num_sequences": windows, "num_mc_samples": draws}
    before = evaluate_nelbo(untrained, corpus, **how).bits_per_byte
    after = evaluate_nelbo(model, corpus, **how).bits_per_byte
    text = "".join(held)
    primed = (packed_bits(seen + text) - packed_bits(seen)) / len(text.encode())
    scores[part] = [before, after, primed]

# %%
kinds = ["untrained", "trained", "xz after the training text"]
figure = go.Figure(layout={"yaxis_title": "bits a byte", "height": 400})
for i, kind in enumerate(kinds):
    figure.add_bar(x=list(parts), y=[scores[part][i] for part in parts], name=kind)
figure.update_yaxes(range=[0, 6])
show(figure)
for part in parts:
    line = ", ".join(f"{kind} {value:.2f}" for kind, value in zip(kinds, scores[part]))
    print(f"{part:10} {line}")
of_train, of_twin, of_strangers = (scores[part][1] for part in parts)
near = of_twin < (of_train * of_strangers) ** 0.5
answer = "A" if of_strangers < 1.5 * of_train else "B" if near else "C"
guess_1.reveal(answer, "Look at the bars of the trained model.")

# %% [markdown]
# The twin's score says nothing about new text: its relatives were in training. Had we split at random, *this* figure
# would have been our result, and a lie. The strangers' score is the honest one.
#
# `xz` after the training text is hard to beat: a compressor is a perfect memory, and what it has seen costs it nearly
# nothing. On the strangers, too, it has an advantage: it goes on learning while it reads them, and soon knows *their*
# words. The model has stopped learning, and sees one window at a time. What `xz` cannot do is write.

# %% [markdown]
# ## 6. Infill
#
# A hole in a sentence of yours. The model was trained on windows of many lines, so give it lines around the hole,
# too. A canvas needs to know how many tokens to put in: `[MASK:n]` stands for n of them.

# %% [markdown]
# ### Exercise 2: dig a hole
#
# Write a function that replaces a word by a hole of the right size. One trap: a token usually brings the space before
# it. In `a red kite` the word *red* is the token ` red`, with the space, and the package knows that one space before
# a hole belongs to the hole. So count the tokens of the word *with* the space before it, if there is one.
#
# <details><summary>Hint 1</summary>Look for the word with <code>text.index(word)</code>. What stands before
# it?</details>
# <details><summary>Hint 2</summary>If <code>text[start - 1] == " "</code>, count <code>encode(" " + word)</code>,
# otherwise <code>encode(word)</code>. The space itself stays in the text.</details>


# %% tags=["exercise"]
def dig(text, word, encode):
    """Replace the first `word` in `text` by [MASK:n]; encode(string) gives its tokens."""
    return None  # your lines here


# %% tags=["solution"]
def dig(text, word, encode):
    """Replace the first `word` in `text` by [MASK:n]; encode(string) gives its tokens."""
    start = text.index(word)
    space = " " if start > 0 and text[start - 1] == " " else ""
    count = len(encode(space + word))
    return f"{text[:start]}[MASK:{count}]{text[start + len(word) :]}"


# %%
check.dig(dig)

# %% [markdown]
# Now some lines of the twin, which was not in training. The last word of a line in their middle is taken out.


# %%
def lines_of(name, first=20, budget=LENGTH - 4):
    """As many lines of a text as a window holds, from line number `first` on."""
    chosen, lines = [], texts[name].splitlines(keepends=True)
    for line in lines[min(first, len(lines) // 2) :]:
        if chosen and len(tokenizer.encode("".join([*chosen, line]))) > budget:
            break
        chosen.append(line)
    return chosen


def with_hole(lines):
    """The text before the last word of the middle line, that word, and the text after it."""
    middle = len(lines) // 2
    front, _, word = lines[middle].rstrip("\n").rpartition(" ")
    before = "".join(lines[:middle]) + front
    after = "\n" + "".join(lines[middle + 1 :])
    return before[-2 * LENGTH :], word, after[: 2 * LENGTH]  # long lines are cut


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
print(f"there stood {word!r}, the model wrote {written.strip()!r}")

# %% [markdown]
# One hole proves little. So dig one into many lines, of the twin and of the strangers, and count how often the very
# word comes back.


# %%
def hit_rate(names, tries):
    """How often the greedy model restores the last word of a line, and how often it was asked."""
    hits = asked = 0
    dice = random.Random(3)
    for _ in range(tries):
        name = dice.choice(names)
        lines = lines_of(name, first=dice.randrange(len(texts[name].splitlines())))
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
# Now your turn. Write a text of your kind, with holes, and run the cell again. Where a word has several tokens, try
# several sizes.

# %%
MY_TEXT = """greek small letter alpha
greek small letter [MASK:2]
greek small letter gamma
"""
canvas = Canvas.from_text(MY_TEXT, tokenizer)
options_of_mine = SamplerConfig(strategy="low_confidence", steps=32, top_p=0.9, seed=1)
sampler = Sampler(options_of_mine, schedule, tokenizer.mask_id)
mine = Player().record(sampler, model, canvas, tokenizer, model="my model")

# %% [markdown]
# ## 7. Look inside
#
# Which words of the text made the model choose as it did? Ask it what it thinks of one place. Then hide one other
# token, and ask again. If the answer changes much, this token mattered. How much it changes is measured in nats (the
# Kullback-Leibler divergence of the two answers); the package calls the measure **occlusion**.
#
# **Predict, then run.** The place is the first token of the word that you saw taken out above. Which tokens matter
# most for it?
#
# - **A** · those of its own line
# - **B** · those of the lines above and below
# - **C** · all about the same

# %%
guess_2 = predict("A", "B", "C")
guess_2

# %%
from diffuapriel.interpret.adaln import time_of_text
from diffuapriel.interpret.influence import occlusion_influence

before, word, after = with_hole(lines_of(twin))
canvas = Canvas.from_text(f"{before} [MASK:{len(tokenizer.encode(' ' + word))}]{after}", tokenizer)
ids = canvas.ids
place = int(canvas.masked.nonzero()[0])  # the first token of the hole
level = schedule.sigma(torch.tensor(time_of_text(ids, tokenizer.mask_id))).item()
*_, found = occlusion_influence(model, ids, place, level)  # the last one is complete
values = found.values.nan_to_num()  # a [MASK] tells nothing: 0

label = [f"{i} {text!r}" for i, text in enumerate(tokenizer.token_strings(ids.tolist()))]
figure = go.Figure(layout={"xaxis_title": "token", "yaxis_title": "nats", "height": 420})
figure.add_scatter(y=values.tolist(), mode="lines+markers", name="occlusion", hovertext=label)
figure.add_vline(x=place, line_dash="dash")
show(figure)
for i in values.topk(min(6, len(ids) - 1)).indices.tolist():
    print(f"{values[i]:6.3f} nats   {label[i]}, {i - place:+} from the place")
there = tokenizer.token_strings([found.token])[0]
print(
    f"the model thinks of {there!r} with probability {found.probability:.2f}; there stood {word!r}"
)

# %%
breaks = [i for i, text in enumerate(tokenizer.token_strings(ids.tolist())) if "\n" in text]
start = max([i + 1 for i in breaks if i < place], default=0)
end = min([i for i in breaks if i > place], default=len(ids))
own = values[start:end].sum().item() / (values.sum().item() or 1.0)
visible = ~canvas.masked
fair = (visible[start:end].sum() / visible.sum()).item()  # if all tokens mattered the same
print(f"{own:.0%} of the influence comes from its own line, which has {fair:.0%} of the tokens")
answer = "C" if abs(own - fair) < 0.1 else "A" if own > 0.5 else "B"
guess_2.reveal(answer, "The curve shows which tokens they are.")

# %% [markdown]
# The tab *Inside* of the app shows this for any token, and more. Try another place: change `place` above.
#
# ## 8. Learnt or copied?
#
# A model that repeats its training text word for word has learnt nothing, and may give away what was in it. So look
# at what it writes from nothing, line by line: does the line stand in the training text?

# %%
ROWS = 2 if QUICK else 24
free = SamplerConfig(strategy="low_confidence", steps=LENGTH, top_p=0.9, seed=2)
blank = torch.full((ROWS, LENGTH), tokenizer.mask_id)
drawn = generate(Sampler(free, schedule, tokenizer.mask_id), model, blank).tolist()

known = {line for name in train_names for line in texts[name].splitlines()}
written = []  # whole lines only: the first and the last of a window are cut
for row in drawn:
    for document in tokenizer.decode(row).split("<|endoftext|>"):
        written += [line for line in document.split("\n")[1:-1] if line.strip()]
copied = sum(line in known for line in written)
print(f"{len(written)} whole lines written, {copied} of them stand in the training text")

# %% [markdown]
# A copied line is no crime where the text itself repeats its lines all the time. What about the others? For each,
# find the nearest training line. And for the built-in text there is an oracle: `unicodedata.lookup` knows whether a
# character of this name exists. A name that was never seen in training and yet exists has been *made up rightly*.

# %%
import difflib  # compares texts


def exists(line):
    """Whether a character of this name exists."""
    try:
        return bool(unicodedata.lookup(line.upper()))
    except KeyError:
        return False


new = [line for line in dict.fromkeys(written) if line not in known]
for line in new[:8]:
    near = difflib.get_close_matches(line, sorted(known)[:5000], n=1, cutoff=0.0)[0]
    note = "" if FOLDER else ("   exists" if exists(line) else "   does not exist")
    print(f"{line!r}{note}\n    nearest: {near!r}")
if not FOLDER:
    print(f"\n{len(new)} different new lines, {sum(map(exists, new))} of them exist")

# %% [markdown]
# Look at the new lines. Their pieces are in place, a script, a size, a mark, a direction; whether the combination
# exists is another thing. The model has learnt how a name *looks*. Which names there are, it can only have copied.
#
# Lines are short. A copy may go on over many of them. The measure for that is the **longest common run**: the longest
# piece of a sample that stands, token for token, in the training text.

# %% [markdown]
# ### Exercise 3: the longest common run
#
# Given two lists of token ids, find the length of the longest piece of the first that also stands in the second,
# without a gap.
#
# <details><summary>Hint 1</summary>If a run ends at place i of the one and at place j of the other, then a run that
# is one shorter ends at i − 1 and j − 1.</details>
# <details><summary>Hint 2</summary>Keep, for each j, the length of the run that ends there: if <code>sample[i] ==
# training[j]</code>, it is 1 + that of j − 1 in the round before, otherwise 0. The answer is the largest ever
# seen.</details>


# %% tags=["exercise"]
def longest_run(sample, training):
    """Length of the longest piece of `sample` that stands in `training`; both are lists of ids."""
    return None  # your lines here


# %% tags=["solution"]
def longest_run(sample, training):
    """Length of the longest piece of `sample` that stands in `training`; both are lists of ids."""
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
# Python's `difflib` has this too, and faster. How long a run is *suspicious*? Again the held-out text tells: as long
# as people's new text shares such runs with the old, a model may share them as well.

# %%
training_ids = tokenizer.encode(seen)


def run_of(ids):
    """The longest common run with the training text, by difflib."""
    match = difflib.SequenceMatcher(None, training_ids, ids, autojunk=False)
    return match.find_longest_match().size


def windows_of(names):
    """Random windows of the files, as long as the samples."""
    corpus = DocumentCorpus("w", tokenizer, train=[texts[n] for n in names], validation=["-"])
    return corpus.batch(0, split="train", batch_size=ROWS, length=LENGTH, seed=5).tolist()


rows = {"samples": drawn, **{part: windows_of(names) for part, names in parts.items()}}
for kind, table in rows.items():
    runs = sorted(run_of(ids) for ids in tqdm(table, desc=kind))
    print(f"{kind:10} median {runs[len(runs) // 2]} of {LENGTH} tokens, longest {runs[-1]}")

# %% [markdown]
# Read it so. *Training* windows are copies: their run is the whole window. The *twin* comes close, though nobody
# trained on it. The *strangers* show what two texts share without any copying: set phrases, or a list that both give in
# the same order. Where do the samples lie? The closer to the training windows, the more is repeated from memory. Where
# your text holds something private, look at the longest run before you give the model to anybody.
#
# More updates on a small text push the samples towards copies, and the loss on training text goes on falling while
# that on the strangers rises again. This is called *overfitting*. The curve of the loop's held-out files shows it
# only if these are not twins.

# %% [markdown]
# ## 9. Take it home
#
# A recorded run can be written as one HTML file. The player and the data are inside; it opens in any browser, without
# Python and without a network. The checkpoint goes along. Both are written to `runs/my-text` in the project's folder.

# %%
import shutil

from diffuapriel import assets

HOME = WORK / "home" if QUICK else assets.root().parent / "runs" / "my-text"
HOME.mkdir(parents=True, exist_ok=True)
page = HOME / "replay.html"
page.write_text(mine.to_html("My text"), encoding="utf-8")
shutil.copytree(result.checkpoint, HOME / "checkpoint", dirs_exist_ok=True)

print(f"{page.name}: {page.stat().st_size / 1e3:.0f} kB, opens with a double click")
asks = any(word in page.read_text(encoding="utf-8") for word in ('src="http', "@import"))
print(f"does it ask the network for anything? {'yes' if asks else 'no'}")
print("in the app:  .venv/bin/python app/main.py --checkpoint runs/my-text/checkpoint")
print('or:          make demo ARGS="--checkpoint runs/my-text/checkpoint"')

# %% [markdown]
# The app lists it among its models: write with it, race it, look inside it. From the command line, the same training
# is one line, and goes on where it stopped when you give it again:
#
# `diffuapriel train --corpus my_texts/ --minutes 30 --out runs/mine`

# %% [markdown]
# ## What you learned
#
# - **Look first**: tokens, size, and what a compressor finds.
# - **Split by groups of relatives.** A twin in the training text makes a held-out score worthless.
# - **A run is its seed and its state**: it can be stopped at any moment, and repeated.
# - **Copied or learnt?** Compare with the nearest line, and with the runs that held-out text shares.
#
# ## Going further
#
# - Set `FOLDER` to a folder of yours. Three minutes are short for prose: set `STEPS = 5000` and come back in half an
#   hour. Which of the three scores still falls?
# - Train on the three smallest files alone for as many updates. When do the samples become copies?
# - Train `diffutran` on the same text, with its own learning rate (lesson 04). Does it copy more?
#
# **Papers.** The loss: MDLM, [arXiv:2406.07524](https://arxiv.org/abs/2406.07524). The backbone: DiffuApriel,
# [arXiv:2511.15927](https://arxiv.org/abs/2511.15927). Near copies in training text, and what they do:
# [arXiv:2107.06499](https://arxiv.org/abs/2107.06499). How language models give away their training text:
# [arXiv:2012.07805](https://arxiv.org/abs/2012.07805).
