"""Start the app: `python app/main.py`, from any folder.

It listens on 127.0.0.1, opens no tunnel, sends nothing to other machines, and offers the bundled checkpoints and
those given with --checkpoint. app/arguments.py reads the command line.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

# Before Gradio is imported, so that it sends no telemetry.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# Leave a core to the browser: a waiting thread sleeps at once (see diffuapriel/__init__.py).
os.environ.setdefault("GOMP_SPINCOUNT", "0")

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the clone, not app/ itself

import gradio as gr

from app.arguments import HERE, Options, read_options
from app.inside.tab import InsideTab
from app.quality.tab import QualityTab
from app.race.tab import RaceTab
from app.server.limits import Limits
from app.server.models import Models
from app.strings.language import texts
from app.ui.theme import STYLE, head, theme
from app.unmask.tab import UnmaskTab
from diffuapriel.device import resolve_device

CACHE_SECONDS = 3600  # how often saved files are checked, and how old they may become
CONCURRENCY = 8  # events that run no model, e.g. opening a trace; only one that runs a model runs at a time


def build(models: Models, limits: Limits | None = None) -> gr.Blocks:
    """The page: a title, one sentence and the four tabs."""
    from diffuapriel.trace.player.gradio_host import html_component_arguments

    limits = limits or Limits()
    unmask, race = UnmaskTab(models, limits), RaceTab(models, limits)
    inside, quality = InsideTab(models, limits), QualityTab(models, limits)
    all_stops = [unmask.stops, race.race_stops, race.sweep_stops, inside.stops]
    all_stops += [quality.score_stops, quality.curve_stops]

    def leave(request: gr.Request) -> None:
        """The page was closed. Gradio closes a running generator; the flag ends it within one step."""
        for stops in all_stops:
            stops.stop(request.session_hash)
            stops.clear(request.session_hash)

    with gr.Blocks(title=texts.TITLE, analytics_enabled=False, delete_cache=(CACHE_SECONDS, CACHE_SECONDS)) as page:
        gr.HTML(
            f'<header class="da-hero"><h1>{texts.TITLE}</h1><p>{texts.SENTENCE}</p></header>',
            apply_default_css=False,
        )
        with gr.Tabs():
            with gr.Tab(texts.UNMASK_TAB, id="unmask"):
                unmask.build(html_component_arguments(words=texts.PLAYER, steer=True))
            with gr.Tab(texts.RACE_TAB, id="race"):
                race.build(html_component_arguments(words=texts.PLAYER))
            with gr.Tab(texts.INSIDE_TAB, id="inside"):
                inside.build()
            with gr.Tab(texts.QUALITY_TAB, id="quality"):
                quality.build(html_component_arguments(words=texts.PLAYER))
        page.unload(leave)
    return page.queue(max_size=limits.max_waiting, default_concurrency_limit=CONCURRENCY)


def launch(
    page: gr.Blocks,
    *,
    host: str = HERE,
    port: int | None = None,
    auth: tuple[str, str] | None = None,
    mcp: bool = False,
) -> str:
    """Serve the page in the background, for this machine only unless `host` says otherwise; returns its address.

    auth: (user, password) to ask for. mcp: also offer the named handlers as MCP tools; needs the package mcp.
    """
    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        auth=auth,
        share=False,
        theme=theme(),
        css_paths=[STYLE],
        head=head(),
        footer_links=["settings"],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=mcp,
        max_file_size=Limits().max_upload_bytes,
        show_error=False,
        prevent_thread_lock=True,
        quiet=True,
    )
    return url


def greeting(options: Options, url: str) -> list[str]:
    """The lines printed at start: the address, and who can open it."""
    lines = [f"DiffuApriel is at {url} (Ctrl+C stops it)"]
    if options.open_to_others:
        lines.append(f"Other machines open it at this machine's name or address, port {urlsplit(url).port}.")
        lines.append("What they send is not encrypted: on a network that is not yours, use an HTTPS proxy.")
    else:
        lines.append(
            f"It listens on {options.host} only: no other machine can open it. "
            "--host 0.0.0.0 --auth user:password lets others in."
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and serve until stopped. Returns 2 for bad arguments."""
    try:
        options = read_options(arguments)
        texts.use(options.language)
        models = Models(options.checkpoints, str(resolve_device(options.device)))
        page = build(models, options.limits)
        url = launch(page, host=options.host, port=options.port, auth=options.auth, mcp=options.mcp)
    except (ValueError, OSError) as error:  # OSError also where the port is taken
        print(f"app: {error}", file=sys.stderr)
        return 2
    print(*greeting(options, url), sep="\n", flush=True)
    page.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
