"""From which of its host's addresses a node on all of them answers. What needs addresses of its own
has them in network namespaces, and is skipped where those are refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import wire
from conftest import RawNode, dropped_since
from kadepy import Swarm
from wire import Type

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127/8, or namespaces")

EVERYWHERE = ["0.0.0.0", "127.0.0.1"]


@pytest.mark.parametrize("asked", ["127.0.0.1", "127.0.1.1", "127.0.0.9"])
@pytest.mark.parametrize("host", EVERYWHERE)
def test_an_answer_comes_from_the_address_that_was_asked(
    make_swarm: Callable[..., Swarm], host: str, asked: str
) -> None:
    swarm, asker = make_swarm(host="0.0.0.0"), make_swarm(host=host)
    before = asker.stats()
    assert asker.ping((asked, swarm.port)) > 0
    assert asker.bootstrap((asked, swarm.port)) == 1
    assert "unsolicited" not in dropped_since(before, asker.stats())


def test_a_node_probes_whoever_asked_from_the_address_that_was_asked(
    make_swarm: Callable[..., Swarm], raw: RawNode
) -> None:
    swarm = make_swarm(host="0.0.0.0")
    raw.socket.sendto(wire.encode(Type.PING, raw.id), ("127.0.0.9", swarm.port))
    came = [raw.socket.recvfrom(2_048) for _ in range(2)]
    assert {packet[0] for packet, _ in came} == {Type.PONG, Type.PING}
    assert {source for _, source in came} == {("127.0.0.9", swarm.port)}


def test_every_answer_of_a_batch_comes_from_the_address_that_was_asked(
    make_swarm: Callable[..., Swarm], make_raw: Callable[..., RawNode]
) -> None:
    swarm = make_swarm(host="0.0.0.0")
    raws = [make_raw() for _ in range(40)]
    for number, raw in enumerate(raws, 1):
        raw.socket.sendto(wire.encode(Type.PING, raw.id), (f"127.0.2.{number}", swarm.port))
    for number, raw in enumerate(raws, 1):
        while True:
            packet, (source, _) = raw.socket.recvfrom(2_048)
            assert source == f"127.0.2.{number}"
            if packet[0] == Type.PONG:
                break


def test_a_node_on_every_address_still_tells_what_is_too_long(
    make_swarm: Callable[..., Swarm], raw: RawNode
) -> None:
    swarm = make_swarm(host="0.0.0.0")
    before = swarm.stats()
    ping = wire.encode(Type.PING, raw.id)
    for length in (1_280, 1_281, 65_507):
        raw.socket.sendto(ping.ljust(length, b"\0"), ("127.0.0.9", swarm.port))
    raw.socket.sendto(ping, ("127.0.0.9", swarm.port))
    while len(wire.decode(raw.socket.recv(2_048)).body) > 0:
        pass
    assert dropped_since(before, swarm.stats()) == {"oversize": 2}


# --- with addresses of their own ----------------------------------------------------------------

HOSTS = """
import ctypes, os, signal, socket, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor

def ip(line):
    done = subprocess.run(["ip", *line.split()], check=True, text=True, stdout=subprocess.PIPE)
    return done.stdout

def leave():
    assert ctypes.CDLL(None).unshare(0x40000000) == 0
    ip("link set lo up")
    return threading.get_native_id()

# The other host is a thread with a network of its own, `far`; this one is `near`.
other_host = ThreadPoolExecutor(1)
ip("link set lo up")
ip(f"link add near type veth peer name far netns {other_host.submit(leave).result()}")
for address in sys.argv[1].split(","):
    ip(f"addr add {address} dev near")
ip("link set near up")

def settle():
    ip(f"addr add {sys.argv[2]} dev far")
    ip("link set far up")
    # What is sent before is lost.
    deadline = time.monotonic() + 20
    while "state UP" not in ip("-o link show far"):
        assert time.monotonic() < deadline
        time.sleep(0.005)

