"""A JupyterLab of the tests' own: its own port, settings, folders and kernel; it asks nothing of other machines."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.notebooks.test_lessons import execute

START_SECONDS = 120
OVERRIDES = {
    # Every cell is in the document, also those out of sight.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none", "scrollPastEnd": False},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}


@contextmanager
def serving_notebooks(notebooks: Path, folder: Path, theme: str = "JupyterLab Light") -> Iterator[str]:
    """The address of a JupyterLab on the notebooks; what it writes goes into `folder`. Training is shortened."""
    settings = folder / "settings"
    settings.mkdir()
    overrides = OVERRIDES | {"@jupyterlab/apputils-extension:themes": {"theme": theme}}
    (settings / "overrides.json").write_text(json.dumps(overrides), encoding="utf-8")
    environment = os.environ | execute.kernel_environment(folder) | {"DIFFUAPRIEL_QUICK": "1"}
    for name in ("CONFIG", "DATA", "RUNTIME"):
        environment[f"JUPYTER_{name}_DIR"] = str(folder / name.lower())
    port = free_port()
    command = [
        *(sys.executable, "-m", "jupyter", "lab", str(notebooks), "--no-browser", "--allow-root"),
        *("--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token="),
        *(f"--LabApp.app_settings_dir={settings}", f"--LabApp.user_settings_dir={folder / 'user'}"),
        *(f"--LabApp.workspaces_dir={folder / 'workspaces'}", "--LabApp.extension_manager=readonly"),
        *("--LabApp.expose_app_in_browser=True", "--LabApp.news_url=", "--ServerApp.disable_check_xsrf=True"),
    ]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/api", server, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()  # it ends its kernels
        server.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.2)
