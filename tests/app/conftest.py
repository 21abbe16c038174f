"""Untrained nano checkpoints in a temporary folder, the app's models on them, and a served app."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import pytest

from app.server.folder import use_own_folder

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_TEMP_DIR"] = str(use_own_folder())
pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
import httpx

from app.server.limits import Limits
from app.server.models import Models
from app.server.page import Page
from tests.app.toys import toy_checkpoints


@pytest.fixture(scope="session", autouse=True)
def certificates_read_once() -> Iterator[None]:
    """Each httpx.get would read those of all authorities: nineteen of its twenty parts, and the app has no https."""
    transport = httpx._transports.default
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport, "create_ssl_context", cache(transport.create_ssl_context))
        yield


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> list[str]:
    """Folders of two small untrained models."""
    return toy_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def models(checkpoints) -> Models:
    return Models(checkpoints)


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def visitor() -> SimpleNamespace:
    """What Gradio hands to a handler as the request: only the session is used."""
    return SimpleNamespace(session_hash="visitor")


@dataclass
class Served:
    """A running app."""

    url: str
    models: Models
    page: Page


@pytest.fixture(scope="module")
def served(checkpoints) -> Iterator[Served]:
    """The app, served on a free port."""
    from app.main import build, launch

    models = Models(checkpoints)
    page = build(models)
    yield Served(launch(page), models, page)
    page.close(verbose=False)
