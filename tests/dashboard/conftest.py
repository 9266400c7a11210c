"""A browser for all tests of the page, and a server whose engine holds what a test wants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dashboard.browser import Browser, Page, browser, chromium
from tests.dashboard.engine import state_with_dashboard
from tests.server.conftest import FolderResolver
from tests.server.running_server import RunningServer, running


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if chromium() is None:
        pytest.skip(
            "there is no Chromium here, so nothing looked at the dashboard page; "
            "on Debian: apt-get install chromium"
        )
    with browser(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def page(chrome: Browser) -> Iterator[Page]:
    page = chrome.open_page()
    yield page
    page.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def shelf_server(folder: Path) -> Iterator[RunningServer]:
    with running(state_with_dashboard(FolderResolver(folder))) as server:
        yield server
        assert server.state.activity is not None
        server.state.activity.close()
