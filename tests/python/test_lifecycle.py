"""How nodes begin and end: close, Ctrl-C, fork, collection, import; what they do in between is left
to the other files, and how processes end with them to test_exits.py."""

from __future__ import annotations

import copy
import errno
import gc
import pickle
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import wire
from conftest import DEADLINE, Child, RawNode, ScriptedNode, can_bind, wait_until
from kadepy import ClosedError, Config, KadepyError, Node, Swarm
from wire import Type

TOPIC = bytes(range(32))
PATIENT = Config(request_timeout=60)
Make = Callable[..., Swarm]
Start = Callable[..., Child]

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

CALLS: dict[str, Callable[[Swarm, Any], object]] = {
    "ping": lambda swarm, at: swarm.ping(at, timeout=60),
    "bootstrap": lambda swarm, at: swarm.bootstrap(at, timeout=60),
    "find_node": lambda swarm, at: swarm.find_node(TOPIC, timeout=60),
    "get_peers": lambda swarm, at: swarm.get_peers(TOPIC, timeout=60),
    "iter_peers": lambda swarm, at: list(swarm.iter_peers(TOPIC, timeout=60)),
    "announce_peer": lambda swarm, at: swarm.announce_peer(TOPIC, timeout=60),
    "find_node_iterative": lambda swarm, at: swarm.find_node_iterative(TOPIC, timeout=60),
}


# --- close ------------------------------------------------------------------------------------


def test_with_closes_and_close_may_come_again(make_swarm: Make) -> None:
    with make_swarm() as swarm:
        assert not swarm.closed
        port = swarm.port
    assert swarm.closed
    assert can_bind(port)
    swarm.close()
    swarm.close()


def test_with_closes_on_an_exception_too(make_swarm: Make) -> None:
    swarm = make_swarm()
    with pytest.raises(ZeroDivisionError), swarm:
        raise ZeroDivisionError
    assert swarm.closed


def test_after_close_calls_raise_closed_error(swarm: Swarm, raw: RawNode) -> None:
    address = swarm.address
    swarm.close()
    assert swarm.address == address
    assert issubclass(ClosedError, RuntimeError)
    assert issubclass(ClosedError, KadepyError)
    for call in CALLS.values():
        with pytest.raises(ClosedError):
            call(swarm, raw.address)
    with pytest.raises(ClosedError):
        swarm.send(*raw.address, 20, b"")
    with pytest.raises(ClosedError):
        swarm.announce_to(*raw.address, TOPIC, 80)
    with pytest.raises(ClosedError):
        swarm.lookup_from(*raw.address, TOPIC)
    with pytest.raises(ClosedError):
        swarm.join(TOPIC)
    with pytest.raises(ClosedError):
        swarm.set_callback(print)
    with pytest.raises(ClosedError):
        swarm.nodes()


def test_after_close_a_node_still_tells_what_it_was(swarm: Swarm, node: ScriptedNode) -> None:
    swarm.ping(*node.address)
    known = (swarm.id, swarm.address)
    swarm.close()
    assert (swarm.id, swarm.address) == known
    assert swarm.stats().packets_in["PONG"] == 1
    assert repr(swarm).endswith("closed>")


def test_close_from_eight_threads(make_swarm: Make) -> None:
    for _ in range(10):
        swarm, together = make_swarm(), threading.Barrier(8)

        def close(swarm: Swarm = swarm, together: threading.Barrier = together) -> None:
            together.wait(DEADLINE)
            swarm.close()
            assert swarm.closed

        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(close) for _ in range(8)]:
                done.result()
        assert can_bind(swarm.port)


def test_calls_from_eight_threads_during_close(make_swarm: Make, node: ScriptedNode) -> None:
    swarm = make_swarm()
    swarm.ping(*node.address)
    running = threading.Barrier(9)

    def call_on() -> None:
        running.wait(DEADLINE)
        while True:
            for call in CALLS.values():
                call(swarm, node.address)
            swarm.send(*node.address, 20, b"")
            with swarm.join(TOPIC, on_peer=print):
                swarm.set_callback(lambda *packet: None)

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(call_on) for _ in range(8)]
        running.wait(DEADLINE)
        wait_until(lambda: swarm.stats().lookups > 20)
        swarm.close()
        assert {type(call.exception(DEADLINE)) for call in calls} == {ClosedError}


@pytest.mark.parametrize("name", CALLS)
def test_close_releases_who_waits(make_swarm: Make, node: ScriptedNode, name: str) -> None:
    swarm = make_swarm(config=PATIENT)
    swarm.ping(*node.address)
    asked = threading.Event()

    def silent(ask: wire.Packet) -> list[bytes]:
        asked.set()
        return []

    node.scripts = dict.fromkeys(Type, silent)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(CALLS[name], swarm, node.address)
        assert asked.wait(DEADLINE)
        started = time.monotonic()
        swarm.close()
        assert type(call.exception(DEADLINE)) is ClosedError
        # 100 ms by contract, and the turns of a busy machine.
        assert time.monotonic() - started < 1


