"""Which addresses are bound where a family is missing."""

from __future__ import annotations

import socket

from quicsocks.userspace.families import has_family, to_dial, to_listen


def test_the_unspecified_ipv6_address_stands_for_both_families() -> None:
    both = lambda family: True  # noqa: E731 - a predicate
    assert to_listen([("::", 4433)], both) == [("0.0.0.0", 4433), ("::", 4433)]
    assert to_listen([("::", 4433), ("0.0.0.0", 4433), ("192.0.2.1", 1)], both) == [
        ("0.0.0.0", 4433),
        ("::", 4433),
        ("192.0.2.1", 1),
    ]


def test_a_missing_family_is_left_out_unless_it_was_asked_for() -> None:
    four = lambda family: family is socket.AF_INET  # noqa: E731
    six = lambda family: family is socket.AF_INET6  # noqa: E731
    assert to_listen([("::", 4433)], four) == [("0.0.0.0", 4433)]
    assert to_listen([("::", 4433)], six) == [("::", 4433)]
    assert to_listen([("2001:db8::1", 4433)], four) == [("2001:db8::1", 4433)]
    assert to_dial(four) == [("0.0.0.0", 0)]
    assert to_dial(six) == [("::", 0)]


def test_this_host_has_ipv4() -> None:
    assert has_family(socket.AF_INET)
