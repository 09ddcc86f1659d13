"""Hosts on a network of their own, each in a namespace: who is told of which address, and addresses
as `socket` writes them."""

from __future__ import annotations

import ast
import sys

import pytest

from conftest import Connected

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's namespaces")


def test_what_a_host_knows_by_loopback_it_tells_nobody_on_the_lan(connected: Connected) -> None:
    child = connected(
        [["10.77.0.1/24"], ["10.77.0.2/24"]],
        """
hosts[0].start('''
from kadepy import Swarm, topic
with Swarm(port=9000) as first, Swarm(bootstrap=["127.0.0.1:9000"], port=9100) as second:
    print(second.announce_peer(topic("chess"), 5000))
    sys.stdin.readline()
    print(second.get_peers(topic("go")))
    sys.stdin.readline()
''')
print(hosts[0].line())
hosts[1].start('''
import socket, time
from kadepy import Swarm, topic
# What is there on this host is not what is there on the other.
private = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
private.bind(("127.0.0.1", 9100))
private.setblocking(False)
with Swarm(bootstrap=["10.77.0.1:9000"]) as node:
    node.find_node(node.id)
    print([tuple(peer) for peer in node.get_peers(topic("chess"))])
    print(node.announce_peer(topic("go"), 6000))
    # The other node over there learns of this one by a lookup, and so comes to be known here.
    while len(node.nodes()) < 2:
        time.sleep(0.01)
    print(sorted(tuple(other)[1:] for other in node.nodes()))
    try:
        print(private.recv(2000))
    except BlockingIOError:
        print("nothing")
''')
print(hosts[1].line())
print(hosts[1].line())
hosts[0].tell()
print(hosts[0].line())
print(hosts[1].line())
print(hosts[1].line())
""",
    )
    assert child.line() == "1"
    assert ast.literal_eval(child.line()) == []
    assert child.line() == "1"
    assert child.line() == "[Peer(ip='10.77.0.2', port=6000)]"
    assert ast.literal_eval(child.line()) == [("10.77.0.1", 9000), ("10.77.0.1", 9100)]
    assert child.line() == "nothing"


def test_neighbors_on_a_link_find_each_other_with_their_interface(connected: Connected) -> None:
    child = connected(
        [["fe80::1/64"], ["fe80::2/64"], ["fe80::3/64"]],
        """
hosts[0].start('''
from kadepy import Swarm
with Swarm(port=9000, host="::"):
    print("up")
    sys.stdin.readline()
''')
hosts[0].line()
hosts[1].start('''
from kadepy import Swarm, topic
with Swarm(host="fe80::2%lan0", port=9001, bootstrap=[("fe80::1%lan0", 9000)]) as node:
    print(node.host, node.announce_peer(topic("t"), 5000))
    sys.stdin.readline()
''')
print(hosts[1].line())
hosts[2].start('''
import socket
from kadepy import Swarm, topic
number = socket.if_nametoindex("lan0")
for contact in (("fe80::1%lan0", 9000), f"[fe80::1%lan0]:9000", (f"fe80::1%{number}", 9000)):
    with Swarm(host="::") as node:
        print(node.bootstrap(contact))
        node.find_node(node.id)
        print(sorted(tuple(other)[1:] for other in node.nodes()))
        (peer,) = node.get_peers(topic("t"))
        print(tuple(peer))
        print(all(node.ping(other) < 5 for other in node.nodes()))
family, kind, protocol, _, there = socket.getaddrinfo(*peer, type=socket.SOCK_DGRAM)[0]
with socket.socket(family, kind, protocol) as sock:
    sock.connect(there)
    print(sock.getpeername()[:2])
for host in ("fe80::3%lan0", f"fe80::3%{number}"):
    with Swarm(host=host) as node:
        print(node.host)
''')
while line := hosts[2].line():
    print(line)
""",
    )
    assert child.line() == "fe80::2%lan0 1"
    for _ in range(3):
        assert child.line() == "2"
        assert ast.literal_eval(child.line()) == [("fe80::1%lan0", 9000), ("fe80::2%lan0", 9001)]
        assert ast.literal_eval(child.line()) == ("fe80::2%lan0", 5000)
        assert child.line() == "True"
    assert ast.literal_eval(child.line()) == ("fe80::2", 5000)
    assert [child.line(), child.line()] == ["fe80::3%lan0"] * 2


def test_hosts_numbered_out_of_240_are_hosts_as_any(connected: Connected) -> None:
    child = connected(
        [["240.1.0.1/24"], ["240.1.0.2/24"], ["240.1.0.3/24"]],
        """
hosts[0].start('''
from kadepy import Swarm
with Swarm(port=9000):
    print("up")
    sys.stdin.readline()
''')
hosts[0].line()
join = '''
from kadepy import Swarm, topic
with Swarm(port=9000, bootstrap=["240.1.0.1:9000"]) as node:
    print(node.announce_peer(topic("t"), 4000), sorted(node.get_peers(topic("t"))))
    sys.stdin.readline()
'''
for host in hosts[1:]:
    host.start(join)
    print(host.line())
""",
    )
    assert child.line() == "1 [Peer(ip='240.1.0.2', port=4000)]"
    stored, _, peers = child.line().partition(" ")
    assert int(stored) >= 1
    assert "Peer(ip='240.1.0.2', port=4000), Peer(ip='240.1.0.3', port=4000)" in peers
