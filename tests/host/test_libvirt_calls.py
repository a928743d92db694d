"""Which messages reach libvirtd. What real ones do: `test_attempts`, and the hypervisor's tests over vmheal-host."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.host.config import Config
from exporter.host.libvirt_calls import (
    CALL,
    CALLS,
    DEFINE_XML,
    HEAD,
    KEEPALIVE,
    LOOKUP_BY_NAME,
    MESSAGE,
    REMOTE,
    REPLY,
    Guard,
    MalformedError,
)

CONFIG = Config(
    domains=frozenset({"vm1"}), migrate_uris=frozenset({"qemu+tls://v02/system", "tcp://10.0.0.2"})
)
OURS, THEIRS = b"1" * 16, b"9" * 16
DESTROY, STATE, AUTOSTART, MIGRATE, XML_DESC = 12, 212, 29, 305, 14


def string(text):
    content = text.encode()
    return struct.pack(">I", len(content)) + content + bytes(-len(content) % 4)


def domain(name="vm1", uuid=OURS, number=1):
    return string(name) + uuid + struct.pack(">i", number)


def call(procedure, arguments=b"", *, program=REMOTE, kind=CALL, status=0):
    return HEAD.pack(program, 1, procedure, kind, 7, status) + arguments


def reply(procedure, content, status=0):
    return HEAD.pack(REMOTE, 1, procedure, REPLY, 7, status) + content


@pytest.fixture
def guard():
    """One to which libvirtd has told of both domains."""
    guard = Guard("qemu", CONFIG)
    guard.learn(reply(LOOKUP_BY_NAME, domain()))
    guard.learn(reply(LOOKUP_BY_NAME, domain("vm9", THEIRS)))
    return guard


def denied(guard, message):
    answer = guard.answer(message)
    if answer is None:
        return None
    program, version, procedure, kind, serial, status = HEAD.unpack_from(answer)
    assert (kind, serial, status) == (REPLY, 7, 1)
    assert HEAD.unpack_from(message)[:3] == (program, version, procedure)
    code, _origin, there, size = struct.unpack_from(">IIII", answer, HEAD.size)
    assert (code, there) == (88, 1)
    return answer[HEAD.size + 16 :][:size].decode()


def test_a_refusal_is_short_whatever_it_is_about(guard):
    xml = f"<domain><name>vm1</name><a>/{'ä' * 100_000}</a></domain>"
    assert len(denied(guard, call(DEFINE_XML, string(xml)))) < 20_000


def test_a_domain_in_the_list_is_passed_on(guard):
    assert denied(guard, call(DESTROY, domain())) is None
    assert denied(guard, call(STATE, domain() + bytes(4))) is None


@pytest.mark.parametrize("uuid", [THEIRS, b"0" * 16])
def test_a_uuid_counts_when_libvirtd_has_told_of_it(guard, uuid):
    assert "libvirt has not said" in denied(guard, call(DESTROY, domain("vm1", uuid)))
    assert "configuration" in denied(guard, call(DESTROY, domain("vm9", uuid)))


def test_nothing_is_learned_from_an_error_or_another_call():
    guard = Guard("qemu", CONFIG)
    guard.learn(reply(LOOKUP_BY_NAME, domain(), status=1))
    guard.learn(reply(STATE, domain()))
    guard.learn(call(LOOKUP_BY_NAME, domain()))
    guard.learn(b"")
    guard.learn(reply(LOOKUP_BY_NAME, b"\xff" * 20))
    assert "libvirt has not said" in denied(guard, call(DESTROY, domain()))
    guard.learn(reply(DEFINE_XML, domain()))
    assert denied(guard, call(DESTROY, domain())) is None


@pytest.mark.parametrize(
    "arguments", [domain()[:-1], domain() + b"\0", domain() + bytes(4), b"", domain("vm1\0")]
)
def test_arguments_that_are_not_understood_are_denied(guard, arguments):
    assert "not understood" in denied(guard, call(DESTROY, arguments))


def test_every_other_procedure_is_denied(guard):
    for procedure in set(range(600)) - set(CALLS):
        assert "is not in the list" in denied(guard, call(procedure, domain()))
    for program in (0x20008087, 0x20008088, 0x20008089, 0):  # qemu's, LXC's, the administrator's
        for procedure in range(20):
            assert "is not in the list" in denied(guard, call(procedure, domain(), program=program))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"x" * 10,
        call(DESTROY, kind=REPLY),
        call(DESTROY, kind=3),
        call(DESTROY, kind=4),
        call(DESTROY, status=1),
    ],
)
def test_what_is_no_call_ends_the_connection(guard, message):
    with pytest.raises(MalformedError):
        guard.answer(message)


def test_a_sign_of_life_is_passed_on(guard):
    ping = call(1, program=KEEPALIVE, kind=MESSAGE)
    assert guard.answer(ping) is None
    with pytest.raises(MalformedError):
        guard.answer(ping + b"more")


def test_autostart_is_only_taken_away(guard):
    assert denied(guard, call(AUTOSTART, domain() + struct.pack(">i", 0))) is None
    assert "autostart" in denied(guard, call(AUTOSTART, domain() + struct.pack(">i", 1)))


def migration(
    target="qemu+tls://v02/system", memory="tcp://10.0.0.2", key="migrate_uri", cookie=b"", flags=0x100B
):
    parameters = struct.pack(">I", 1) + string(key) + struct.pack(">I", 7) + string(memory)
    rest = struct.pack(">I", len(cookie)) + cookie + struct.pack(">I", flags)
    return call(MIGRATE, domain() + struct.pack(">I", 1) + string(target) + parameters + rest)


def test_a_migration_goes_where_it_may(guard):
    assert denied(guard, migration()) is None
    for wrong in (
        {"target": "qemu+tls://v03/system"},
        {"memory": "tcp://10.0.0.3"},
        {"key": "destination_xml"},
        {"key": "persistent_xml"},
        {"cookie": b"1234"},
        {"flags": 0x1009},  # not peer to peer
        {"flags": 0x101B},  # undefined on the source
        {"flags": 0x104B},  # with its disks
    ):
        assert denied(guard, migration(**wrong)), wrong


def test_a_definition_is_told_without_secrets(guard):
    told = {
        flags: denied(guard, call(XML_DESC, domain() + struct.pack(">I", flags))) for flags in (0, 1, 2, 3, 8)
    }
    assert {flags for flags, why in told.items() if why is None} == {0, 2}


@pytest.mark.parametrize(
    ("name", "taken"), [("qemu:///system", True), ("test:///default", False), ("xen:///system", False)]
)
def test_the_drivers_own_uri_is_opened(guard, name, taken):
    assert (denied(guard, call(1, struct.pack(">I", 1) + string(name) + bytes(4))) is None) is taken
    assert denied(guard, call(1, bytes(8)))


def test_processors_are_compared_for_libvirtds_own_emulator():
    guard = Guard("qemu", CONFIG)
    assert denied(guard, call(393, bytes(24))) is None
    given = struct.pack(">I", 1) + string("/tmp/emulator") + bytes(20)
    assert "no emulator is taken" in str(denied(guard, call(393, given)))


PLAIN = {2, 3, 6, 60, 66, 102, 157, 212, 228, 273, 283, 344, 393}
"""What shows the host and which domains there are."""


@given(st.sampled_from(sorted(CALLS)), st.binary(max_size=80), st.binary(max_size=20))
def test_whatever_comes_is_denied_or_about_a_domain_in_the_list(procedure, content, more):
    guard = Guard("qemu", CONFIG)
    guard.learn(reply(LOOKUP_BY_NAME, domain()))
    for arguments in (content, domain("vm9", THEIRS) + more, domain("vm1", THEIRS) + more):
        if procedure not in PLAIN:
            assert denied(guard, call(procedure, arguments)) is not None
    denied(guard, call(procedure, domain() + more))


@given(st.binary(max_size=200))
def test_any_bytes_are_answered_or_end_the_connection(content):
    guard = Guard("qemu", CONFIG)
    with contextlib.suppress(MalformedError):
        guard.answer(content)
    guard.learn(content)
