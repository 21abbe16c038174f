"""Start the app: `python app/main.py`, from any folder.

It listens on 127.0.0.1, opens no tunnel, sends nothing to other machines, and offers the bundled checkpoints and
those given with --checkpoint. app/arguments.py reads the command line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

# Before Gradio is imported, so that it sends no telemetry.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# Leave a core to the browser: a waiting thread sleeps at once (see diffuapriel/__init__.py).
os.environ.setdefault("GOMP_SPINCOUNT", "0")

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the clone, not app/ itself

from app.server.folder import VARIABLE, use_own_folder

use_own_folder()

import gradio as gr

from app.arguments import HERE, Options, is_loopback, read_options
from app.inside.tab import InsideTab
from app.quality.tab import QualityTab
from app.race.tab import RaceTab
from app.server.api import use_json
from app.server.gateway.app import GatewayApp, watched
from app.server.gateway.origin import Origins
from app.server.limits import Limits
from app.server.models import Models
from app.server.page import MOST_SESSIONS, Page
from app.server.queue import VisitorQueue
from app.strings.language import texts
from app.ui.theme import ICON, SHEETS, head, theme
from app.unmask.tab import UnmaskTab
from diffuapriel.device import resolve_device

CACHE_SECONDS = 3600  # how often saved files are checked, and how old they may become


def build(models: Models, limits: Limits | None = None) -> Page:
    """The page, in every language."""
    limits = limits or Limits()
    page = build_once(models, limits)
    page.translate(lambda: build_once(models, limits))
    return page


def build_once(models: Models, limits: Limits) -> Page:
    """The page in the present language: a title, one sentence and the four tabs."""
    from diffuapriel.trace.player.gradio_host import html_component_arguments

    unmask, race = UnmaskTab(models, limits), RaceTab(models, limits)
    inside, quality = InsideTab(models, limits), QualityTab(models, limits)
    all_stops = [unmask.stops, race.race_stops, race.sweep_stops, inside.stops]
    all_stops += [quality.score_stops, quality.curve_stops]

    def stop(session: str | None) -> None:
        """End the session's runs within one step."""
        for stops in all_stops:
            stops.stop(session)
            stops.clear(session)

    def leave(session: str | None) -> None:
        """The page was closed. Gradio closes a running generator; the flag ends it within one step."""
        stop(session)
        race.leave(session)

    with Page(title=texts.TITLE, analytics_enabled=False, delete_cache=(CACHE_SECONDS, CACHE_SECONDS)) as page:
        gr.HTML(
            f'<header class="da-hero"><h1>{texts.HEADLINE}</h1><p>{texts.SENTENCE}</p></header>',
            apply_default_css=False,
        )
        page.tabs = []
        with gr.Tabs():
            with gr.Tab(texts.UNMASK_TAB, id="unmask"):
                page.tabs.append((len(page.fns), texts.UNMASK_TAB))
                unmask.build(html_component_arguments(words=texts.PLAYER, steer=True, folded=True))
            with gr.Tab(texts.RACE_TAB, id="race"):
                page.tabs.append((len(page.fns), texts.RACE_TAB))
                race.build(html_component_arguments(words=texts.PLAYER))
            with gr.Tab(texts.INSIDE_TAB, id="inside") as tab:
                page.tabs.append((len(page.fns), texts.INSIDE_TAB))
                inside.build(tab)
            with gr.Tab(texts.QUALITY_TAB, id="quality"):
                page.tabs.append((len(page.fns), texts.QUALITY_TAB))
                quality.build()
        page.tabs.append((len(page.fns), ""))  # handlers after this belong to no tab
    page.on_leave, page.room = leave, unmask.room
    page.queue(api_open=False)
    page._queue = VisitorQueue(page, limits.max_waiting, stop, page.room.seconds_left)
    return page


def launch(
    page: Page,
    *,
    host: str = HERE,
    port: int | None = None,
    auth: tuple[str, str] | None = None,
    mcp: bool = False,
    root_path: str = "",
    allowed_hosts: Sequence[str] = (),
    teacher_password: str = "",
) -> str:
    """Serve the page in the background, for this machine only unless `host` says otherwise; returns its address.

    auth: (user, password) to ask for. mcp: also offer the named handlers as MCP tools; needs the package mcp.
    root_path: the path below which a proxy serves the app. allowed_hosts: names that it answers to beside this
    machine's. teacher_password: of the page /teacher; without one there is none.
    """
    upload = Limits().max_upload_bytes
    origins = Origins((*allowed_hosts, host), look_up=not is_loopback(host))
    app = GatewayApp(
        origins, max_upload=upload, folder=Path(os.environ[VARIABLE]), mcp=mcp, teacher_password=teacher_password
    )
    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        auth=auth,
        auth_message=texts.LOGIN,
        favicon_path=ICON,
        share=False,
        theme=theme(),
        css_paths=list(SHEETS),
        head=head(),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=mcp,
        max_file_size=upload,
        root_path=root_path,
        state_session_capacity=MOST_SESSIONS,
        app_kwargs={"lifespan": watched},
        _app=app,
        show_error=False,
        prevent_thread_lock=True,
        quiet=True,
    )
    if mcp:
        use_json(page.mcp_server_obj)
    return url


def check_port(host: str, port: int | None) -> None:
    """Raises OSError where a chosen port is taken. Without one, Gradio takes the first free port from 7860."""
    if port is None:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name != "nt":  # there it would share the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            why = f"--port {port} cannot be used on {host}: {error.strerror or error}"
            raise OSError(f"{why}; name another port, or leave --port out for a free one") from None


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
    if options.teacher_password:
        lines.append(f"The teacher's page is {url}teacher")
    return lines


def raise_file_limit() -> None:
    """Permit as many open files as this system does: every connection of a visitor is one."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and serve until stopped. Returns 2 for bad arguments."""
    try:
        options = read_options(arguments)
        check_port(options.host, options.port)  # before models and page are built, which takes seconds
        raise_file_limit()
        texts.use(options.language)
        models = Models(options.checkpoints, str(resolve_device(options.device)))
        page = build(models, options.limits)
        url = launch(
            page,
            host=options.host,
            port=options.port,
            auth=options.auth,
            mcp=options.mcp,
            root_path=options.root_path,
            allowed_hosts=options.allowed_hosts,
            teacher_password=options.teacher_password,
        )
    except (ValueError, OSError) as error:  # OSError also where the port is taken
        print(f"app: {error}", file=sys.stderr)
        return 2
    print(*greeting(options, url), sep="\n", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl+C: downloads are deleted
    page.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
