"""Port mapping at a router that `gateway.py` plays, each host in a namespace; the course of leases
and pauses is left to the Rust tests of `net/mapping`."""

from __future__ import annotations

import asyncio
import logging
import queue
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import DEADLINE, Child
from kadepy import AsyncSwarm, Swarm
from test_reach import NETWORK

in_namespaces = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's namespaces")

HOUSEHOLD = f'''
sys.path.insert(0, {str(Path(__file__).parent)!r})
from gateway import Router

ROUTER = "192.168.77.1"
run("ip link set lo up")
run(f"ip addr add {{ROUTER}}/24 dev switch")
home = hosts[0]
inside = f"nsenter --net=/proc/{{home.process.pid}}/ns/net ip "
run(inside + f"route add default via {{ROUTER}}")

def node():
    """Starts one, whose log lines are the host's, up to "closed" and how long things took."""
    home.start("""
import logging, time

def say(*words):
    # At once, for two threads do.
    sys.stdout.write(" ".join(map(str, words)) + "\\\\n")

class Lines(logging.Handler):
    def emit(self, record):
        say(record.levelname, record.getMessage())

logging.getLogger("kadepy").setLevel(logging.DEBUG)
logging.getLogger("kadepy").addHandler(Lines())
from kadepy import Swarm
begun = time.monotonic()
with Swarm(port=40000, port_mapping=True) as node, Swarm(port=40001) as other:
    started = time.monotonic() - begun
    node.ping("192.168.77.2", 40001)
    pinged = time.monotonic() - begun
    sys.stdin.readline()
    begun = time.monotonic()
    node.close()
    closed = time.monotonic() - begun
say("closed", started, pinged, closed)
sys.stdin.readline()
""")

def tell():
    """Passes the host's lines on."""
    line = home.line()
    if not line:
        sys.exit("the host has ended")
    print(line)
    return line

def asked():
    print(router.asked.get())

def close():
    home.tell()
    while not tell().startswith("closed"):
        pass
'''

Household = Callable[[str], Child]


@pytest.fixture
def household(start: Callable[..., Child]) -> Household:
    """Runs a script that has a `home` behind a router."""

    def begin(script: str) -> Child:
        child = start(f"HOSTS = [['192.168.77.2/24']]\n{NETWORK}{HOUSEHOLD}{script}")
        if (line := child.line()) != "ready":
            pytest.skip(line)
        return child

    return begin


def expect_closed(child: Child, *, within: float) -> list[str]:
    """That neither start, nor a call, nor the close took long; the lines before."""
    lines = []
    while not (line := child.line()).startswith("closed"):
        lines.append(line)
    started, pinged, closed = map(float, line.split()[1:])
    assert started < 1
    assert pinged < 2
    assert closed < within
    return lines


@in_namespaces
@pytest.mark.parametrize("protocol", ["PCP", "NAT-PMP", "UPnP"])
def test_a_router_maps_the_port_until_the_node_is_closed(
    household: Household, protocol: str
) -> None:
    child = household(
        f"""
router = Router(ROUTER, {protocol!r})
node()
tell()
asked()
close()
asked()
"""
    )
    line = "INFO node on port 40000: the router maps 203.0.113.5:40000 to this node, by "
    assert child.line() == line + protocol
    client = "" if protocol == "NAT-PMP" else "192.168.77.2:"
    assert child.line() == f"40000 to {client}40000 for 3600"
    expect_closed(child, within=1)
    removed = "no more of 40000" if protocol == "UPnP" else f"no more to {client}40000"
    assert child.line() == removed


@in_namespaces
@pytest.mark.parametrize("protocol", ["PCP", "NAT-PMP"])
def test_a_mapping_is_renewed_at_half_its_life(household: Household, protocol: str) -> None:
    child = household(
        f"""
import time
router = Router(ROUTER, {protocol!r}, lease=8)
node()
tell()
asked()
mapped = time.monotonic()
asked()
print(time.monotonic() - mapped)
tell()
close()
"""
    )
    assert child.line().startswith("INFO ")
    first, second, pause = child.line(), child.line(), float(child.line())
    assert first == second
    assert 3 < pause < 8
    # It is no news.
    assert child.line().startswith("DEBUG node on port 40000: the router maps 203.0.113.5:40000")
    expect_closed(child, within=1)