other_host.submit(settle).result()
from kadepy import RequestTimeout, Swarm
"""

ASK = """
def ask(port):
    with Swarm(host=sys.argv[3]) as asker:
        for name in sys.argv[4].split(","):
            address = name.replace("%far", f"%{socket.if_nametoindex('far')}")
            try:
                print(name, asker.ping((address, port), timeout=10) > 0)
            except RequestTimeout as error:
                print(name, error)

with Swarm(host=sys.argv[5]) as swarm:
    other_host.submit(ask, swarm.port).result()
"""

# A node that stands still when it is asked, and answers when the address that was asked is gone.
VANISH = """
NODE = '''
import sys
from kadepy import Swarm
with Swarm(host=sys.argv[1]) as swarm:
    print(swarm.port, flush=True)
    sys.stdin.readline()
    print(swarm.stats().dropped["send"], flush=True)
'''
near = subprocess.Popen(
    [sys.executable, "-c", NODE, sys.argv[5]], text=True,
    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
)
port = int(near.stdout.readline())
family = socket.AF_INET6 if ":" in sys.argv[4] else socket.AF_INET
far = other_host.submit(socket.socket, family, socket.SOCK_DGRAM).result()
far.settimeout(20)
near.send_signal(signal.SIGSTOP)
os.waitpid(near.pid, os.WUNTRACED)
far.sendto(bytes([0]) + bytes([7] * 32), (sys.argv[4], port))
ip(f"addr del {sys.argv[4]}/{sys.argv[1].split('/')[-1].split()[0]} dev near")
near.send_signal(signal.SIGCONT)
print(*far.recvfrom(2_048)[1][:1])
print("dropped", near.communicate("\\n", timeout=20)[0].strip())
"""


def on_two_hosts(tmp_path: Path, script: str, *args: str) -> list[str]:
    """The lines that `script` prints, run on `near`, whose addresses are the first of `args`."""
    path = tmp_path / "hosts.py"
    path.write_text(HOSTS + script)
    # Root in namespaces of its own, and nowhere else.
    private = ["unshare", "-rn"]
    probe = [*private, "sh", "-c", "ip link add near type veth peer name far"]
    try:
        tried = subprocess.run(probe, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"needs {error.filename}")
    if tried.returncode:
        pytest.skip(f"no network namespaces here: {tried.stderr}")
    command = [*private, sys.executable, str(path), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


V4 = ("10.77.0.1/24,10.77.0.2/24", "10.77.0.9/24")
# Of two addresses, a deprecated one is never the kernel's choice.
V6 = (
    "fd00::1/64 nodad preferred_lft 0,fd00::2/64 nodad,fe80::1/64 nodad",
    "fd00::9/64 nodad",
)


@pytest.mark.parametrize("asker", ["0.0.0.0", "10.77.0.9"])
def test_a_host_with_two_addresses_answers_from_both(tmp_path: Path, asker: str) -> None:
    lines = on_two_hosts(tmp_path, ASK, *V4, asker, "10.77.0.1,10.77.0.2", "0.0.0.0")
    assert lines == ["10.77.0.1 True", "10.77.0.2 True"]


@pytest.mark.parametrize("asker", ["::", "fd00::9"])
def test_a_host_answers_from_a_deprecated_and_from_a_link_local_address(
    tmp_path: Path, asker: str
) -> None:
    lines = on_two_hosts(tmp_path, ASK, *V6, asker, "fd00::1,fd00::2,fe80::1%far", "::")
    assert lines == ["fd00::1 True", "fd00::2 True", "fe80::1%far True"]


@pytest.mark.parametrize(
    ("addresses", "host", "gone", "left"),
    [(V4, "0.0.0.0", "10.77.0.2", "10.77.0.1"), (V6, "::", "fd00::1", "fd00::2")],
    ids=["IPv4", "IPv6"],
)
def test_an_answer_leaves_although_the_address_that_was_asked_is_gone(
    tmp_path: Path, addresses: tuple[str, str], host: str, gone: str, left: str
) -> None:
    lines = on_two_hosts(tmp_path, VANISH, *addresses, "", gone, host)
    assert lines == [left, "dropped 0"]
