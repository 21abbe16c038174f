"""The app below the path of a proxy, in a browser."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("gradio", reason="needs gradio: pip install gradio")
from playwright.sync_api import expect

from tests.app.toys import toy_checkpoints
from tests.browser.visiting import entered

pytestmark = pytest.mark.browser


def test_a_run_below_a_path_writes_its_text_and_its_file_is_saved(new_page, tmp_path):
    from app.main import build, launch
    from app.server.models import Models
    from tests.app.server.proxy import proxied

    served = build(Models(toy_checkpoints(tmp_path)))
    with proxied(launch(served, root_path="/lab"), "/lab") as address:
        page = entered(new_page, address, "light", 1200)
        page.locator("#unmask-run").click()
        page.locator("#share").click()
        expect(page.locator("#save-json")).to_be_visible()
        assert page.url.startswith(address)
        with page.expect_download() as download:
            page.locator("#save-json").click()
        assert download.value.path().stat().st_size > 100
        page.close()  # before its server goes
    served.close(verbose=False)
