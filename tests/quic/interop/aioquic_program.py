"""aioquic as it comes, as programs: an HTTP/0.9 server and client of its own asyncio layer. Imports nothing of ours.

python aioquic_program.py serve FOLDER CERTIFICATE KEY [--retry]      prints the port it listens on
python aioquic_program.py fetch PORT NAME AUTHORITY INTO PATH...      all at once; stores each below INTO
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from pathlib import Path

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.quic.configuration import QuicConfiguration

ALPN = "hq-interop"
HOST = "127.0.0.1"


async def serve(arguments: argparse.Namespace) -> None:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=[ALPN])
    configuration.load_cert_chain(arguments.certificate, arguments.key)

    def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.ensure_future(respond(reader, writer)))

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, _, path = (await reader.read()).decode().rstrip("\r\n").partition(" ")
        if method == "GET":
            writer.write((arguments.folder / path.removeprefix("/")).read_bytes())
        writer.write_eof()

    tasks: list[asyncio.Future[None]] = []
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, 0))
    # What aioquic's ``serve`` does, but on a socket whose port is known.
    await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: QuicServer(configuration=configuration, stream_handler=answer, retry=arguments.retry), sock=sock
    )
    print(f"listening on {sock.getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


async def fetch(arguments: argparse.Namespace) -> None:
    configuration = QuicConfiguration(is_client=True, alpn_protocols=[ALPN], server_name=arguments.name)
    configuration.load_verify_locations(cafile=arguments.authority)
    async with connect(HOST, arguments.port, configuration=configuration) as client:
        await asyncio.gather(*(store(client, path, arguments.into) for path in arguments.path))


async def store(client: QuicConnectionProtocol, path: str, into: Path) -> None:
    reader, writer = await client.create_stream()
    writer.write(f"GET {path}\r\n".encode())
    writer.write_eof()
    (into / path.removeprefix("/")).write_bytes(await reader.read())


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    server = commands.add_parser("serve")
    server.set_defaults(run=serve)
    for name in ("folder", "certificate", "key"):
        server.add_argument(name, type=Path)
    server.add_argument("--retry", action="store_true")
    client = commands.add_parser("fetch")
    client.set_defaults(run=fetch)
    client.add_argument("port", type=int)
    client.add_argument("name")
    client.add_argument("authority", type=Path)
    client.add_argument("into", type=Path)
    client.add_argument("path", nargs="+")
    arguments = parser.parse_args()
    asyncio.run(arguments.run(arguments))


if __name__ == "__main__":
    main()
