"""Races the three architectures through the app's own API, and saves the race: `python -m tools.race_gpu`.

Starts the app without opening a browser, calls `race`, and writes the answer of `results`, recordings included, to a
file that the Race tab opens ("Open saved results"). By default what the tab opens with on this device: on a large GPU
1.3B at 65,536 tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


def main(arguments: list[str] | None = None) -> int:
    """Race, save and print the result. Returns 2 where the app refuses the race."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where available)")
    parser.add_argument("--preset", help="size of the models (default: what the tab opens with)")
    parser.add_argument("--length", type=int, help="tokens (default: what the tab opens with)")
    parser.add_argument("--steps", type=int, help="steps of the sampler (default: what the tab opens with)")
    parser.add_argument("--repeats", type=int, default=2, help="timed runs of each model (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("race.json"), help="where to save it (default: race.json)")
    options = parser.parse_args(arguments)

    from app.server.folder import use_own_folder

    use_own_folder()
    from gradio_client import Client

    from app.main import build, launch
    from app.race.request import opening
    from app.server.models import Models, untrained_label
    from diffuapriel.config import ARCHITECTURES
    from diffuapriel.device import resolve_device

    models = Models(device=str(resolve_device(options.device)))
    start = opening(models)
    mamba, hybrid, attention = (untrained_label(options.preset, kind) for kind in ARCHITECTURES)
    a, b, c = (mamba, attention, hybrid) if options.preset else start.entries
    page = build(models)
    client = Client(launch(page), verbose=False)
    work = {"length": options.length or start.long.length, "steps": options.steps or start.long.steps}
    print(f"{a} / {b} / {c}, {work['length']:,} tokens, {work['steps']} steps, {options.repeats} runs each", flush=True)
    began = time.monotonic()
    try:
        race = client.predict(a=a, b=b, c=c, **work, repeats=options.repeats, api_name="/race")
        kept = client.predict(recordings=True, api_name="/results")
    except Exception as error:  # what Gradio's client raises for a refusal has no class of its own
        print(f"race_gpu: {error}", file=sys.stderr)
        return 2
    finally:
        page.close(verbose=False)
    options.out.write_text(json.dumps(kept, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {size:.1f} MB, after {time.monotonic() - began:.0f} s")
    print(*race["fairness"], race["outcome"], sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