@in_namespaces
def test_a_node_that_was_killed_gets_its_port_again(household: Household) -> None:
    child = household(
        """
router = Router(ROUTER, "PCP")
home.start('''
import subprocess
node = "import logging, sys; logging.basicConfig(level=20, format='%(message)s', stream=sys.stdout)"
node += "; from kadepy import Swarm; node = Swarm(40000, node_id=b'me' * 16, port_mapping=True)"
node += "; sys.stdin.read()"
for _ in range(2):
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", node],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    print(child.stdout.readline(), end="")
    child.kill()
    child.wait()
''')
tell()
tell()
"""
    )
    for _ in range(2):
        assert child.line().startswith("node on port 40000: the router maps 203.0.113.5:40000 ")


@in_namespaces
def test_where_the_port_is_taken_another_one_is_mapped_for_good_if_need_be(
    household: Household,
) -> None:
    child = household(
        """
errors = [(718, "ConflictInMappingEntry"), (725, "OnlyPermanentLeasesSupported")]
router = Router(ROUTER, "UPnP", errors=errors)
node()
tell()
for _ in range(3):
    asked()
close()
asked()
"""
    )
    mapped = re.fullmatch(r"INFO .*maps 203.0.113.5:(\d+) to this node, by UPnP", child.line())
    assert mapped is not None
    port = mapped[1]
    assert port != "40000"
    to = "to 192.168.77.2:40000 for"
    expected = [f"40000 {to} 3600", f"{port} {to} 3600", f"{port} {to} 0"]
    assert [child.line() for _ in range(3)] == expected
    expect_closed(child, within=1)
    assert child.line() == f"no more of {port}"


@in_namespaces
@pytest.mark.parametrize(
    ("router", "reason"),
    [
        ('Router(ROUTER, "PCP", refusal=2, lease=30)', "PCP: error 2 (not authorized)"),
        (
            'Router(ROUTER, "NAT-PMP", refusal=2)',
            "NAT-PMP: error 2 (not authorized, or switched off)",
        ),
        (
            'Router(ROUTER, "UPnP", errors=[(501, "Action\\r\\nFailed " + 2000 * "x")])',
            "UPnP: error 501 (Action Failed xxx",
        ),
    ],
)
def test_a_refusal_is_told_with_its_reason(household: Household, router: str, reason: str) -> None:
    child = household(
        f"""
router = {router}
node()
tell()
close()
"""
    )
    line = child.line()
    start = "WARNING node on port 40000: the router does not map a port to this node ("
    assert line.startswith(start)
    assert re.sub(r" +", " ", line.removeprefix(start)).startswith(reason)
    assert line.endswith("have it forward UDP port 40000 to this host; next try in 60s")
    assert len(line) < 500
    expect_closed(child, within=1)


@in_namespaces
def test_a_router_behind_another_one_is_told_of(household: Household) -> None:
    child = household(
        """
router = Router(ROUTER, "PCP", external="100.64.3.4")
node()
tell()
close()
"""
    )
    line = child.line()
    assert line.startswith("WARNING node on port 40000: the router maps 100.64.3.4:40000")
    assert "another router stands in between" in line
    expect_closed(child, within=1)


@in_namespaces
def test_a_silent_router_delays_nothing(household: Household) -> None:
    child = household(
        """
router = Router(ROUTER, "PCP")
router.is_mute = True
node()
asked()
close()
while not (line := router.asked.get()).startswith("no more"):
    pass
print(line)
"""
    )
    assert child.line() == "40000 to 192.168.77.2:40000 for 3600"
    assert expect_closed(child, within=0.5) == []
    # It may have mapped the port all the same.
    assert child.line() == "no more to 192.168.77.2:40000"


@in_namespaces
@pytest.mark.parametrize("protocol", ["PCP", "UPnP"])
def test_a_router_that_is_silent_at_the_end_delays_the_close_by_a_moment(
    household: Household, protocol: str
) -> None:
    child = household(
        f"""
router = Router(ROUTER, {protocol!r})
node()
tell()
router.is_mute = True
close()
"""
    )
    assert "the router maps" in child.line()
    expect_closed(child, within=1.5)


@in_namespaces
def test_where_no_router_maps_ports_the_log_says_so(household: Household) -> None:
    child = household(
        """
node()
tell()
close()
"""
    )
    expected = "no router answers that maps ports (UPnP, NAT-PMP or PCP); next try in 60s"
    assert child.line() == f"INFO node on port 40000: {expected}"
    expect_closed(child, within=0.5)


