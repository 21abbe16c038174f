"""The page's three controls: the text with its keys and holes, the buttons beside it, and the order of writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from app.ui.events import AT_ONCE
from app.ui.inputs import scripted
from app.unmask.request import ORDER_STRATEGY, ORDERS

KEYS = Path(__file__).with_name("keys.js")
# The text as [before, selected, after]; without a selection, the word at the cursor is selected.
SELECTION = """(text, model) => {
  const box = document.querySelector("#unmask-text textarea");
  let [from, to] = [box.selectionStart, box.selectionEnd];
  if (from === to) {
    from -= /[\\p{L}\\p{N}']*$/u.exec(text.slice(0, from))[0].length;
    to += /^[\\p{L}\\p{N}']*/u.exec(text.slice(to))[0].length;
  }
  return [[text.slice(0, from), text.slice(from, to), text.slice(to)], model, text];
}"""


def keys() -> dict[str, Any]:
    """Arguments of a `gr.HTML` that gives the text box its keys: Ctrl+Enter runs, Ctrl+M makes a hole."""
    return scripted(KEYS, "")


def wire_order(order: gr.Radio, strategy: gr.Dropdown, block: gr.Slider) -> None:
    """The order sets strategy and block length; other values of these two leave no order chosen."""
    table, rule = json.dumps(ORDERS), json.dumps(ORDER_STRATEGY)
    order.input(lambda name: (ORDER_STRATEGY, ORDERS[name]), order, [strategy, block], **AT_ONCE)
    shown = f"""(strategy, block) => {{
      const found = Object.entries({table}).find(([, length]) => length === block);
      return strategy === {rule} && found ? found[0] : null;
    }}"""
    gr.on([strategy.change, block.change], None, [strategy, block], order, js=shown, **AT_ONCE)
