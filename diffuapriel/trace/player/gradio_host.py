"""The player inside a Gradio app: the arguments that make a `gr.HTML` into it.

    from diffuapriel.trace.player.gradio_host import html_component_arguments
    from diffuapriel.trace.player.wire import Feed, race_message, to_text

    player = gr.HTML(**html_component_arguments())
    button.click(generate, inputs, player, show_progress="hidden")      # generate yields values for the player

A value is a message of diffuapriel.trace.messages as JSON text (or "", which changes nothing):

    live      feed = Feed(canvas, tokenizer, meta)                    # meta as in a trace: model, strategy, steps, ...
              for frame in sampler.stream(denoiser, canvas):
                  if message := feed.add(frame):
                      yield to_text(message)
              yield to_text(feed.finish())
    a trace   to_text(compact(trace.to_dict()))
    a race    to_text(race_message([{"label": ..., "note": ..., "trace": trace.to_dict()}, ...]))

With `steer=True` the reader can edit the canvas and ask for steps. Each wish is one of the component's events:
"submit" for what runs the model (do: "go" or "step"), "input" for everything else, with the command as its data:

    player.submit(run_on, ...)            # def run_on(..., event: gr.EventData): event._data is {"do": "step", ...}

A dict does too, but Gradio compares values with each other several times and wraps dicts in deep proxies:
text is several times faster.

How it works: Gradio runs `js_on_load` as the body of a function, where `export` is a syntax error, so player.js
is carried as text and imported from a Blob, once for all players of a page. Its style sheet goes into the
page's head: Gradio would nest `css_template` under the component's id, where @keyframes and `.dark` fail.
Nothing is requested from anywhere.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping

from diffuapriel.trace.player.source import read_source

_ON_LOAD = """
const key = Symbol.for("diffuapriel.trace.player." + "{digest}");
const text = (code) => new TextDecoder().decode(Uint8Array.from(atob(code), (c) => c.charCodeAt(0)));
if (!globalThis[key]) {
  const style = document.createElement("style");
  style.textContent = text("{css}");
  document.head.append(style);
  const url = URL.createObjectURL(new Blob([text("{js}")], { type: "text/javascript" }));
  globalThis[key] = import(url).finally(() => URL.revokeObjectURL(url));
}
globalThis[key].then((player) => player.bindGradio({ element, props, watch, trigger }, JSON.parse(text("{options}"))));
"""


def html_component_arguments(
    *,
    empty: str = "Nothing has run yet.",
    height: str | None = None,
    steer: bool = False,
    words: Mapping[str, object] | None = None,
) -> dict:
    """Keyword arguments for `gr.HTML`.

    `empty` is shown until the first message; `height` is a CSS length above which the canvas scrolls ("none": never);
    `steer` lets the reader edit what a message with `steer` shows; `words` are texts in another language, by their
    names in WORDS of player.js: what they leave out stays English.
    """
    js, css = read_source("player.js"), read_source("player.css")
    options: dict[str, object] = {"empty": empty, "steer": steer}
    options |= {} if height is None else {"height": height}
    options |= {"words": dict(words), "empty": words.get("empty", empty)} if words else {}
    parts = {
        "css": _encode(css),
        "js": _encode(js),
        "options": _encode(json.dumps(options)),
        "digest": str(zlib.crc32((js + css).encode())),
    }
    on_load = _ON_LOAD
    for name, part in parts.items():
        on_load = on_load.replace("{" + name + "}", part)
    return {
        "value": "",
        "html_template": '<div class="da-host"></div>',
        "css_template": "",
        "js_on_load": on_load,
        "apply_default_css": False,
    }


def _encode(source: str) -> str:
    # Base64 holds no quotes: Gradio reads quoted words in js_on_load as names of events.
    return base64.b64encode(source.encode()).decode()
