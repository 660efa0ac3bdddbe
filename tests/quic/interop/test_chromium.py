"""The native engine and Chromium's client: a page and what its script fetches over HTTP/3, with versions 1 and 2 of QUIC."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from quicsocks.userspace.quic.types import VERSION_1, VERSION_2

from ...sim.link import Conditions
from . import http3
from .http3 import Message, response
from .program import program, required
from .relay import CLEAN, LOOPBACK, Relay
from .stage import NAME, SEED, Stage, either_path, endpoint, files, reached, within

pytestmark = [pytest.mark.programs, required("chromium", "chromium")]

LONG_HEADER = 0x80
PAGE = b"""<!doctype html>
<title>fetching</title>
<script>
const hex = (hash) => Array.from(new Uint8Array(hash), (octet) => octet.toString(16).padStart(2, "0")).join("");
const digest = async (path) => {
    const body = await (await fetch(path)).arrayBuffer();
    return path + " " + hex(await crypto.subtle.digest("SHA-256", body));
};
(async () => {
    const paths = (await (await fetch("/paths")).text()).split(" ");
    const lines = await Promise.all(paths.map(digest));
    await fetch("/report", { method: "POST", body: lines.join("\\n") });
})();
</script>
"""
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-breakpad",
    "--disable-dev-shm-usage",
)  # fmt: skip


class Origin:
    """Gives the page and the files; report: the page's lines, of a path and the digest of what it got."""

    def __init__(self) -> None:
        self.report: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    def respond(self, request: Message) -> Message:
        path = request.field(b":path").decode()
        if path == "/page":
            return response(PAGE, kind="text/html")
        if path == "/paths":
            return response(" ".join(files()).encode(), kind="text/plain")
        if path == "/report":
            self.report.set_result(request.body.decode().split("\n"))
            return response(b"")
        return response(files()[path]) if path in files() else response(b"", 404)


def client_words(stage: Stage, between: Relay, profile: Path) -> list[str]:
    """It is told to use QUIC at once, and to believe the stage's key, which no public authority has signed."""
    authority = f"{NAME}:{between.address[1]}"
    pin = base64.b64encode(stage.identity.pin).decode()
    return [
        "chromium", *QUIET, f"--user-data-dir={profile}", f"--ignore-certificate-errors-spki-list={pin}",
        f"--origin-to-force-quic-on={authority}", f"--host-resolver-rules=MAP {NAME} {LOOPBACK[0]}",
    ]  # fmt: skip


async def browse(stage: Stage, folder: Path, conditions: Conditions, words: Sequence[str] = ()) -> set[int]:
    """Until the page has told what it got. The QUIC versions that long headers have named."""
    origin = Origin()
    server = http3.Server(origin.respond)
    async with endpoint() as ours:
        ours.listen(stage.listen_config(http3.ALPN), server.accept)
        async with reached(ours.local_addresses[0], conditions, SEED) as between:
            between.record = True
            argv = [*client_words(stage, between, folder / "profile"), *words]
            argv.append(f"https://{NAME}:{between.address[1]}/page")
            async with program(argv, env={"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}):
                lines = await origin.report
            assert sorted(lines) == sorted(
                f"{path} {hashlib.sha256(body).hexdigest()}" for path, body in files().items()
            )
            return {int.from_bytes(passed.data[1:5], "big") for passed in between.taken if passed.data[0] & LONG_HEADER}


@either_path
def test_it_fetches_from_us(stage: Stage, conditions: Conditions, tmp_path: Path) -> None:
    async def main() -> None:
        assert await browse(stage, tmp_path, conditions) == {VERSION_1}

    within(main(), 60.0)


def test_it_fetches_from_us_with_version_2(stage: Stage, tmp_path: Path) -> None:
    """RFC 9369, as somebody else has read it."""

    async def main() -> None:
        assert await browse(stage, tmp_path, CLEAN, ["--quic-version=RFCv2"]) == {VERSION_2}

    within(main(), 60.0)
