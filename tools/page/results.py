"""What the tools of this folder have measured, kept in assets/results/page.json; docs/page.md has its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[2] / "assets" / "results" / "page.json"


def save(kind: str, name: str, values: dict[str, Any]) -> None:
    """Put values under a kind of measurement and a model or page; what is there under other names stays."""
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    known.setdefault(kind, {})[name] = values
    FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
