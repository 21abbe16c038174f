"""Print depth, d_model and parameters of every preset.

The three architectures match in parameters, not in shape: at equal d_model d, a Mamba block has about 16 d^2 parameters
and a Transformer block 12 d^2. `spread` is the difference between the largest and smallest model of a preset.

examples:
  diffuapriel params                    the table
  diffuapriel params nano tiny          two presets only
  diffuapriel params --json             as JSON
"""

from __future__ import annotations

import argparse
import json

from diffuapriel.config import ARCHITECTURES, PRESETS, preset


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("presets", nargs="*", metavar="PRESET", help=f"{', '.join(PRESETS)}; all by default")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    from diffuapriel.benchmark.format import table

    rows = []
    for name in args.presets or PRESETS:
        configs = [preset(name, architecture) for architecture in ARCHITECTURES]
        counts = [config.parameters for config in configs]
        for config, count in zip(configs, counts, strict=True):
            row = {"preset": name, "architecture": config.architecture, "depth": config.depth}
            row |= {"d_model": config.d_model, "parameters": count, "spread": max(counts) / min(counts) - 1}
            rows.append(row)
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    formats = {"parameters": "{:,}", "spread": "{:.2%}"}
    cells = [[formats.get(key, "{}").format(value) for key, value in row.items()] for row in rows]
    print(table(list(rows[0]), cells))
    return 0
