"""``ssh -D`` against an sshd of our own: on a high port, with its own keys and none of the machine's configuration.

Read ssh(1), sshd_config(5). Neither the user's nor the machine's keys and known hosts are read or changed.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from bench.flows import Via
from bench.peers.base import Peer, Place, Running
from bench.processes import Program, StartError, free_port

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")


class Ssh(Peer):
    name = "ssh"
    label = "ssh -D"

    def missing(self) -> str | None:
        if SSHD is None or shutil.which("ssh") is None:
            return "OpenSSH's client and server are not both installed"
        # sshd refuses to start without its privilege separation directory when it is root.
        if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
            try:
                Path("/run/sshd").mkdir(mode=0o755)
            except OSError as error:
                return f"sshd needs the directory /run/sshd: {error.strerror}"
        return None

    def start(self, place: Place, folder: Path) -> Running:
        assert SSHD is not None
        host_key, user_key = folder / "host_key", folder / "user_key"
        for key in (host_key, user_key):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        server_port, client_port = free_port(), free_port()
        known = folder / "known_hosts"
        host_public = host_key.with_suffix(".pub").read_text()
        known.write_text(f"[{place.address}]:{server_port} {host_public}")
        configuration = folder / "sshd_config"
        configuration.write_text(
            f"ListenAddress {place.address}:{server_port}\n"
            f"HostKey {host_key}\n"
            f"AuthorizedKeysFile {user_key}.pub\n"
            f"PidFile none\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\n"
            "PermitRootLogin prohibit-password\nAllowTcpForwarding local\n"
        )
        running = Running(via=Via("socks5", ("127.0.0.1", client_port)))
        try:
            server = Program("sshd", place.server_argv([SSHD, "-D", "-e", "-f", str(configuration)]), folder)
            running.programs["server"] = server
            server.wait_listening(server_port)
            options = {
                "UserKnownHostsFile": str(known),
                "IdentityFile": str(user_key),
                "IdentitiesOnly": "yes",
                "BatchMode": "yes",
                "StrictHostKeyChecking": "yes",
                "ExitOnForwardFailure": "yes",
                "DynamicForward": f"127.0.0.1:{client_port}",
                "Port": str(server_port),
            }
            argv = ["ssh", "-N", "-F", "none"]
            for name, value in options.items():
                argv += ["-o", f"{name}={value}"]
            argv.append(f"{pwd.getpwuid(os.geteuid()).pw_name}@{place.address}")
            client = Program("ssh", place.client_argv(argv), folder)
            running.programs["client"] = client
            client.wait_listening(client_port)
        except StartError:
            running.stop()
            raise
        return running
