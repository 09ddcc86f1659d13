"""Nodes that find each other on a link without a contact: on this host, and between hosts in
namespaces. When beacons go out, and what they may bring, is left to `tests/engine/beacons.rs`."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import Callable

import pytest

from conftest import DEADLINE, Child, Connected, until, wait_until
from kadepy import AsyncSwarm, Swarm, topic

Make = Callable[..., Swarm]

needs_hosts = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's namespaces")
needs_multicast = pytest.mark.skipif(
    sys.platform == "win32", reason="loopback may carry no multicast"
)

HOST = """
import logging, time
from kadepy import Swarm, topic

lines = []
class Keep(logging.Handler):
    def emit(self, record):
        lines.append((record.levelname, record.getMessage()))
logging.getLogger("kadepy").addHandler(Keep())
logging.getLogger("kadepy").setLevel("DEBUG")

def wait_until(predicate):
    deadline = time.monotonic() + 20
    while not predicate():
        if time.monotonic() > deadline:
            raise SystemExit(f"it did not happen: {lines}")
        time.sleep(0.01)

def others(node):
    return sorted(tuple(other)[1:] for other in node.nodes())
"""


# --- on one host --------------------------------------------------------------------------------


@needs_multicast
def test_nodes_of_one_process_and_another_find_each_other(
    make_swarm: Make, start: Callable[..., Child]
) -> None:
    key = secrets.token_bytes(32)
    nodes = [make_swarm(lan=True, network_key=key) for _ in range(3)]
    child = start(
        """
import sys
from kadepy import Swarm, topic
key = bytes.fromhex(sys.argv[1])
with Swarm(host="127.0.0.1", lan=True, network_key=key) as node:
    while not node.announce_peer(topic("chess"), 4000):
        pass
    print("announced")
    sys.stdin.readline()
""",
        key.hex(),
    )
    assert child.line() == "announced"
    wait_until(lambda: all(len(node.nodes()) == 3 for node in nodes))
    for node in nodes:
        assert node.get_peers(topic("chess")) == [("127.0.0.1", 4000)]
        assert node.stats().dropped["source"] == node.stats().dropped["sender_id"] == 0


def test_a_node_that_is_alone_is_told_so_soon(make_swarm: Make) -> None:
    node = make_swarm(lan=True, network_key=secrets.token_bytes(32))
    begin = time.monotonic()
    assert node.get_peers(topic("chess"), timeout=None) == []
    assert time.monotonic() - begin < DEADLINE
    assert node.nodes() == []


@needs_multicast
def test_an_async_node_finds_others_too() -> None:
    key = secrets.token_bytes(32)

    async def main() -> int:
        first, second = (AsyncSwarm(host="127.0.0.1", lan=True, network_key=key) for _ in "ab")
        async with first, second:
            await until(first.nodes)
            return await first.announce_peer(topic("chess"), 4000)

    assert asyncio.run(main()) == 1


FORK = """
import os, socket, stat, sys, time, warnings
from kadepy import Swarm

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of a fork beside threads

def hearing():
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as sock:
                    count += sock.getsockname()[1:2] == (19280,)
        except OSError:
            pass  # The listing's own.
    return count

