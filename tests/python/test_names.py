"""Joining through contacts whose hosts are names: which addresses are tried, and that a name which
does not resolve holds up nothing. Each test has a process with a resolver of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest

from conftest import Child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's namespaces")

RESOLVER = '''
import asyncio, ctypes, fcntl, logging, os, socket, struct, sys, tempfile, threading, time

libc = ctypes.CDLL(None, use_errno=True)

def call(function, *args):
    if function(*args) != 0:
        raise OSError(ctypes.get_errno(), function.__name__)

def write(path, text):
    with open(path, "w") as file:
        file.write(text)

def enter_private():
    """Gets a network, files and rights of its own: NEWUSER, NEWNET and NEWNS."""
    ids = {"uid_map": os.getuid(), "gid_map": os.getgid()}
    call(libc.unshare, 0x10000000 | 0x40000000 | 0x20000)
    write("/proc/self/setgroups", "deny")
    for name, inside in ids.items():
        write(f"/proc/self/{name}", f"0 {inside} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        # SIOCSIFFLAGS: up and running.
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 0x41))
    # MS_REC and MS_PRIVATE: what is mounted here, nobody else sees.
    call(libc.mount, None, b"/", None, 0x4000 | 0x40000, None)
    for path, text in {
        "/etc/nsswitch.conf": "hosts: files dns",
        "/etc/hosts": "127.0.0.1 localhost",
        "/etc/resolv.conf": "nameserver 127.0.0.1\\noptions timeout:30 attempts:1\\n",
    }.items():
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(text)
            file.flush()
            call(libc.mount, file.name.encode(), path.encode(), None, 0x1000, None)

try:
    enter_private()
except OSError as error:
    print(f"no namespaces here: {error}")
    sys.exit()

answers = {}  # of a name: its addresses, or None for no answer at all
asked = []

def answer(query):
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += 1 + length
    question, name = query[12 : at + 5], ".".join(labels)
    asked.append(name)
    found = answers.get(name, [])
    if found is None:
        return None
    family = {1: socket.AF_INET, 28: socket.AF_INET6}[struct.unpack("!H", question[-4:-2])[0]]
    wanted = [ip for ip in found if (":" in ip) == (family == socket.AF_INET6)]
    records = [socket.inet_pton(family, ip) for ip in wanted]
    flags = 0x8180 if name in answers else 0x8183  # no such name
    head = query[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0) + question
    fixed = b"\\xc0\\x0c" + question[-4:] + bytes(4)  # the same name, kept for no time
    return head + b"".join(fixed + struct.pack("!H", len(r)) + r for r in records)

def serve():
    while True:
        query, source = server.recvfrom(512)
        if (reply := answer(query)) is not None:
            server.sendto(reply, source)

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
threading.Thread(target=serve, daemon=True).start()

from kadepy import AsyncSwarm, BootstrapError, Config, Node, Swarm

# On the same port of another address nobody answers.
live = Swarm(host="127.0.0.1")
silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.3", live.port))
swarm = Swarm(host="127.0.0.1", config=Config(request_timeout=0.3))
answers["hangs.test"] = None
print("ready")
'''


@pytest.fixture
def resolving(start: Callable[..., Child]) -> Callable[[str], Child]:
    """Runs a script where `answers` says what names resolve to."""

    def begin(script: str) -> Child:
        child = start(RESOLVER + script)
        if (line := child.line()) != "ready":
            pytest.skip(line)
        return child

    return begin


Resolving = Callable[[str], Child]


def test_names_and_addresses_stand_beside_each_other(resolving: Resolving) -> None:
    child = resolving(
        """
answers["live.test"], answers["silent.test"] = ["127.0.0.1"], ["127.0.0.3"]
for good in ("live.test", "127.0.0.1", "localhost"):
    with Swarm(host="127.0.0.1") as fresh:
        hosts = ("silent.test", "127.0.0.3", "nobody.test", good)
        print(fresh.bootstrap([f"{host}:{live.port}" for host in hosts], timeout=20))
"""
    )
    assert [child.line() for _ in range(3)] == ["1", "1", "1"]
    assert child.wait(3) == 0


def test_what_the_systems_resolver_takes_is_taken(resolving: Resolving) -> None:
    child = resolving(
        """
names = ["node.1", "my_app_node_1", "xn--bcher-kva.example", "1node", "host.test"]
answers.update({name: ["127.0.0.1"] for name in names})
for host in ("node.1", "my_app_node_1", "b\u00fccher.example", "1node", "host.test.", "127.1"):
    with Swarm(host="127.0.0.1") as fresh:
        print(fresh.bootstrap((host, live.port), timeout=20))
for host in ("k\u00fcche.example", "fe80::1%no-such-card"):
    try:
        swarm.bootstrap((host, 4000), timeout=20)
    except BootstrapError as error:
        print(error)
"""
    )
    assert [child.line() for _ in range(6)] == ["1"] * 6
    for contact in ("k\u00fcche.example:4000", "[fe80::1%no-such-card]:4000"):
        assert f"{contact} (the name does not resolve: " in child.line()
    assert child.wait(3) == 0


def test_every_address_of_a_name_is_tried(resolving: Resolving) -> None:
    child = resolving(
        """
for addresses in (["127.0.0.3", "127.0.0.1"], ["127.0.0.1", "127.0.0.3"], ["::1", "127.0.0.1"]):
    answers["many.test"] = addresses
    with Swarm(host="127.0.0.1") as fresh:
        print(fresh.bootstrap("many.test", live.port, timeout=20))
"""
    )
    assert [child.line() for _ in range(3)] == ["1", "1", "1"]


def test_an_error_names_every_contact_with_its_reason(resolving: Resolving) -> None:
    child = resolving(
        """
