"""A packet in a line, as tcpdump writes it.

What ``tcpdump -n -S`` would print, without the time; of protocols other than TCP, UDP and ICMP only the number. For people
who look for what goes wrong, so that anything is described, also what is no packet.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
_EXTENSIONS = (0, 43, 60)
_FRAGMENT = 44
_FLAGS = ((0x01, "F"), (0x02, "S"), (0x04, "R"), (0x08, "P"), (0x10, "."), (0x20, "U"), (0x40, "E"), (0x80, "W"))
_UNREACHABLE4 = {0: "net {} unreachable", 1: "host {} unreachable", 13: "host {} unreachable - admin prohibited filter"}
_UNREACHABLE6 = {0: "unreachable route {}", 1: "unreachable prohibited {}", 3: "unreachable address {}"}


def describe(packet: bytes) -> str:
    """One line about an IP packet."""
    try:
        return (
            _version4(packet) if packet[0] >> 4 == 4 else _version6(packet) if packet[0] >> 4 == 6 else _broken(packet)
        )
    except IndexError:
        return _broken(packet)


def _broken(packet: bytes) -> str:
    return f"no IP packet, length {len(packet)}"


def _version4(packet: bytes) -> str:
    header, total = (packet[0] & 15) * 4, _number(packet, 2)
    if header < 20 or total < header or total > len(packet):
        return _broken(packet)
    source, destination = str(IPv4Address(packet[12:16])), str(IPv4Address(packet[16:20]))
    fragment = _number(packet, 6)
    body = packet[header:total]
    if fragment & 0x1FFF:
        return f"IP {source} > {destination}: {_name(packet[9])}"
    return "IP " + _above(packet[9], source, destination, body, fragment & 0x2000 != 0)


def _version6(packet: bytes) -> str:
    total = 40 + _number(packet, 4)
    if total > len(packet):
        return _broken(packet)
    source, destination = str(IPv6Address(packet[8:24])), str(IPv6Address(packet[24:40]))
    kind, at = packet[6], 40
    prefix = ""
    more = False
    while kind in _EXTENSIONS or kind == _FRAGMENT:
        if kind == _FRAGMENT:
            offset = _number(packet, at + 2)
            more = offset & 1 != 0
            prefix += f"frag ({_number(packet, at + 4, 4):#010x}:{offset & 0xFFF8}|{total - at - 8}) "
            kind, at = packet[at], at + 8
            if offset & 0xFFF8:
                return f"IP6 {source} > {destination}: {prefix.rstrip()}"
        else:
            prefix += {0: "HBH ", 43: "RT ", 60: "DSTOPT "}[kind]
            kind, at = packet[at], at + (packet[at + 1] + 1) * 8
    above = _above(kind, source, destination, packet[at:total], more)
    return f"IP6 {source} > {destination}: {prefix}{above}" if prefix else f"IP6 {above}"


def _above(kind: int, source: str, destination: str, body: bytes, more: bool) -> str:
    if kind == TCP and len(body) >= 20:
        return f"{source}.{_number(body, 0)} > {destination}.{_number(body, 2)}: {_tcp(body)}"
    if kind == UDP and len(body) >= 8:
        size = _number(body, 4) - 8
        return f"{source}.{_number(body, 0)} > {destination}.{_number(body, 2)}: UDP, length {size}"
    if kind == ICMP and len(body) >= 8:
        return f"{source} > {destination}: ICMP {_icmp(body)}, length {len(body)}"
    if kind == ICMPV6 and len(body) >= 8:
        return f"{source} > {destination}: ICMP6, {_icmp6(body)}, length {len(body)}"
    return f"{source} > {destination}: {_name(kind)}{'' if more else f' {len(body)}'}"


def _name(kind: int) -> str:
    return {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "ip-proto-58"}.get(kind, f"ip-proto-{kind}")


def _tcp(body: bytes) -> str:
    header = (body[12] >> 4) * 4
    if header < 20 or header > len(body):
        return f"tcp with a header of {header} octets"
    flags, data = body[13], len(body) - header
    sequence, acknowledged = _number(body, 4, 4), _number(body, 8, 4)
    parts = [f"Flags [{''.join(letter for bit, letter in _FLAGS if flags & bit) or 'none'}]"]
    if data or flags & 0x07:
        parts.append(f"seq {sequence}:{(sequence + data) % 2**32}" if data else f"seq {sequence}")
    if flags & 0x10:
        parts.append(f"ack {acknowledged}")
    parts.append(f"win {_number(body, 14)}")
    if flags & 0x20:
        parts.append(f"urg {_number(body, 18)}")
    if header > 20:
        parts.append(f"options [{_options(body[20:header])}]")
    parts.append(f"length {data}")
    return ", ".join(parts)


def _options(data: bytes) -> str:
    found, at = [], 0
    while at < len(data):
        kind = data[at]
        if kind == 0:
            found.append("eol")
            break
        if kind == 1:
            found.append("nop")
            at += 1
            continue
        size = data[at + 1] if at + 1 < len(data) else 0
        if size < 2 or at + size > len(data):
            found.append("bad")
            break
        found.append(_option(kind, data[at + 2 : at + size]))
        at += size
    return ",".join(found)


def _option(kind: int, value: bytes) -> str:
    if kind == 2 and len(value) == 2:
        return f"mss {_number(value, 0)}"
    if kind == 3 and len(value) == 1:
        return f"wscale {value[0]}"
    if kind == 4 and not value:
        return "sackOK"
    if kind == 5 and value and len(value) % 8 == 0:
        edges = [_number(value, at, 4) for at in range(0, len(value), 4)]
        blocks = "".join(f"{{{left}:{right}}}" for left, right in zip(edges[::2], edges[1::2], strict=True))
        return f"sack {len(edges) // 2} {blocks}"
    if kind == 8 and len(value) == 8:
        return f"TS val {_number(value, 0, 4)} ecr {_number(value, 4, 4)}"
    return f"unknown-{kind}" + (f" 0x{value.hex()}" if value else "")


def _icmp(body: bytes) -> str:
    kind, code = body[0], body[1]
    if kind in (0, 8):
        return f"echo {'request' if kind == 8 else 'reply'}, id {_number(body, 4)}, seq {_number(body, 6)}"
    quoted = body[8:]
    if kind not in (3, 11) or len(quoted) < 20:
        return f"type-#{kind}"
    destination = str(IPv4Address(quoted[16:20]))
    if kind == 11:
        return "time exceeded in-transit" if code == 0 else "ip reassembly time exceeded"
    if code == 4:
        mtu = _number(body, 6)
        return f"{destination} unreachable - need to frag" + (f" (mtu {mtu})" if mtu else "")
    if code == 2:
        return f"{destination} protocol {quoted[9]} unreachable"
    if code == 3:
        at = (quoted[0] & 15) * 4
        name = {TCP: "tcp", UDP: "udp"}.get(quoted[9])
        if name is not None and len(quoted) >= at + 4:
            return f"{destination} {name} port {_number(quoted, at + 2)} unreachable"
        return f"{destination} protocol {quoted[9]} port unreachable"
    return _UNREACHABLE4.get(code, f"{{}} unreachable - #{code}").format(destination)


def _icmp6(body: bytes) -> str:
    kind, code = body[0], body[1]
    if kind in (128, 129):
        return f"echo {'request' if kind == 128 else 'reply'}, id {_number(body, 4)}, seq {_number(body, 6)}"
    quoted = body[8:]
    if kind == 2:
        return f"packet too big, mtu {_number(body, 4, 4)}"
    if kind == 4:
        return f"parameter problem, code {code}, pointer {_number(body, 4, 4)}"
    if kind not in (1, 3) or len(quoted) < 40:
        return f"type-#{kind}"
    destination = str(IPv6Address(quoted[24:40]))
    if kind == 3:
        return f"time exceeded in-transit for {destination}" if code == 0 else "ip reassembly time exceeded"
    if code == 4:
        name = {TCP: "tcp", UDP: "udp"}.get(quoted[6])
        if name is not None and len(quoted) >= 44:
            return f"destination unreachable, unreachable port, {destination} {name} port {_number(quoted, 42)}"
    return "destination unreachable, " + _UNREACHABLE6.get(code, f"unreachable code-#{code} {{}}").format(destination)


def _number(data: bytes, at: int, size: int = 2) -> int:
    if at + size > len(data):
        raise IndexError
    return int.from_bytes(data[at : at + size], "big")
