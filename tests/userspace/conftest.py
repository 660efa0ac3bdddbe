"""The machines that the tests of settings run on; read first: ``config_home``."""

from __future__ import annotations

from pathlib import Path

import pytest

from .config_home import Home
from .support import LINK


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def ready(home: Home) -> Home:
    """With one saved link."""
    home.store.save("home", LINK)
    return home
