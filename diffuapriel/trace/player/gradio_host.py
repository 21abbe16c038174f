"""The player in a Gradio app: the arguments that turn a `gr.HTML` into a player.

    from diffuapriel.trace.player.gradio_host import html_component_arguments
    from diffuapriel.trace.messages import Feed, race_message, to_text

    player = gr.HTML(**html_component_arguments())
    button.click(generate, inputs, player, show_progress="hidden")      # generate yields messages

The value is a message of diffuapriel.trace.messages as JSON text (or "", which changes nothing):

    live      feed = Feed(canvas, tokenizer, meta)                    # meta as in a trace: model, strategy, steps, ...
              for frame in sampler.stream(denoiser, canvas):
                  if message := feed.add(frame):
                      yield to_text(message)
              yield to_text(feed.finish())
    a trace   to_text(compact(trace.to_dict()))
    a race    to_text(race_message([{"label": ..., "note": ..., "trace": trace.to_dict()}, ...]))

With `steer=True` the reader can edit the canvas and request steps. Each command is an event of the component with the
command as its data: "submit" if it runs the model (do: "go" or "step"), "select" if it asks the model about the masks
(do: "guess"), else "input".

    player.submit(run_on, ...)            # def run_on(..., event: gr.EventData): event._data is {"do": "step", ...}

The value may also be a dict, but Gradio compares values several times and wraps dicts in deep proxies: text is
several times faster.

How it works: Gradio runs `js_on_load` as the body of a function, where `export` is a syntax error. player.js is
therefore embedded as text and imported from a Blob, once for all players of a page. The style sheet goes into the
page's head, because Gradio nests `css_template` under the component's id, where @keyframes and `.dark` do not work. No
request is made.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping

from diffuapriel.trace.player import read_source

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
    folded: bool = False,
    words: Mapping[str, object] | None = None,
) -> dict:
    """Keyword arguments for `gr.HTML`.

    `empty` is shown until the first message; `height` is a CSS length above which the canvas scrolls ("none": never);
    `steer` lets the reader edit runs whose messages say `steer`; `folded` keeps colors, charts and facts of the run
    under one heading; `words` are translations, by their names in WORDS of player.js; missing ones stay English.
    """
    js, css = read_source("player.js"), read_source("player.css")
    options: dict[str, object] = {"empty": empty, "steer": steer, "folded": folded}
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
    # Base64 has no quotes: Gradio reads quoted words in js_on_load as names of events.
    return base64.b64encode(source.encode()).decode()
