"""Export models to run without PyTorch: as an ONNX graph, or inside a web page.

--onnx writes a graph that serves every length: ids, the noise level sigma and positions in, logits there out. That of a
model of blocks is a pass over the next blocks and also takes and returns the cache of the finished ones;
diffuapriel/page/export.py describes its inputs.

--page writes one HTML file with the player, the models, their tokenizer, the checker of stories and onnxruntime-web,
to open by a double click, without a network. The first model writes; the others race with it. onnxruntime-web is
fetched once from the npm registry and checked; --runtime names a folder that has its files.

Weights are stored as float32, float16 or 8-bit integers (int8), and computed with as float32.

examples:
  diffuapriel export tales-diffuapriel --onnx                            writes tales-diffuapriel.onnx
  diffuapriel export runs/mine --onnx models/mine.onnx --weights int8    a quarter of the size
  diffuapriel export tales-diffuapriel tales-diffutran --page            writes dist/diffuapriel.html
  diffuapriel export tales-diffuapriel --page one.html --weights float16 --runtime node_modules/onnxruntime-web/dist
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffuapriel.commands.console.output import output_file

PAGE = Path("dist/diffuapriel.html")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a bundled name, a folder, or a Hub id")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument(
        "--onnx", type=output_file, nargs="?", const=Path(), metavar="FILE", help="an ONNX graph; default: NAME.onnx"
    )
    wanted.add_argument(
        "--page", type=output_file, nargs="?", const=PAGE, metavar="FILE", help=f"a web page; default: {PAGE}"
    )
    parser.add_argument(
        "--weights",
        choices=("float32", "float16", "int8"),
        help="how matrices are stored; default: float32, of a page int8",
    )
    parser.add_argument("--runtime", type=Path, metavar="FOLDER", help="the files of onnxruntime-web, for --page")


def run(args: argparse.Namespace) -> int:
    from diffuapriel.checkpoint import checkpoint_name, load_checkpoint
    from diffuapriel.page.build import build_page
    from diffuapriel.page.export import export_onnx

    if args.page:
        path = build_page(args.page, models=args.models, weights=args.weights or "int8", runtime_folder=args.runtime)
    elif len(args.models) > 1 or args.runtime:
        raise ValueError(f"--onnx exports one model, without --runtime; {len(args.models)} models were given")
    else:
        path = args.onnx if args.onnx.name else Path(f"{Path(checkpoint_name(args.models[0])).name}.onnx")
        export_onnx(load_checkpoint(args.models[0])[0], path, args.weights or "float32")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0