HOSTILE = {
    "garbage for PCP": """
router = Router(ROUTER, "PCP")
router._map = lambda request: request[::-1]
""",
    "a description elsewhere": """
from http.server import BaseHTTPRequestHandler, HTTPServer
import threading
run("ip addr add 192.168.77.9/24 dev switch")
class Victim(BaseHTTPRequestHandler):
    def do_GET(self):
        print("the victim was asked")
server = HTTPServer(("192.168.77.9", 80), Victim)
threading.Thread(target=server.serve_forever, daemon=True).start()
router = Router(ROUTER, "UPnP", location="http://192.168.77.9:80/root.xml")
""",
    "an endless description": """
def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"<root>" * 10_000)
    except OSError:
        pass
router = Router(ROUTER, "UPnP", page=endless)
""",
    "a slow description": """
import time
def slow(handler):
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"<")
            time.sleep(0.1)
    except OSError:
        pass
router = Router(ROUTER, "UPnP", page=slow)
""",
}


@in_namespaces
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_makes_no_sense_is_no_answer(household: Household, kind: str) -> None:
    child = household(
        f"""{HOSTILE[kind]}
node()
tell()
close()
"""
    )
    assert child.line().startswith("INFO node on port 40000: no router answers that maps ports")
    assert expect_closed(child, within=0.5) == []


@in_namespaces
def test_at_another_router_it_asks_anew(household: Household) -> None:
    child = household(
        """
router = Router(ROUTER, "PCP")
node()
tell()
asked()
run("ip addr add 192.168.88.1/24 dev switch")
run(inside + "addr flush dev lan0")
run(inside + "addr add 192.168.88.2/24 dev lan0")
run(inside + "route add default via 192.168.88.1")
router = Router("192.168.88.1", "PCP", external="203.0.113.6")
tell()
asked()
close()
"""
    )
    assert "the router maps 203.0.113.5:40000" in child.line()
    assert child.line() == "40000 to 192.168.77.2:40000 for 3600"
    assert "the router maps 203.0.113.6:40000" in child.line()
    assert child.line() == "40000 to 192.168.88.2:40000 for 3600"
    expect_closed(child, within=1)


@in_namespaces
def test_after_a_suspend_the_router_is_asked_again(household: Household) -> None:
    child = household(
        """
import signal, threading
router = Router(ROUTER, "PCP")
node()
tell()
asked()
home.process.send_signal(signal.SIGSTOP)
threading.Event().wait(11)  # Twice what a thread may oversleep, see `udp_reactor.rs`.
home.process.send_signal(signal.SIGCONT)
asked()
close()
"""
    )
    assert "the router maps" in child.line()
    assert child.line() == child.line() == "40000 to 192.168.77.2:40000 for 3600"
    expect_closed(child, within=1)


@in_namespaces
@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("203.0.113.7/24", "this host has 203.0.113.7, a public address"),
        ("169.254.3.4/16", "no router leads out of this network"),
    ],
)
def test_where_there_is_nothing_to_map_it_stays_quiet(
    household: Household, address: str, says: str
) -> None:
    child = household(
        f"""
run(inside + "addr add {address} dev lan0")
run(inside + "route replace default dev lan0 src {address.split("/")[0]}")
router = Router(ROUTER, "PCP")
node()
tell()
close()
print(router.asked.empty())
"""
    )
    assert child.line() == f"INFO node on port 40000: no port to map: {says}"
    assert expect_closed(child, within=0.5) == []
    assert child.line() == "True"


class Lines(logging.Handler):
    """A queue of log lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.put(record.getMessage())


@pytest.fixture
def lines() -> Iterator[queue.SimpleQueue[str]]:
    handler = Lines()
    logger = logging.getLogger("kadepy")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_a_node_on_loopback_has_nothing_to_map(lines: queue.SimpleQueue[str]) -> None:
    with Swarm(host="127.0.0.1", port_mapping=True) as node:
        line = lines.get(timeout=DEADLINE)
        says = "the node is bound to 127.0.0.1, which no router leads to"
        assert line == f"node on port {node.port}: no port to map: {says}"


def test_asyncio_has_it_too(lines: queue.SimpleQueue[str]) -> None:
    async def main() -> None:
        async with AsyncSwarm(host="127.0.0.1", port_mapping=True):
            assert "no port to map" in lines.get(timeout=DEADLINE)

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
def test_who_does_not_ask_for_it_pays_no_thread() -> None:
    with Swarm():
        tasks = [task.read_text() for task in Path("/proc/self/task").glob("*/comm")]
        assert not [name for name in tasks if name.startswith("kadepy-mapper")]


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_port_mapping_is_true_or_false(value: object) -> None:
    with pytest.raises(TypeError, match="port_mapping must be True or False, got"):
        Swarm(host="127.0.0.1", port_mapping=value)  # type: ignore[arg-type]