key = bytes.fromhex(sys.argv[1])
with Swarm(host="127.0.0.1", lan=True, network_key=key) as first:
    with Swarm(host="127.0.0.1", lan=True, network_key=key) as second:
        first.find_node(second.id)
        child = os.fork()
        if child == 0:
            print(hearing(), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print(hearing())
print(hearing())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_hears_the_group_is_closed_with_the_node_and_in_a_forked_child(
    start: Callable[..., Child],
) -> None:
    child = start(FORK, secrets.token_bytes(32).hex())
    assert [child.line(), child.line()] == ["0", "2"]
    assert child.line() == "0", "after the end of both"


def test_it_is_true_or_false() -> None:
    with pytest.raises(TypeError, match="lan must be True or False, got int 1"):
        Swarm(lan=1)  # type: ignore[arg-type]


# --- between hosts ------------------------------------------------------------------------------


@needs_hosts
def test_twenty_hosts_know_each_other(connected: Connected) -> None:
    child = connected(
        [[f"10.77.0.{number}/24"] for number in range(1, 21)],
        f"""
for host in hosts:
    host.start({HOST!r} + '''
print("up")
begin = float(sys.stdin.readline())
with Swarm(lan=True) as node:
    wait_until(lambda: len(node.nodes()) == 19)
    print(time.monotonic() - begin)
    sys.stdin.readline()
''')
for host in hosts:
    host.line()
import time
for host in hosts:
    host.tell(str(time.monotonic()))
print(max(float(host.line()) for host in hosts))
""",
    )
    print(f"after {float(child.line(60)):.2f} s")


@needs_hosts
def test_networks_on_one_link_do_not_mix(connected: Connected) -> None:
    child = connected(
        [[f"10.77.0.{number}/24"] for number in range(1, 7)],
        f"""
# Two nodes each of two networks with a key, and of the public one.
for number, host in enumerate(hosts):
    host.start(f"number = {{number}}" + {HOST!r} + '''
key = [bytes([1] * 32), bytes([2] * 32), None][number // 2]
with Swarm(lan=True, network_key=key, port=9000) as node:
    reason = "unopened" if key else "unknown_type"
    wait_until(lambda: node.nodes() and node.stats().dropped[reason] >= 8)
    print(others(node), [text for level, text in lines if level == "WARNING"])
    sys.stdin.readline()
''')
for host in hosts:
    print(host.line())
""",
    )
    for number in range(1, 7):
        other = number + 1 if number % 2 else number - 1
        assert child.line() == f"[('10.77.0.{other}', 9000)] []"


@needs_hosts
def test_neighbors_over_ipv6_find_each_other(connected: Connected) -> None:
    child = connected(
        [["fe80::1/64"], ["fe80::2/64"], ["fe80::3/64"]],
        f"""
for host, own in zip(hosts, ("::", "::", "fe80::3%lan0")):
    host.start(f"own = {{own!r}}" + {HOST!r} + '''
with Swarm(lan=True, host=own, port=9000) as node:
    wait_until(lambda: len(node.nodes()) == 2)
    print(others(node))
    sys.stdin.readline()
''')
for host in hosts:
    print(host.line())
""",
    )
    for number in range(1, 4):
        rest = [(f"fe80::{other}%lan0", 9000) for other in range(1, 4) if other != number]
        assert child.line() == repr(rest)


@needs_hosts
def test_a_node_of_both_families_finds_the_nodes_of_each(connected: Connected) -> None:
    child = connected(
        [["10.77.0.1/24", "fe80::1/64"], ["10.77.0.2/24"], ["fe80::3/64"]],
        f"""
for host, own, count in zip(hosts, ("::", "0.0.0.0", "::"), (2, 1, 1)):
    host.start(f"own, count = {{own!r}}, {{count}}" + {HOST!r} + '''
with Swarm(lan=True, host=own, port=9000) as node:
    wait_until(lambda: len(node.nodes()) == count)
    print(others(node))
    sys.stdin.readline()
''')
for host in hosts:
    print(host.line())
""",
    )
    assert child.line() == "[('10.77.0.2', 9000), ('fe80::3%lan0', 9000)]"
    assert child.line() == "[('10.77.0.1', 9000)]"
    assert child.line() == "[('fe80::1%lan0', 9000)]"


@needs_hosts
def test_a_node_uses_the_interface_of_its_address_alone(connected: Connected) -> None:
    child = connected(
        [["10.77.0.1/24"], ["10.77.0.2/24"]],
        f"""
hosts[0].start({HOST!r} + '''
with (
    Swarm(lan=True, host="127.0.0.1", port=9000) as one,
    Swarm(lan=True, host="127.0.0.1", port=9001) as two,
    Swarm(lan=True, host="10.77.0.1", port=9002) as wide,
):
    wait_until(lambda: one.nodes() and two.nodes() and wide.nodes())
    print(others(one), others(two), others(wide))
    sys.stdin.readline()
''')
hosts[1].start({HOST!r} + '''
with Swarm(lan=True, port=9000) as node:
    wait_until(lambda: node.nodes())
    print(others(node))
    sys.stdin.readline()
''')
for host in hosts:
    print(host.line())
""",
    )
    assert child.line() == "[('127.0.0.1', 9001)] [('127.0.0.1', 9000)] [('10.77.0.2', 9000)]"
    assert child.line() == "[('10.77.0.1', 9002)]"


@needs_hosts
def test_a_node_on_every_address_uses_all_interfaces(connected: Connected) -> None:
    child = connected(
        [["10.77.0.1/24"], ["10.77.0.2/24"], ["10.78.0.3/24"]],
        f"""
# The first host has a second card, which leads to the third host alone.
run("ip link add other type bridge")
run("ip link set other up")
run("ip link set port2 master other")
pid = hosts[0].process.pid
run(f"ip link add lan1 netns {{pid}} type veth peer name second")
run("ip link set second master other up")
for line in ("link set lan1 addrgenmode none up", "addr add 10.78.0.1/24 dev lan1"):
    run(f"nsenter --net=/proc/{{pid}}/ns/net ip {{line}}")
for host, count in zip(hosts, (2, 1, 1)):
    host.start(f"count = {{count}}" + {HOST!r} + '''
with Swarm(lan=True, port=9000) as node:
    wait_until(lambda: len(node.nodes()) == count)
    print(others(node))
    sys.stdin.readline()
''')
for host in hosts:
    print(host.line())
""",
    )
    assert child.line() == "[('10.77.0.2', 9000), ('10.78.0.3', 9000)]"
    assert child.line() == "[('10.77.0.1', 9000)]"
    assert child.line() == "[('10.78.0.1', 9000)]"


@needs_hosts
def test_a_link_that_comes_later_is_used(connected: Connected) -> None:
    child = connected(
        [["10.77.0.1/24"], ["10.77.0.2/24"]],
        f"""
run("ip link set port0 down")
hosts[0].start({HOST!r} + '''
with Swarm(lan=True, port=9000) as node:
    node.find_node(node.id)
    print(others(node), [level for level, text in lines if level == "WARNING"])
    wait_until(lambda: node.nodes())
    print(others(node), *(text for level, text in lines if level in ("DEBUG", "INFO")), sep="|")
    sys.stdin.readline()
''')
print(hosts[0].line())
run("ip link set port0 up")
hosts[1].start({HOST!r} + '''
with Swarm(lan=True, port=9000) as node:
    sys.stdin.readline()
''')
print(hosts[0].line())
""",
    )
    assert child.line() == "[] []"
    found, *lines = child.line().split("|")
    assert found == "[('10.77.0.2', 9000)]"
    says = "node on port 9000: "
    assert lines[:3] == [
        says + "looking for nodes on the local network by lo (127.0.0.1)",
        says + "looking for nodes on the local network by lan0 (10.77.0.1)",
        says + "found 10.77.0.2:9000 on the local network",
    ]


@needs_hosts
def test_where_the_groups_port_is_taken_the_node_works_and_says_so(connected: Connected) -> None:
    child = connected(
        [["10.77.0.1/24"], ["10.77.0.2/24"]],
        f"""
hosts[0].start({HOST!r} + '''
import socket
taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
taken.bind(("0.0.0.0", 19280))
with Swarm(lan=True, port=9000) as node:
    # It is not deaf to those that hear it.
    wait_until(lambda: node.nodes() and len(lines) > 2)
    print(others(node))
    print(*(text for level, text in lines if level == "WARNING"))
''')
hosts[1].start({HOST!r} + '''
with Swarm(lan=True, port=9000) as node:
    sys.stdin.readline()
''')
print(hosts[0].line())
print(hosts[0].line())
""",
    )
    assert child.line() == "[('10.77.0.2', 9000)]"
    assert child.line() == (
        "node on port 9000: cannot look for nodes on the local network by port 19280: "
        "Address already in use (os error 98)"
    )


@needs_hosts
def test_a_packet_from_a_public_address_on_the_link_is_dropped(connected: Connected) -> None:
    child = connected(
        [["10.77.0.1/24", "8.8.8.1/24"], ["8.8.8.2/24"]],
        f"""
hosts[0].start({HOST!r} + '''
with Swarm(lan=True, port=9000) as node:
    wait_until(lambda: any("lan0" in text for level, text in lines))
    print("up")
    wait_until(lambda: node.stats().dropped["source"])
    print(others(node), node.stats().packets_out["PONG"])
''')
hosts[0].line()
hosts[1].start('''
import socket
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.bind(("8.8.8.2", 9000))
sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("8.8.8.2"))
sender.sendto(bytes(1) + bytes(range(32)), ("239.255.75.80", 19280))
print("sent")
''')
hosts[1].line()
print(hosts[0].line())
""",
    )
    assert child.line() == "[] 0"