def test_close_releases_who_waits_for_the_join(make_swarm: Make, raw: RawNode) -> None:
    swarm = make_swarm(bootstrap=[raw.address], config=PATIENT)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(swarm.get_peers, TOPIC, 60)
        raw.receive()
        swarm.close()
        assert type(call.exception(DEADLINE)) is ClosedError


def test_a_port_in_use_is_an_os_error_until_it_is_free(make_swarm: Make, swarm: Swarm) -> None:
    for _ in range(3):
        with pytest.raises(OSError, match="in use") as told:
            make_swarm(swarm.port)
        assert told.value.errno == errno.EADDRINUSE
    swarm.close()
    assert make_swarm(swarm.port).port == swarm.port


COME_AND_GO = """
import os, sys
from kadepy import Swarm

at, cycles = ("127.0.0.1", int(sys.argv[1])), int(sys.argv[2])

def cycle():
    with Swarm(host="127.0.0.1") as swarm:
        swarm.set_callback(lambda *packet: None)
        swarm.join(bytes(32), on_peer=lambda peer: None)
        swarm.ping(at)
        swarm.find_node(bytes(32))

def held():
    return len(os.listdir("/proc/self/fd")) + len(os.listdir("/proc/self/task"))

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

cycle()
before = held()
for n in range(500):  # Threads that come and go leave the allocator some memory to begin with.
    cycle()
memory = resident()
for n in range(cycles):
    cycle()
print("counted", max(0, resident() - memory))
while held() > before:
    pass
print("all gone")
"""


@on_linux
def test_nodes_come_and_go_and_leave_nothing(
    start: Start, node: ScriptedNode, request: pytest.FixtureRequest
) -> None:
    child = start(COME_AND_GO, node.port, request.config.getoption("cycles"))
    word, memory = child.line(DEADLINE * 10).split()
    assert word == "counted"
    # What the allocator does varies by half of it; each node has buffers of some 100 kB.
    assert int(memory) < 8 * 2**20
    assert child.line() == "all gone"
    assert (child.wait(), child.stderr) == (0, "")


def test_a_thousand_lookups_at_once(make_network: Callable[[int], list[Swarm]]) -> None:
    swarm, *others = make_network(4)
    closest = sorted(others, key=lambda other: wire.distance(other.id, TOPIC))
    expected = [Node(other.id, *other.address) for other in closest]
    together = threading.Barrier(1_000)

    def look_up() -> list[Node]:
        together.wait(DEADLINE)
        return swarm.find_node(TOPIC)

    with ThreadPoolExecutor(1_000) as pool:
        lookups = [pool.submit(look_up) for _ in range(1_000)]
        assert all(lookup.result() == expected for lookup in lookups)


# --- collection and copies --------------------------------------------------------------------


def test_dropped_without_close_warns_and_frees_the_socket() -> None:
    swarm = Swarm(host="127.0.0.1")
    port = swarm.port
    dropped = [swarm]
    del swarm
    with pytest.warns(ResourceWarning, match=str(port)):
        dropped.clear()
    gc.collect()
    wait_until(lambda: can_bind(port))


def test_dropped_after_close_is_silent() -> None:
    swarm = Swarm(host="127.0.0.1")
    swarm.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del swarm
        gc.collect()
    assert caught == []


class Application:
    """A swarm in a cycle with its callback."""

    def __init__(self) -> None:
        self.swarm = Swarm(host="127.0.0.1")
        self.called = threading.Event()
        self.swarm.set_callback(self.callback)

    def callback(self, *packet: Any) -> None:
        self.called.set()


@pytest.mark.parametrize("called", [False, True])
def test_a_cycle_with_the_callback_is_collected(raw: RawNode, called: bool) -> None:
    application = Application()
    if called:
        raw.send(application.swarm, wire.encode(20, raw.id, b"hi"))
        assert application.called.wait(DEADLINE)
    port, alive = application.swarm.port, weakref.ref(application)

    def collected() -> bool:
        gc.collect()
        return alive() is None

    del application
    with warnings.catch_warnings():
        # Not recorded, for the record holds the swarm that the warning is about.
        warnings.simplefilter("ignore", ResourceWarning)
        wait_until(collected)
    wait_until(lambda: can_bind(port))


@pytest.mark.parametrize(
    "how", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"]
)
def test_a_swarm_cannot_be_copied(swarm: Swarm, how: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match="Swarm"):
        how(swarm)
    with pytest.raises(TypeError, match="Peers"):
        how(swarm.iter_peers(TOPIC))


