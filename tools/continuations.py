"""Writes docs/continuations.md: twenty sentences, begun by a person and continued by a model, none left out.

    python -m tools.continuations                      # the bundled stories-diffuapriel-small
    python -m tools.continuations runs/mine --device cuda

The sentences are in no training text. Each is continued once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffuapriel import pipeline
from diffuapriel.tokenizer import EOS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "continuations.md"
MODEL = "stories-diffuapriel-small"
LENGTH = 64
SETTINGS = {"temperature": 0.7, "top_p": 0.9, "block_length": 16}
SENTENCES = (
    "Once there was a young baker who",
    "The old man looked at the sea and",
    "Tom wanted to taste the honey, but",
    '"Who took my hat?" asked the',
    "My name is Anna and I like to",
    "The capital of France is",
    "It was raining, so the children",
    "A small dog ran into the kitchen and",
    "The king had three daughters, and the youngest",
    "When the sun went down, the birds",
    "Sam was sad because his ball",
    "In the middle of the forest stood a house where",
    "The teacher told the class that",
    '"I am not afraid," said the mouse, and',
    "Every morning, grandmother goes to the market to",
    "The robot opened the door and",
    "Far away, on a high mountain, lived",
    "Ben and Mia found a box. When they opened it,",
    "The cat sat on the mat because",
    "Last summer we went to the beach, where",
)
HEAD = """# Twenty continuations

Twenty sentences that are in no training text, each continued once by `{model}` and printed as it came: canvases of
{length} tokens, one token per step, {settings}, seed 0. The end of the canvas cuts the text. Written by

```bash
.venv/bin/python -m tools.continuations {model}
```

"""


def continued(model: str, device: str | None) -> list[str]:
    """The sentences with their continuations."""
    output = pipeline(model, device)(list(SENTENCES), length=LENGTH, num_inference_steps=LENGTH, seed=0, **SETTINGS)
    return [text.partition(EOS)[0] for text in output.texts]


def page_of(model: str, texts: list[str]) -> str:
    """The page as Markdown: what was given in bold."""
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in SETTINGS.items())
    lines = [
        f"{number}. **{sentence}** {' '.join(text.removeprefix(sentence).split())}"
        for number, (sentence, text) in enumerate(zip(SENTENCES, texts, strict=True), start=1)
    ]
    return HEAD.format(model=model, length=LENGTH, settings=settings) + "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Twenty sentences, continued by a model.")
    parser.add_argument("checkpoint", nargs="?", default=MODEL, help="name or folder (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: the fastest there is)")
    options = parser.parse_args(arguments)
    PAGE.write_text(page_of(options.checkpoint, continued(options.checkpoint, options.device)), encoding="utf-8")
    print(f"{PAGE} is written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
