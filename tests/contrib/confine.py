"""Starts a program as a service unit would have it: ``python confine.py PLAN PROGRAM ARGUMENT...``

PLAN is JSON: {"syscalls": [names], "families": [numbers], "deny_write_execute": bool, "core": bytes, "files": number,
"umask": number}. It does what systemd does for SystemCallFilter=, RestrictAddressFamilies= and
MemoryDenyWriteExecute= (systemd.exec(5)), with libseccomp and prctl(2), which an unprivileged process may do once
no-new-privs is set; then it executes the program. A system call that is not listed fails with EPERM.

Runs by itself, as nobody: it imports only the standard library.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import sys

PR_SET_NO_NEW_PRIVS = 38
PR_SET_MDWE = 65
PR_MDWE_REFUSE_EXEC_GAIN = 1
SCMP_ACT_ALLOW = 0x7FFF0000
SCMP_ACT_ERRNO = 0x00050000
SCMP_CMP_EQ = 4
UNKNOWN_SYSCALL = -1


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


def main() -> None:
    plan = json.loads(sys.argv[1])
    os.umask(plan["umask"])
    resource.setrlimit(resource.RLIMIT_CORE, (plan["core"], plan["core"]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, plan["files"]), plan["files"]))
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no-new-privs")
    # The filter comes last but one: loading it needs seccomp(2), which it may not allow; execve it must allow.
    if plan["deny_write_execute"]:
        _check(libc.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0), "PR_SET_MDWE")
    _filter(plan["syscalls"], plan["families"])
    os.execv(sys.argv[2], sys.argv[2:])


def _filter(syscalls: list[str], families: list[int]) -> None:
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(SCMP_ACT_ERRNO | errno.EPERM)))
    allow = ctypes.c_uint32(SCMP_ACT_ALLOW)
    for name in syscalls:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number == UNKNOWN_SYSCALL or name == "socket":
            continue
        # Calls of other architectures resolve to negative numbers and are passed over by the library.
        result = seccomp.seccomp_rule_add_exact_array(context, allow, number, 0, None)
        if result not in (0, -errno.EDOM, -errno.EINVAL):
            raise SystemExit(f"confine: cannot allow {name}: {os.strerror(-result)}")
    socket_call = seccomp.seccomp_syscall_resolve_name(b"socket")
    for family in families:
        comparison = Comparison(0, SCMP_CMP_EQ, family, 0)
        result = seccomp.seccomp_rule_add_exact_array(context, allow, socket_call, 1, ctypes.byref(comparison))
        if result:
            raise SystemExit(f"confine: cannot allow the address family {family}: {os.strerror(-result)}")
    result = seccomp.seccomp_load(context)
    if result:
        raise SystemExit(f"confine: cannot load the filter: {os.strerror(-result)}")


def _check(result: int, what: str) -> None:
    if result:
        raise SystemExit(f"confine: {what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