# --- Ctrl-C -----------------------------------------------------------------------------------

SIGNALLED = """
import signal, sys, threading
from kadepy import Config, Swarm

at, name = ("127.0.0.1", int(sys.argv[1])), sys.argv[2]
config = Config(request_timeout=60)
swarm = Swarm(host="127.0.0.1", config=config)
calls = {
    "ping": lambda: swarm.ping(at, timeout=60),
    "bootstrap": lambda: swarm.bootstrap(at, timeout=60),
    "find_node": lambda: swarm.find_node(bytes(32), timeout=60),
    "get_peers": lambda: swarm.get_peers(bytes(32), timeout=None),
    "iter_peers": lambda: next(swarm.iter_peers(bytes(32), timeout=60)),
    "announce_peer": lambda: swarm.announce_peer(bytes(32), timeout=60),
}
# A shell may have started the tests with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
swarm.ping(at)
"""

IN_MAIN = """
try:
    calls[name]()
except KeyboardInterrupt:
    print("interrupted", swarm.closed, len(swarm.nodes()))
"""

IN_WORKER = """
worker = threading.Thread(target=calls[name], daemon=sys.argv[3] == "daemon")
worker.start()
worker.join()
"""


@pytest.fixture
def silent_after_ping(node: ScriptedNode) -> tuple[ScriptedNode, threading.Event]:
    """A node that answers the first PING, then tells of the next request and stays silent."""
    asked = threading.Event()

    def silent(ask: wire.Packet) -> list[bytes]:
        if len(node.asked) == 1:
            return list(node.honest(ask))
        asked.set()
        return []

    node.scripts = dict.fromkeys(Type, silent)
    return node, asked


@on_posix
@pytest.mark.parametrize(
    "name", ["ping", "bootstrap", "find_node", "get_peers", "iter_peers", "announce_peer"]
)
def test_ctrl_c_ends_a_blocking_call(
    start: Start, silent_after_ping: tuple[ScriptedNode, threading.Event], name: str
) -> None:
    node, asked = silent_after_ping
    child = start(SIGNALLED + IN_MAIN, node.port, name)
    assert asked.wait(DEADLINE)
    started = time.monotonic()
    child.process.send_signal(signal.SIGINT)
    assert child.line() == "interrupted False 1"
    # 150 ms by contract, and the turns of a busy machine.
    assert time.monotonic() - started < 1
    assert (child.wait(3), child.stderr) == (0, "")


@on_posix
@pytest.mark.parametrize("worker", ["daemon", "worker"])
def test_ctrl_c_in_main_while_a_worker_waits(
    start: Start, silent_after_ping: tuple[ScriptedNode, threading.Event], worker: str
) -> None:
    node, asked = silent_after_ping
    child = start(SIGNALLED + IN_WORKER, node.port, "get_peers", worker)
    assert asked.wait(DEADLINE)
    child.process.send_signal(signal.SIGINT)
    assert child.wait(3) == -signal.SIGINT
    assert "KeyboardInterrupt" in child.stderr


# --- fork -------------------------------------------------------------------------------------

FORK = """
import os, socket, sys, warnings
from kadepy import ClosedError, Swarm

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of a fork beside threads
swarm, other = Swarm(host="127.0.0.1"), Swarm(host="127.0.0.1")
swarm.set_callback(lambda *packet: None)
swarm.ping(other.address)
calls = [
    lambda: swarm.ping(other.address),
    lambda: swarm.bootstrap(other.address),
    lambda: swarm.find_node(bytes(32)),
    lambda: swarm.find_node_iterative(bytes(32)),
    lambda: swarm.get_peers(bytes(32)),
    lambda: next(swarm.iter_peers(bytes(32))),
    lambda: swarm.announce_peer(bytes(32)),
    lambda: swarm.announce_to(other.address, bytes(32)),
    lambda: swarm.lookup_from(other.address, bytes(32)),
    lambda: swarm.join(bytes(32)),
    lambda: swarm.send(*other.address, 20, b""),
    lambda: swarm.set_callback(None),
    lambda: swarm.save(),
    lambda: swarm.nodes(),
    lambda: swarm.stats(),
]
told_r, told_w = os.pipe()
go_r, go_w = os.pipe()
child = os.fork()
if child == 0:
    told = []
    for call in calls:
        try:
            call()
        except ClosedError as error:
            told.append("fork" in str(error))
        else:
            told.append("no error")
    told.append(swarm.closed)
    swarm.close()
    with Swarm(host="127.0.0.1") as own:
        told.append(own.ping(other.address) > 0)
    os.write(told_w, repr(told).encode())
    os.read(go_r, 1)
    sys.exit(7)

os.close(told_w)
print(os.read(told_r, 10_000).decode())
print(swarm.ping(other.address) > 0)
swarm.close()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(swarm.address)
    print("bound")
os.write(go_w, b"x")
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@on_posix
def test_a_forked_child_has_no_node_and_the_parent_notices_nothing(start: Start) -> None:
    parent = start(FORK)
    assert parent.line() == repr([True] * 17)
    assert parent.line() == "True"
    assert parent.line() == "bound"
    assert parent.line() == "7"
    assert (parent.wait(3), parent.stderr) == (0, "")


FORK_IN_CALLBACK = """
import os, sys, threading, warnings
from kadepy import Swarm

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of a fork beside threads
children = []
forked = threading.Event()

