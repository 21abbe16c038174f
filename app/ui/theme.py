"""The page around the player: theme (system fonts, one accent color, light and dark) and its scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from app.strings.language import COOKIE, TABLES, texts

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
FOLDER = Path(__file__).parent
ICON = FOLDER / "icon.png"
SHEETS = [FOLDER / "style.css", FOLDER / "present.css"]
SCRIPTS = ("page.js", "turn.js", "keep.js", "present.js")  # in this order: the first one chooses the language
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
COLORS = {  # of Gradio's theme: light, dark
    "body_background_fill": ("#f6f7f9", "#0f1217"),
    "block_background_fill": ("#ffffff", "#16191f"),
    "block_border_color": ("#dfe2e8", "#343a46"),
    "border_color_primary": ("#dfe2e8", "#343a46"),
    "body_text_color_subdued": ("#5c6470", "#a2abb8"),
    "block_info_text_color": ("#5c6470", "#a2abb8"),
    "input_background_fill": ("#ffffff", "#16191f"),
    "input_border_color": ("#c3c8d1", "#4a5261"),
    "button_primary_background_fill": ("#0b6e8a", "#5cc8e4"),
    "button_primary_background_fill_hover": ("#095c74", "#7dd5ec"),
    "button_primary_text_color": ("#ffffff", "#0d1014"),
    "button_secondary_background_fill": ("#e9ecf1", "#262c36"),
    "button_secondary_background_fill_hover": ("#dfe3ea", "#313844"),
    "button_secondary_border_color": ("#d3d8e0", "#3a4250"),
    "checkbox_label_background_fill": ("#f1f3f6", "#1e222a"),
    "checkbox_label_background_fill_hover": ("#e6e9ee", "#262c36"),
    "slider_color": ("#0b6e8a", "#5cc8e4"),
}


def head() -> str:
    """What the page adds to Gradio's head: the texts of its scripts in every language, and the scripts."""
    words = {code: script_words(found) for code, found in TABLES.items()}
    given = json.dumps({"words": words, "default": texts.default, "cookie": COOKIE})
    given = given.replace("<", "\\u003c")  # so that no text ends the script early
    sources = "".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return f"<script>{sources.replace('GIVEN', given, 1)}</script>"


def script_words(table: Mapping[str, Any]) -> dict[str, Any]:
    """The texts of the page's scripts in one language."""
    return {
        "language": table["LANGUAGE"],
        "name": table["LANGUAGE_NAME"],
        "place": table["QUEUE_PLACE"],
        "soon": table["QUEUE_SECONDS"],
        **table["SCRIPTS"],
    }


def theme() -> gr.themes.Base:
    """Slate and cyan, the player's accent; no web fonts, so that the page makes no outside request."""
    colors = {name: light for name, (light, _) in COLORS.items()}
    colors |= {f"{name}_dark": dark for name, (_, dark) in COLORS.items()}
    return gr.themes.Base(
        primary_hue=gr.themes.colors.cyan,
        neutral_hue=gr.themes.colors.slate,
        font=FONT,
        font_mono=MONO,
        radius_size=gr.themes.sizes.radius_lg,
        text_size=gr.themes.sizes.text_md,
    ).set(
        **colors,
        block_border_width="1px",
        block_shadow="none",
        block_label_text_weight="500",
        block_title_text_weight="500",
        input_border_width="1px",
        button_large_text_size="*text_md",
        color_accent="#0b6e8a",
    )
