"""A headless Chromium loads a page with fifty resources through SOCKS5, as a person's browser would.

The page counts its own decoded images and reports to the origin; the screenshot is kept as an artifact.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.interop.nginx import RESOURCES
from tests.interop.processes import ROOT
from tests.interop.proxies import Proxy, on
from tests.interop.system import NAME

pytestmark = [
    pytest.mark.netns,
    pytest.mark.programs,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is missing (Debian: chromium)"),
]

ARTIFACTS = Path(os.environ.get("QUICSOCKS_TEST_ARTIFACTS", ROOT / "artifacts"))


@on("socks5")
def test_a_page_with_fifty_resources(proxy: Proxy) -> None:
    system = proxy.system
    profile = system.folder("profile")
    shot = profile / "page.png"
    argv = [
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
        "--disable-breakpad", "--disable-dev-shm-usage", "--hide-scrollbars", "--window-size=700,700",
        f"--user-data-dir={profile}", f"--proxy-server=socks5://{proxy.authority}",
        f"--screenshot={shot}", f"http://{NAME}/page/index.html?{proxy.name}",
    ]  # fmt: skip
    env = {"HOME": str(profile), "XDG_RUNTIME_DIR": str(profile)}
    before = len(system.nginx.entries())
    done = system.spawner.run(proxy.place, argv, env=env, timeout=60)
    assert shot.exists(), done.stderr.decode(errors="replace")[-2000:]
    ARTIFACTS.mkdir(exist_ok=True)
    shutil.copyfile(shot, ARTIFACTS / f"page-through-{proxy.name}.png")
    beacon = system.nginx.wait_entry(f"/beacon?loaded={RESOURCES}")
    assert beacon.remote in (system.seen_v4, system.seen_v6)
    entries = system.nginx.entries()[before:]
    images = [entry for entry in entries if entry.target.endswith(".png")]
    assert {entry.target for entry in images} == {f"/page/{number}.png" for number in range(RESOURCES)}
    assert {entry.remote for entry in entries} <= {system.seen_v4, system.seen_v6}
