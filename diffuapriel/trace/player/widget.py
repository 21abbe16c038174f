"""The player in a notebook: an anywidget around player.js.

    Player.from_trace(trace)                                             replay a trace
    trace = Player().record(sampler, denoiser, canvas, tokenizer)        run a sampler and watch it
    trace = Player().watch(frames, canvas, tokenizer, config)            watch any iterator of step frames

`watch` runs the iterator in the cell's own thread, so that an interrupt stops the model and an error of the model is an
error of the cell. The widget shows the frames while the cell is running.

Saved notebooks usually lose their widgets. Each player therefore has a second, static output: the last canvas as plain
HTML without scripts. A live player hides it.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

try:
    import anywidget
    import traitlets
except ImportError as error:  # the notebooks' extra
    raise ImportError("the notebook player needs anywidget: pip install anywidget ipywidgets") from error

from diffuapriel.trace import messages
from diffuapriel.trace.characters import spread
from diffuapriel.trace.player import read_source
from diffuapriel.trace.trace import Trace

if TYPE_CHECKING:
    from diffuapriel.sampling.canvas import Canvas
    from diffuapriel.sampling.config import SamplerConfig
    from diffuapriel.sampling.frames import StepFrame
    from diffuapriel.sampling.sampler import DenoiserFunction, Sampler
    from diffuapriel.tokenizer import Tokenizer


class Player(anywidget.AnyWidget):
    """A canvas of tokens that replays a trace or follows a running model.

    Synchronized traits: `message`, the newest message of diffuapriel.trace.messages, which holds the whole run if
    nothing is running; `height`, a CSS length above which the canvas scrolls ("" for the default).
    """

    _esm = read_source("player.js")
    _css = read_source("player.css")
    message = traitlets.Dict().tag(sync=True)
    height = traitlets.Unicode("").tag(sync=True)
    snapshot_id = traitlets.Unicode("").tag(sync=True)

    def __init__(self, *, height: str = "", **traits: Any) -> None:
        super().__init__(height=height, **traits)
        self.snapshot_id = f"da-snapshot-{self.model_id}"
        self._snapshot: Any = None  # the display handle of the static output, once shown

    @classmethod
    def from_trace(cls, trace: Trace, *, height: str = "") -> Player:
        """A player that opens on the last frame of a trace."""
        if not isinstance(trace, Trace):
            raise TypeError(f"from_trace takes a Trace, got {type(trace).__name__}; see Trace.from_json")
        return cls(message=messages.compact(trace.to_dict()), height=height)

    def record(
        self, sampler: Sampler, denoiser: DenoiserFunction, canvas: Canvas, tokenizer: Tokenizer, **about: str
    ) -> Trace:
        """Run the sampler to its end and show it; arguments as in `Trace.record`."""
        return self.watch(sampler.stream(denoiser, canvas), canvas, tokenizer, sampler.config, **about)

    def watch(
        self,
        frames: Iterable[StepFrame],
        canvas: Canvas,
        tokenizer: Tokenizer,
        config: SamplerConfig,
        **about: str,
    ) -> Trace:
        """Show the frames of a running model as they arrive, and return them as a trace; arguments as in `Trace.of`.

        `frames` is usually `sampler.stream(denoiser, canvas)`. Displays the player if it is not displayed yet. Errors
        and interrupts propagate; the frames so far remain on the screen.
        """
        if self._snapshot is None:
            self._ipython_display_()
        meta = {"model": "", "architecture": "", **about, "tokenizer": tokenizer.name}
        feed = messages.Feed(canvas, tokenizer, meta | dataclasses.asdict(config))
        seen: list[StepFrame] = []
        try:
            for frame in frames:
                seen.append(frame)
                if message := feed.add(frame):
                    self.message = message
        finally:
            self.message = feed.finish()
            if self._snapshot is not None:
                self._snapshot.update({"text/html": snapshot(self.message, self.snapshot_id)}, raw=True)
        return Trace.of(seen, canvas, tokenizer, config, **about)

    def __repr__(self) -> str:
        return f"Player: {describe(self.message)}"

    def _ipython_display_(self) -> None:
        from IPython.core.getipython import get_ipython
        from IPython.display import display

        if get_ipython() is None:
            return
        bundle = self._repr_mimebundle_()
        display(bundle[0] if isinstance(bundle, tuple) else bundle, raw=True)
        picture = snapshot(self.message, self.snapshot_id)
        self._snapshot = display({"text/html": picture}, raw=True, display_id=True)


def describe(message: dict) -> str:
    """The state of a run in a few words: "24 tokens, 8 steps"."""
    if not message.get("frames"):
        return "nothing has run yet"
    steps = message["frames"][-1]["step"]
    return f"{message['header']['length']} tokens, {steps} steps" if "header" in message else f"step {steps}"


def snapshot(message: dict, element_id: str) -> str:
    """The last canvas of a message with the whole run, as HTML without style sheet or script."""
    body = ""
    if message.get("frames") and "header" in message:
        header, vocab = message["header"], message["vocab"]
        title = " · ".join(filter(None, [str(header["meta"].get("model", "")), describe(message)]))
        tokens = "".join(_tokens(messages.last_ids(message), header["mask_id"], vocab))
        body = (
            f'<div style="opacity:.75;font-size:90%">{html.escape(title)}</div>'
            f'<div style="white-space:pre-wrap;line-height:1.8;unicode-bidi:plaintext">{tokens}</div>'
        )
    return f'<div id="{html.escape(element_id)}">{body}</div>'


def _tokens(ids: Sequence[int], mask_id: int, vocab: dict[str, str]) -> Iterator[str]:
    texts = [None if id_ == mask_id else vocab.get(str(id_), f"⟨{id_}⟩") for id_ in ids]
    for text, drawn in zip(texts, spread(texts)):
        if text is None:
            yield '<span style="background:rgba(128,128,128,.3);border-radius:4px">&nbsp;&nbsp;&nbsp;&nbsp;</span> '
        else:
            yield html.escape(drawn)