def callback(*packet):
    child = os.fork()
    if child == 0:
        return
    children.append(child)
    forked.set()

with Swarm(host="127.0.0.1") as swarm, Swarm(host="127.0.0.1") as other:
    swarm.set_callback(callback)
    other.send(*swarm.address, 20, b"hi")
    forked.wait()
    print(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
    print(swarm.ping(other.address) > 0)
"""


@on_posix
def test_a_child_forked_in_a_callback_ends(start: Start) -> None:
    parent = start(FORK_IN_CALLBACK)
    assert parent.line() == "0"
    assert parent.line() == "True"
    assert parent.wait(3) == 0


FORK_IN_LOOKUP = """
import os, sys, warnings
from kadepy import ClosedError, Config, Swarm

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of a fork beside threads
silent = ("127.0.0.1", int(sys.argv[1]))
config = Config(request_timeout=60)
with Swarm(host="127.0.0.1", bootstrap=[silent], config=config) as swarm:
    peers = swarm.iter_peers(bytes(32), timeout=None)
    child = os.fork()
    if child == 0:
        try:
            next(peers)
        except ClosedError as error:
            os._exit(7 if "fork" in str(error) else 8)
        os._exit(9)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@on_posix
def test_what_was_begun_before_a_fork_ends_in_the_child(start: Start, raw: RawNode) -> None:
    parent = start(FORK_IN_LOOKUP, raw.port)
    assert parent.line() == "7"
    assert parent.wait(3) == 0


# --- a socket that is lost --------------------------------------------------------------------

LOST = """
import os, sys
from kadepy import Swarm

def sockets():
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                found.add(int(fd))
        except FileNotFoundError:
            pass
    return found

with Swarm(host="127.0.0.1") as other:
    before = sockets()
    with Swarm(host="127.0.0.1") as swarm:
        (lost,) = sockets() - before
        os.close(lost)
        print(swarm.ping(other.address, timeout=20) > 0, other.ping(swarm.address) > 0)
"""


@on_linux
def test_a_lost_socket_is_bound_again(start: Start) -> None:
    child = start(LOST)
    assert child.line() == "True True"
    assert child.wait(3) == 0


# --- import and interpreter options -----------------------------------------------------------

IMPORT = """
import os, sys, threading
import kadepy
print(threading.active_count(), len(os.listdir("/proc/self/task")))
def kind(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""
print([fd for fd in os.listdir("/proc/self/fd") if "socket" in kind(fd) or "event" in kind(fd)])
print({"asyncio", "rich", "click"} & sys.modules.keys())
"""


@on_linux
def test_import_starts_and_loads_nothing(start: Start) -> None:
    child = start(IMPORT)
    assert child.line() == "1 1"
    assert child.line() == "[]"
    assert child.line() == "set()"


EVERYTHING = """
import threading
from kadepy import RequestTimeout, Simulation, Swarm, topic

called, met = threading.Event(), threading.Event()
with Swarm(host="127.0.0.1") as first, Swarm(host="127.0.0.1") as second:
    first.set_callback(lambda *packet: called.set())
    print(second.bootstrap(first.address), second.announce_peer(topic("name")))
    print(first.get_peers(topic("name")) == list(second.iter_peers(topic("name"))) != [])
    second.send(*first.address, 20, b"hi")
    print(called.wait(20))
    first.join(topic("joined"), on_peer=lambda peer: met.set())
    with second.join(topic("joined")) as membership:
        print(met.wait(20))
    print(Simulation(30).lookups(2).success)
    try:
        second.ping("127.0.0.1", second.port, timeout=0)
    except RequestTimeout:
        print("timeout")
print(first.closed, second.closed)
"""


@pytest.mark.parametrize("options", [["-W", "error"], ["-O"], ["-X", "dev"]], ids=" ".join)
def test_interpreter_options_change_nothing(start: Start, options: list[str]) -> None:
    child = start(EVERYTHING, options=options)
    lines = [child.line() for _ in range(7)]
    assert lines == ["1 1", "True", "True", "True", "1.0", "timeout", "True True"]
    assert (child.wait(3), child.stderr) == (0, "")
