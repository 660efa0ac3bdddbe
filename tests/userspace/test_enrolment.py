"""The list of clients: enrolling, refusing with the right reason, revoking, and two processes changing it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quicsocks.userspace import enrolment
from quicsocks.userspace.enrolment import CLIENTS_FILE, TOKEN_LIFETIME, EnrolmentError, Registry
from quicsocks.userspace.state import StateError, StateFolder
from quicsocks.userspace.tunnel.types import AuthFailure, AuthRefused, TunnelLimits

from .support import mode

NOW = 1_800_000_000.0
KEY, OTHER = b"first key", b"second key"


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "state")


@pytest.fixture
def registry(folder: StateFolder) -> Registry:
    return Registry(folder, TunnelLimits(max_flows=7))


def refusal(registry: Registry, key: bytes, token: bytes = b"", now: float = NOW) -> AuthFailure:
    with pytest.raises(AuthRefused) as caught:
        registry.authorise(key, token, "", now)
    return caught.value.failure


# Enrolling.


def test_a_token_enrols_a_key_which_then_needs_none(registry: Registry) -> None:
    token = registry.add("home", NOW)
    assert registry.authorise(KEY, token, "laptop", NOW + 1).name == "home"
    assert registry.authorise(KEY, b"", "", NOW + 2).limits == TunnelLimits(max_flows=7)
    client = registry.client("home")
    assert client is not None
    assert (client.label, client.enrolled, client.state(NOW)) == ("laptop", NOW + 1, "enrolled")


def test_a_used_token_is_fine_with_the_key_that_it_enrolled(registry: Registry) -> None:
    token = registry.add("home", NOW)
    registry.authorise(KEY, token, "", NOW)
    assert registry.authorise(KEY, token, "", NOW + 10 * TOKEN_LIFETIME).name == "home"
    assert refusal(registry, OTHER, token) is AuthFailure.TOKEN_USED


@pytest.mark.parametrize(("later", "accepted"), [(TOKEN_LIFETIME - 1, True), (TOKEN_LIFETIME, False)])
def test_a_token_expires(registry: Registry, later: float, accepted: bool) -> None:
    token = registry.add("home", NOW)
    if accepted:
        assert registry.authorise(KEY, token, "", NOW + later).name == "home"
    else:
        assert refusal(registry, KEY, token, NOW + later) is AuthFailure.TOKEN_EXPIRED


def test_unknown_key_and_unknown_token(registry: Registry) -> None:
    registry.add("home", NOW)
    assert refusal(registry, KEY) is AuthFailure.UNKNOWN_KEY
    assert refusal(registry, KEY, b"x" * 32) is AuthFailure.TOKEN_UNKNOWN


def test_a_refusal_changes_nothing(registry: Registry, folder: StateFolder) -> None:
    registry.add("home", NOW)
    before = folder.read(CLIENTS_FILE)
    refusal(registry, KEY)
    refusal(registry, KEY, b"x" * 32)
    assert folder.read(CLIENTS_FILE) == before


def test_own_limits_come_before_the_defaults(registry: Registry) -> None:
    limits = TunnelLimits(max_flows=1, bytes_per_second=1000)
    token = registry.add("home", NOW, limits=limits)
    assert registry.authorise(KEY, token, "", NOW).limits == limits


def test_labels_are_made_printable(registry: Registry) -> None:
    token = registry.add("home", NOW)
    registry.authorise(KEY, token, "a\x1b[2J\nb" + "c" * 1000, NOW)
    client = registry.client("home")
    assert client is not None
    assert client.label.startswith("a?[2J?b")
    assert len(client.label) == enrolment.MAX_LABEL


# Tokens on disk.


def test_tokens_are_stored_as_digests_in_a_private_file(registry: Registry, folder: StateFolder) -> None:
    token = registry.add("home", NOW)
    data = folder.read(CLIENTS_FILE)
    assert data is not None
    assert token not in data
    assert token.hex().encode() not in data
    assert mode(folder.file(CLIENTS_FILE)) == 0o600
    assert token.hex() not in repr(registry.clients())


def test_a_new_token_retires_the_old(registry: Registry) -> None:
    old = registry.add("home", NOW)
    new = registry.new_token("home", NOW)
    assert refusal(registry, KEY, old) is AuthFailure.TOKEN_UNKNOWN
    assert registry.authorise(KEY, new, "", NOW).name == "home"


def test_the_present_key_works_until_another_enrols(registry: Registry) -> None:
    registry.authorise(KEY, registry.add("home", NOW), "", NOW)
    token = registry.new_token("home", NOW)
    assert registry.authorise(KEY, b"", "", NOW).name == "home"
    assert registry.authorise(OTHER, token, "", NOW).name == "home"
    assert refusal(registry, KEY) is AuthFailure.REVOKED
    assert registry.check(KEY) is AuthFailure.REVOKED
    assert registry.check(OTHER) is None


# Revoking.


def test_revoked_key_and_token(registry: Registry) -> None:
    token = registry.add("home", NOW)
    registry.authorise(KEY, token, "", NOW)
    assert registry.check(KEY) is None
    registry.revoke("home", NOW)
    assert registry.revoke("home", NOW + 5).revoked == NOW
    assert registry.check(KEY) is AuthFailure.REVOKED
    assert refusal(registry, KEY) is AuthFailure.REVOKED
    assert refusal(registry, OTHER, token) is AuthFailure.TOKEN_UNKNOWN


def test_an_unused_invitation_can_be_revoked(registry: Registry) -> None:
    token = registry.add("home", NOW)
    registry.revoke("home", NOW)
    assert refusal(registry, KEY, token) is AuthFailure.TOKEN_UNKNOWN


def test_a_new_link_lets_a_revoked_client_back_in_but_not_its_old_key_alone(registry: Registry) -> None:
    registry.authorise(KEY, registry.add("home", NOW), "", NOW)
    registry.revoke("home", NOW)
    token = registry.new_token("home", NOW)
    assert refusal(registry, KEY) is AuthFailure.REVOKED
    assert registry.authorise(KEY, token, "", NOW).name == "home"
    assert registry.check(KEY) is None


def test_a_revoked_machine_invited_under_another_name(registry: Registry) -> None:
    registry.authorise(KEY, registry.add("home", NOW), "", NOW)
    registry.revoke("home", NOW)
    assert registry.authorise(KEY, registry.add("work", NOW), "", NOW).name == "work"
    assert registry.check(KEY) is None


# Names and numbers.


def test_names(registry: Registry) -> None:
    registry.add("home", NOW)
    for wrong in ("", "a b", "../x", "-x", "x" * 64, "a\n"):
        with pytest.raises(EnrolmentError, match="cannot be a client's name"):
            registry.add(wrong, NOW)
    with pytest.raises(EnrolmentError, match="quicsocks client link home"):
        registry.add("home", NOW)
    for act in (registry.revoke, registry.new_token):
        with pytest.raises(EnrolmentError, match=r"no client 'hom'; the clients are: home"):
            act("hom", NOW)


def test_number_of_clients_is_limited(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "MAX_CLIENTS", 2)
    registry.add("a", NOW)
    registry.add("b", NOW)
    with pytest.raises(EnrolmentError, match="the most that one concentrator takes"):
        registry.add("c", NOW)


def test_states(registry: Registry) -> None:
    registry.add("home", NOW)
    client = registry.client("home")
    assert client is not None
    assert client.state(NOW) == "invited"
    assert client.state(NOW + TOKEN_LIFETIME) == "invitation expired"
    assert dataclasses.replace(client, revoked=NOW).state(NOW) == "revoked"


# The file and several processes.


def test_changes_of_another_process_are_seen(registry: Registry, folder: StateFolder) -> None:
    other = Registry(folder)
    token = other.add("home", NOW)
    assert registry.client("home") is None
    assert registry.poll()
    assert not registry.poll()
    registry.authorise(KEY, token, "", NOW)
    other.revoke("home", NOW)
    assert registry.check(KEY) is None
    assert registry.poll()
    assert registry.check(KEY) is AuthFailure.REVOKED


def test_a_token_made_elsewhere_works_without_a_poll(registry: Registry, folder: StateFolder) -> None:
    token = Registry(folder).add("home", NOW)
    assert registry.authorise(KEY, token, "", NOW).name == "home"


def test_two_changers_do_not_undo_each_other(registry: Registry, folder: StateFolder) -> None:
    other = Registry(folder)
    registry.add("a", NOW)
    other.add("b", NOW)
    registry.add("c", NOW)
    assert [client.name for client in Registry(folder).clients()] == ["a", "b", "c"]


def test_last_seen_is_written_now_and_then(registry: Registry, folder: StateFolder) -> None:
    token = registry.add("home", NOW)
    registry.authorise(KEY, token, "", NOW)
    before = folder.read(CLIENTS_FILE)
    registry.authorise(KEY, b"", "", NOW + enrolment.SEEN_INTERVAL - 1)
    assert folder.read(CLIENTS_FILE) == before
    registry.authorise(KEY, b"", "", NOW + enrolment.SEEN_INTERVAL)
    client = Registry(folder).client("home")
    assert client is not None
    assert client.last_seen == NOW + enrolment.SEEN_INTERVAL


def test_full_disk_refuses_enrolment_but_not_known_clients(
    registry: Registry, folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.authorise(KEY, registry.add("home", NOW), "", NOW)
    token = registry.add("work", NOW)

    def full(name: str, data: bytes) -> None:
        raise StateError("cannot write: no space left on device")

    monkeypatch.setattr(folder, "write", full)
    assert registry.authorise(KEY, b"", "", NOW + 10_000).name == "home"
    with pytest.raises(StateError, match="no space"):
        registry.authorise(OTHER, token, "", NOW)
    assert registry.check(OTHER) is AuthFailure.UNKNOWN_KEY
    monkeypatch.undo()
    assert registry.authorise(OTHER, token, "", NOW).name == "work"


@pytest.mark.parametrize(
    "data",
    [b"", b"junk", b"[]", b"{}", b'{"version": 1}', b'{"version": 1, "clients": [1]}',
     b'{"version": 1, "clients": [{"name": "a/b", "created": 1}]}',
     b'{"version": 1, "clients": [{"name": "a", "created": 1, "surprise": 2}]}',
     b'{"version": 1, "clients": [{"name": "a", "created": "x"}]}',
     b'{"version": 1, "clients": [{"name": "a", "created": 1, "token": {"digest": 1, "created": 1, "expires": 1}}]}'],
)  # fmt: skip
def test_damaged_file_is_one_line_and_what_was_known_stays(
    registry: Registry, folder: StateFolder, data: bytes
) -> None:
    token = registry.add("home", NOW)
    registry.authorise(KEY, token, "", NOW)
    folder.write(CLIENTS_FILE, data)
    with pytest.raises(StateError, match="is damaged; restore it"):
        registry.poll()
    assert registry.check(KEY) is None
    with pytest.raises(StateError, match="is damaged"):
        Registry(folder)


def test_file_of_a_newer_version_is_not_touched(folder: StateFolder) -> None:
    folder.write(CLIENTS_FILE, json.dumps({"version": 2, "clients": []}).encode())
    with pytest.raises(StateError, match="newer version"):
        Registry(folder)


# Any order of everything, against a plain model.


class RegistryMachine(RuleBasedStateMachine):
    """Two registries on one file; the model knows who is let in."""

    names = st.sampled_from(["a", "b"])
    keys = st.sampled_from([b"k1", b"k2", b"k3"])

    @initialize()
    def start(self) -> None:
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        folder = StateFolder(Path(self.directory.name) / "state")
        self.registries = [Registry(folder), Registry(folder)]
        self.owner: dict[bytes, str] = {}
        self.tokens: dict[str, bytes] = {}
        self.known: set[str] = set()
        self.now = NOW

    @rule(name=names, which=st.integers(0, 1))
    def invite(self, name: str, which: int) -> None:
        registry = self.registries[which]
        revoked = False
        if name in self.known:
            registry.poll()
            client = registry.client(name)
            assert client is not None
            revoked = client.revoked is not None
            self.tokens[name] = registry.new_token(name, self.now)
        else:
            self.tokens[name] = registry.add(name, self.now)
            self.known.add(name)
        assert not (revoked and any(owner == name for owner in self.owner.values()))

    @precondition(lambda self: self.known)
    @rule(name=names, which=st.integers(0, 1))
    def revoke(self, name: str, which: int) -> None:
        if name in self.known:
            self.registries[which].revoke(name, self.now)
            self.owner = {key: owner for key, owner in self.owner.items() if owner != name}
            self.tokens.pop(name, None)

    @rule(key=keys, name=names, which=st.integers(0, 1))
    def connect(self, key: bytes, name: str, which: int) -> None:
        registry = self.registries[which]
        registry.poll()
        token = self.tokens.get(name, b"")
        if key in self.owner:
            assert registry.authorise(key, token, "", self.now).name == self.owner[key]
        elif token:
            assert registry.authorise(key, token, "", self.now).name == name
            self.owner = {one: owner for one, owner in self.owner.items() if owner != name}
            self.owner[key] = name
            del self.tokens[name]
        else:
            with pytest.raises(AuthRefused):
                registry.authorise(key, token, "", self.now)

    @rule(seconds=st.floats(0, 1000))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def both_agree(self) -> None:
        for registry in self.registries:
            registry.poll()
            for key in (b"k1", b"k2", b"k3"):
                assert (registry.check(key) is None) == (key in self.owner)

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.directory.cleanup()


RegistryMachine.TestCase.settings = hypothesis_settings(max_examples=25, stateful_step_count=15, deadline=None)
TestRegistryMachine = RegistryMachine.TestCase
