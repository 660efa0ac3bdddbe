#!/bin/sh
# Prepares a fresh Debian machine: system packages that are missing, a virtual environment, the project in it.
#
#   contrib/bootstrap.sh demo    what the demonstration needs; stops with the line to run when it cannot install it
#   contrib/bootstrap.sh test    the same and what the tests use; tests whose programs are missing skip with a reason
#
# Installs system packages only as root, and starts no service of theirs.
set -eu
cd "$(dirname "$0")/.."
what=${1:-demo}
venv=.venv

python=
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done

required=
optional=
need() { # need PACKAGE COMMAND: the package must be there unless the command is
    command -v "$2" >/dev/null 2>&1 || [ -x "/usr/sbin/$2" ] || required="$required $1"
}
want() {
    command -v "$2" >/dev/null 2>&1 || [ -x "/usr/sbin/$2" ] || optional="$optional $1"
}
[ -n "$python" ] || required="$required python3"
[ -n "$python" ] && "$python" -c 'import venv, ensurepip' 2>/dev/null || required="$required python3-venv"
need curl curl
need gcc gcc
header() { # header PACKAGE FILE: the package must be there unless the compiler finds the header
    echo "#include <$2>" | cc -E ${python:+-I"$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')"} \
        - >/dev/null 2>&1 || required="$required $1"
}
header libc6-dev stdlib.h
header libssl-dev openssl/evp.h
header python3-dev Python.h
if [ "$what" = test ]; then
    want ca-certificates update-ca-certificates
    want git git
    want nginx-light nginx
    want openssh-server sshd
    want openssh-client ssh
    want netcat-openbsd nc.openbsd
    want iproute2 ip
    want util-linux setpriv
    want procps pgrep
    want microsocks microsocks
    want dante-server danted
    want wget wget
    want chromium chromium
    want tcpdump tcpdump
    want tshark tshark
    want systemd systemd-analyze
    want ngtcp2-client gtlsclient
    want ngtcp2-server gtlsserver
    want caddy caddy
fi

missing=$(echo "$required $optional" | xargs)
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "bootstrap: installing $missing" >&2
        # Nothing that is installed here may start a service on this machine.
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod 755 "$policy"
            trap 'rm -f "$policy"' EXIT
        fi
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq >&2
        # What this release does not have, tests do without.
        for package in $optional; do
            if apt-cache show "$package" >/dev/null 2>&1; then required="$required $package"; fi
        done
        # shellcheck disable=SC2086
        apt-get install -y -qq --no-install-recommends $required >/dev/null
        [ -n "$python" ] || python=python3
    elif [ -n "$required" ]; then
        echo "quicsocks needs packages that are not installed. Run this line, then try again:" >&2
        echo "    sudo apt-get install -y$required$optional" >&2
        exit 1
    else
        echo "bootstrap: some tests will be skipped; to run them all: sudo apt-get install -y$optional" >&2
    fi
fi

extras=
[ "$what" = test ] && extras='[test]'
stamp="$venv/.installed-$what"
newer=
[ -e "$stamp" ] && newer=$(find pyproject.toml setup.py userspace netstack \
    \( -name '*.toml' -o -name setup.py -o -name '*.pyx' -o -name '*.pxd' \) -newer "$stamp")
if [ ! -e "$stamp" ] || [ -n "$newer" ]; then
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -e ".$extras"
    touch "$stamp"
fi
