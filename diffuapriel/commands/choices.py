"""The names that `--help` lists, written out so that help needs no import of PyTorch.

A test holds each to the package's own.
"""

PRESETS = ("nano", "tiny", "small", "240m", "0.5b", "1.3b")
ARCHITECTURES = ("diffuapriel", "diffuapriel-h", "diffutran")
STRATEGIES = (
    "ancestral",
    "confidence",
    "entropy",
    "margin",
    "random",
    "threshold",
    "remask",
    "first_hitting",
)
TOKENIZERS = ("gpt2", "gpt2-4k")
SCHEDULES = ("log-linear", "cosine", "polynomial")
DEFAULT_CHECKPOINT = "tales-diffuapriel"
