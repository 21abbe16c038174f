"""A text without end as a visitor's page sees it: what was counted, the last blocks, and a file of all of it.

Memory stays constant however long the text: the page gets the newest blocks only, and drops those that leave its
window; the file is on disk, in the app's own folder, and of a bounded size.
"""

from __future__ import annotations

import codecs
import itertools
import json
import os
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.server.folder import VARIABLE
from app.strings.language import texts

if TYPE_CHECKING:
    from diffuapriel.sampling.writer import TextSoFar, WrittenBlock
    from diffuapriel.tokenizer import Tokenizer

MOST_BLOCKS = 512  # the newest ones, in one message
AGAIN = 40  # messages that repeat a block: a page that is busy for some seconds misses nothing
MOST_BYTES = 20_000_000  # of the file; what is written later is shown and counted only
BREAK = "\x1e"  # between two texts, in a message


class EndlessText:
    """`key`: the settings that it was begun with; `prompt`: ids of the text before it. Hold `lock` to write."""

    def __init__(self, key: Any, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self.key, self.tokenizer, self.name = key, tokenizer, uuid.uuid4().hex
        self.lock = threading.Lock()
        self.so_far: TextSoFar | None = None
        self.tokens = self.calls = self.blocks = self.cache_bytes = self.same_since = 0
        self.rate = 0.0  # tokens per second since writing began or went on
        self._began, self._tokens_then = 0.0, 0
        self._newest: deque[tuple[int, str, int]] = deque(maxlen=MOST_BLOCKS)  # number, text, tokens
        self._starts: deque[int] = deque([0], maxlen=AGAIN)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        folder = tempfile.mkdtemp(prefix="endless-", dir=os.environ.get(VARIABLE))
        self.file = Path(folder) / "text.txt"
        self.file.touch()
        self._prompt = tuple(prompt)  # shown before the first block

    def go_on(self) -> None:
        """Writing begins or goes on now."""
        self._began, self._tokens_then = time.monotonic(), self.tokens

    @property
    def seconds(self) -> float:
        """Since it went on."""
        return time.monotonic() - self._began

    def take(self, block: WrittenBlock) -> None:
        """Count, show and keep a block."""
        new = block.ids[block.given :]
        if block.cache_bytes != self.cache_bytes:
            self.cache_bytes, self.same_since = block.cache_bytes, self.tokens
        self.tokens, self.calls, self.so_far = self.tokens + len(new), self.calls + block.calls, block.so_far
        self.rate = (self.tokens - self._tokens_then) / max(self.seconds, 1e-9)
        eos = self.tokenizer.eos_id
        pieces = (BREAK.encode() if i == eos else self.tokenizer.token_bytes(i) for i in (*self._prompt, *new))
        written = self._decoder.decode(b"".join(pieces))
        self._newest.append((self.blocks, written, len(new)))
        self.blocks, self._prompt = self.blocks + 1, ()
        if self.file.exists() and self.file.stat().st_size < MOST_BYTES:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(written.replace(BREAK, "\n\n"))

    def message(self, *, live: bool) -> str:
        """What endless.js draws, as JSON: figures, and the blocks since a few messages ago as [number, text, tokens].

        `<` is escaped, so that no token can look like a tag.
        """
        first = self._starts[0]
        blocks = itertools.dropwhile(lambda block: block[0] < first, self._newest)
        figures = {
            "tokens": texts.number(self.tokens, ",d"),
            "rate": texts.number(self.rate, ",.0f"),
            "perPass": texts.number(self.tokens / max(1, self.calls), ".2f"),
            "cache": f"{texts.number(self.cache_bytes / 1000, ',.1f')} kB",
            "since": texts.number(self.same_since, ",d"),
        }
        message = {"run": self.name, "live": live, "blocks": list(blocks), "count": self.tokens, "figures": figures}
        self._starts.append(self.blocks)
        message |= {"words": texts.ENDLESS, "language": texts.LANGUAGE}
        text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
        return text.replace("<", "\\u003c")

    def close(self) -> None:
        """Delete the file."""
        self.file.unlink(missing_ok=True)
        if self.file.parent.exists():
            self.file.parent.rmdir()
