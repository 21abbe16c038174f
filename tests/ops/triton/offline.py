"""Runs the scripts that compile kernels for GPUs that are not there (compile_offline.py and those that build on it)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def printed(script: Path) -> str:
    """What a script prints in a process of its own, without Triton's interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