answers["silent.test"], answers["six.test"] = ["127.0.0.3"], ["::1"]
names = ["hangs.test", "nobody.test", "silent.test", "six.test"]
contacts = [(name, live.port) for name in names] + [("127.0.0.3", live.port), swarm.address]
try:
    swarm.bootstrap(contacts, timeout=2)
except BootstrapError as error:
    text = str(error).replace(str(live.port), "PORT").replace(str(swarm.port), "OWN")
    start, _, reasons = text.partition(": ")
    print(start)
    for reason in reasons.split("; "):
        print(reason)
"""
    )
    assert child.line() == "no bootstrap contact answered"
    assert child.line() == "hangs.test:PORT (its name did not resolve in time)"
    assert child.line().startswith("nobody.test:PORT (the name does not resolve: ")
    assert child.line() == "silent.test:PORT (no answer)"
    six = "six.test:PORT (it has no IPv4 address, and this node speaks IPv4 only)"
    assert child.line() == six
    assert child.line() == "127.0.0.3:PORT (no answer)"
    assert child.line() == "127.0.0.1:OWN (it is this node itself)"
    assert child.wait(3) == 0


def test_a_name_that_hangs_holds_up_no_other(resolving: Resolving) -> None:
    child = resolving(
        """
answers["live.test"] = ["127.0.0.1"]
for good in ("live.test", "127.0.0.1"):
    with Swarm(host="127.0.0.1") as fresh:
        contacts = [("hangs.test", 1), ("nobody.test", 1), (good, live.port), ("hangs.test", 2)]
        began = time.monotonic()
        print(fresh.bootstrap(contacts, timeout=None), time.monotonic() - began < 10)
"""
    )
    assert [child.line(), child.line()] == ["1 True", "1 True"]


def test_a_timeout_counts_for_names_too_and_the_process_ends(resolving: Resolving) -> None:
    child = resolving(
        """
began = time.monotonic()
try:
    swarm.bootstrap("hangs.test:1", timeout=0.3)
except BootstrapError as error:
    print(error)
print(0.3 <= time.monotonic() - began < 10)
print(swarm.ping(live.address) > 0)
sys.exit(3)
"""
    )
    said = "no bootstrap contact answered: hangs.test:1 (its name did not resolve in time)"
    assert [child.line() for _ in range(3)] == [said, "True", "True"]
    assert (child.wait(3), child.stderr) == (3, "")


def test_a_name_that_hangs_blocks_no_loop(resolving: Resolving) -> None:
    child = resolving(
        """
async def main():
    async with AsyncSwarm(host="127.0.0.1") as swarm:
        joining = asyncio.ensure_future(swarm.bootstrap("hangs.test:1", timeout=None))
        while "hangs.test" not in asked:
            await asyncio.sleep(0.005)
        print(await swarm.ping(live.address) > 0, swarm.stats().lookups_active)
        joining.cancel()
        await asyncio.wait([joining])
        print(joining.cancelled(), swarm.stats().lookups_active)

asyncio.run(main())
"""
    )
    assert [child.line(), child.line()] == ["True 1", "True 0"]
    assert (child.wait(3), child.stderr) == (0, "")


def test_a_constructor_s_names_are_tried_again_and_lookups_wait(resolving: Resolving) -> None:
    child = resolving(
        """
logging.basicConfig(stream=sys.stdout, format="%(message)s")
late = Swarm(host="127.0.0.1", bootstrap=[("late.test", live.port)])
began = time.monotonic()
print(late.find_node(bytes(32), timeout=0.3), time.monotonic() - began >= 0.3)
answers["late.test"] = ["127.0.0.1"]
print(late.find_node(bytes(32), timeout=20) == [Node(live.id, *live.address)])
"""
    )
    lines = [child.line() for _ in range(3)]
    (warning,) = [line for line in lines if "cannot join" in line]
    assert "cannot join through late.test:" in warning
    assert "the name does not resolve" in warning
    assert [line for line in lines if line != warning] == ["[] True", "True"]
    assert child.wait(3) == 0


def test_a_constructor_s_names_are_resolved_anew_when_nobody_is_known(
    resolving: Resolving,
) -> None:
    child = resolving(
        """
answers["moves.test"] = ["127.0.0.3"]
config = Config(request_timeout=0.1)
moved = Swarm(host="127.0.0.1", bootstrap=[("moves.test", live.port)], config=config)
silent.recv(1500)
answers["moves.test"] = ["127.0.0.1"]
print(moved.find_node(bytes(32), timeout=20) == [Node(live.id, *live.address)])
"""
    )
    assert child.line() == "True"
    assert child.wait(3) == 0


def test_a_constructor_s_addresses_are_joined_through_while_a_name_hangs(
    resolving: Resolving,
) -> None:
    child = resolving(
        """
contacts = [("hangs.test", 1), live.address]
with Swarm(host="127.0.0.1", bootstrap=contacts) as fresh:
    print(fresh.find_node(bytes(32), timeout=None) == [Node(live.id, *live.address)])
with Swarm(host="127.0.0.1", bootstrap=contacts[:1]) as fresh:
    print(fresh.find_node(bytes(32), timeout=0.3))
    began = time.monotonic()
print(time.monotonic() - began < 3)
"""
    )
    assert [child.line() for _ in range(3)] == ["True", "[]", "True"]
    assert (child.wait(3), child.stderr) == (0, "")


def test_many_names_that_do_not_resolve_end_at_once(resolving: Resolving) -> None:
    child = resolving(
        """
try:
    swarm.bootstrap([(f"nobody{n}.test", 1) for n in range(50)], timeout=None)
except BootstrapError as error:
    print(str(error).count("the name does not resolve"))
"""
    )
    began = time.monotonic()
    assert child.line() == "50"
    assert time.monotonic() - began < 15
