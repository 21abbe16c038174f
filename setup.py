"""The one step of the build that pyproject.toml cannot say: a wheel carries tokenizer tables and two models of assets/.

An editable install (what start.py does) copies nothing; diffuapriel/assets.py finds the files in both cases.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ASSETS = Path("assets")
MODELS = [Path("checkpoints") / name for name in ("tales-diffuapriel", "stories-diffuapriel")]
SHIPPED = [
    Path("gpt2.tiktoken"),
    Path("tales-words.txt"),
    *(model / name for model in MODELS for name in ("README.md", "config.json", "loss.png", "model.safetensors")),
]


class BuildWithAssets(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for path in SHIPPED:
            target = Path(self.build_lib, "diffuapriel", "_assets", path)
            self.mkpath(str(target.parent))
            self.copy_file(str(ASSETS / path), str(target))


setup(cmdclass={"build_py": BuildWithAssets})
