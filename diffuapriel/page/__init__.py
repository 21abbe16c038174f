"""A page that runs a model: one HTML file with the player, the sampler, a model and onnxruntime-web inside.

    build_page(Path("dist/diffuapriel.html"), models=["tales-diffuapriel", "tales-diffutran"])

Python       export.py exports models to ONNX, runtime.py fetches onnxruntime-web, grammar.py writes the grammar,
             scripts.py joins the JavaScript files, build.py puts the page together
JavaScript   noise.js, sampler.js, blocks.js, run.js, tokenizer.js and tales.js are twins of the package's modules,
             which they name; worker.js runs them beside the model; page.js is the page
"""

from __future__ import annotations

from importlib import resources


def read_source(name: str) -> str:
    """The text of one of the page's files, e.g. "worker.js"."""
    return (resources.files(__name__) / name).read_text(encoding="utf-8")
