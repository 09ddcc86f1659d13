"""Many threads at once on one node, on many and on v0.1's functions, with a GIL or without one;
what each call does by itself is left to the other files."""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import wire
from conftest import DEADLINE, Child, wait_until
from kadepy import AsyncSwarm, ClosedError, Node, Peer, Swarm

TOPIC = bytes(range(32))
PEER = Peer("127.0.0.1", 4000)
MESSAGE = 20
THREADS = 8
ROUNDS = 12
IMPORTABLE = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
HAS_GIL = not sysconfig.get_config_var("Py_GIL_DISABLED")

Make = Callable[..., Swarm]
Work = Callable[[], object]


def held() -> int:
    """Threads and, where the system tells, descriptors."""
    if sys.platform != "linux":
        return threading.active_count()
    return len(os.listdir("/proc/self/fd")) + len(os.listdir("/proc/self/task"))


@pytest.fixture(autouse=True)
def _threads_take_turns_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def run_together(works: Sequence[Work]) -> None:
    """Each on a thread of its own, begun at the same moment; raises what one of them raises."""
    together = threading.Barrier(len(works))

    def run(work: Work) -> None:
        together.wait(DEADLINE)
        work()

    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(run, work) for work in works]:
            done.result()


def make_known(swarms: list[Swarm]) -> None:
    """Has all know each other, and those after the first hold `PEER`."""
    for swarm in swarms:
        for other in swarms:
            if other is not swarm:
                swarm.ping(other.address, timeout=DEADLINE)
    assert swarms[0].announce_peer(TOPIC, PEER.port) == len(swarms) - 1


class Calls:
    """What a thread does with a node whose table lists `others`, which hold `PEER`; whether each
    call gives what it gives alone."""

    def __init__(self, swarm: Swarm, others: list[Swarm]) -> None:
        self.swarm = swarm
        closest = sorted(others, key=lambda other: wire.distance(other.id, TOPIC))
        self.closest = [Node(other.id, *other.address) for other in closest]
        self.addresses = [other.address for other in closest]

    def all(self) -> None:
        swarm, near = self.swarm, self.addresses[0]
        for address in self.addresses:
            assert 0 < swarm.ping(address, timeout=DEADLINE) < DEADLINE
        assert swarm.find_node(TOPIC) == self.closest
        assert swarm.find_node_iterative(TOPIC, DEADLINE) == self.addresses
        assert swarm.get_peers(TOPIC) == [PEER]
        assert next(swarm.iter_peers(TOPIC)) == PEER  # and dropped while it is under way
        assert swarm.announce_peer(TOPIC, PEER.port) == len(self.closest)
        with swarm.join(TOPIC, PEER.port) as membership:
            wait_until(lambda: membership.stored == len(self.closest) or swarm.closed)
        swarm.announce_to(near, TOPIC, PEER.port)
        swarm.lookup_from(near, TOPIC)
        assert swarm.bootstrap(near, timeout=DEADLINE) >= len(self.closest)
        assert set(self.closest) <= set(swarm.nodes())
        assert str(swarm.port) in repr(swarm)

    def two_on_one_iterator(self) -> None:
        peers, found = self.swarm.iter_peers(TOPIC), list[Peer]()
        run_together([lambda: found.extend(peers)] * 2)
        assert found == [PEER]

    def stats_grow(self) -> None:
        before = self.swarm.stats()
        assert self.swarm.find_node(TOPIC) == self.closest
        after = self.swarm.stats()
        assert after.lookups > before.lookups
        assert after.requests >= before.requests + len(self.closest)
        for was, now in zip(before.packets_in.values(), after.packets_in.values(), strict=True):
            assert was <= now


class Heard:
    """Callbacks that share what they hear, and raise at every fourth message."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.running = threading.Lock()

    def another(self) -> Callable[..., None]:
        def callback(sender: bytes, kind: int, ip: str, port: int, payload: Any) -> None:
            if kind == MESSAGE:
                assert self.running.acquire(blocking=False), "two callbacks at once"
                self.payloads.append(payload)
                self.running.release()
                if payload[-1] % 4 == 0:
                    raise ValueError(payload)

        return callback


@pytest.mark.skipif(HAS_GIL, reason="needs an interpreter without a GIL")
def test_the_import_does_not_turn_the_gil_on(start: Callable[..., Child]) -> None:
    child = start("import sys, kadepy; print(sys._is_gil_enabled())", options=["-W", "error"])
    assert child.line() == "False"


def test_many_threads_on_one_node(make_network: Callable[[int], list[Swarm]]) -> None:
    swarms = make_network(4)
    make_known(swarms)
    swarm, sender = swarms[0], swarms[1]
    calls, heard = Calls(swarm, swarms[1:]), Heard()
    swarm.set_callback(heard.another())

    def call() -> None:
        for _ in range(ROUNDS):
            calls.all()
            calls.stats_grow()
            calls.two_on_one_iterator()

    def talk(first: int) -> None:
        for n in range(ROUNDS * 4):
            swarm.set_callback(heard.another())
            sender.send(swarm.address, MESSAGE, bytes([first, n]))
            # The answer says that the message has been received before.
            sender.ping(swarm.address, timeout=DEADLINE)

    talkers = THREADS // 2
    works = [call] * (THREADS - talkers) + [partial(talk, n) for n in range(talkers)]
    run_together(works)
    sent = [bytes([first, n]) for first in range(talkers) for n in range(ROUNDS * 4)]
    wait_until(lambda: len(heard.payloads) >= len(sent))
    assert sorted(heard.payloads) == sent
    stats = swarm.stats()
    assert stats.packets_in["APPLICATION"] == len(sent)
    assert stats.callback_errors == len(sent) // 4
    assert (stats.callback_dropped, stats.lookups_active) == (0, 0)
    # Who is asked may drop a request, but nobody answers one that was not made.
    asked = sum(other.stats().packets_in["FIND_NODE"] for other in swarms)
    assert asked <= sum(other.stats().packets_out["FIND_NODE"] for other in swarms)


def set_and_remove(
    set_callback: Callable[[Any], None],
    send: Callable[[int], object],
    rounds: int,
) -> None:
    """Whoever sets a callback hears what is sent from then on, and nothing that is sent after its
    removal; asserts that."""
    heard: queue.SimpleQueue[int] = queue.SimpleQueue()
    for n in range(rounds):
        set_callback(lambda sender, kind, *rest: heard.put(kind) if kind >= MESSAGE else None)
        send(MESSAGE)
        assert heard.get(timeout=DEADLINE) == MESSAGE, f"in round {n}"
        set_callback(None)
        send(MESSAGE + 1)
    assert heard.empty()


def test_a_callback_hears_what_comes_between_its_setting_and_its_removal(make_swarm: Make) -> None:
    swarm, sender = make_swarm(), make_swarm()
    is_over = threading.Event()

    def send(kind: int) -> None:
        sender.send(swarm.address, kind, b"")
        sender.ping(swarm.address)

    def change() -> None:
        try:
            set_and_remove(swarm.set_callback, send, ROUNDS * 10)
        finally:
            is_over.set()

    def look_on() -> None:
        while not is_over.is_set():
            assert swarm.stats().callback_errors == 0
            assert len(swarm.nodes()) <= 1

    run_together([change, look_on, look_on])


def test_nodes_are_made_used_and_closed_by_many_threads(tmp_path: Path) -> None:
    def cycle() -> None:
        path = tmp_path / f"{threading.get_ident()}.state"
        first, second = Swarm(host="127.0.0.1", state_path=path), Swarm(host="127.0.0.1")
        with first, second:
            make_known([first, second])
            first.set_callback(lambda *packet: None)
            ends: list[BaseException] = []

            def use(user: Swarm, other: Swarm) -> None:
                try:
                    while True:
                        Calls(user, [other]).all()
                except ClosedError as error:
                    ends.append(error)

            def close() -> None:
                first.get_peers(TOPIC)
                run_together([first.save, first.save])
                second.close()
                first.close()

            run_together([lambda: use(first, second), lambda: use(second, first), close])
            assert len(ends) == 2

    def cycles() -> None:
        for _ in range(ROUNDS):
            cycle()

    cycle()
    before = held()
    run_together([cycles] * (THREADS // 2))
    wait_until(lambda: held() <= before)


def test_many_loops_on_one_node(make_network: Callable[[int], list[Swarm]]) -> None:
    swarms = make_network(3)
    make_known(swarms)

    async def use(swarm: AsyncSwarm) -> None:
        # First of all what needs the dispatcher, which the node does not have yet.
        assert await swarm.ping(swarms[0].address, timeout=DEADLINE) > 0
        await swarm.bootstrap([other.address for other in swarms], timeout=DEADLINE)
        assert await swarm.get_peers(TOPIC) == [PEER]
        assert len(await swarm.find_node(TOPIC)) == len(swarms)

    def run(swarm: AsyncSwarm) -> None:
        asyncio.run(use(swarm))

    for _ in range(ROUNDS // 3):
        swarm = AsyncSwarm(host="127.0.0.1")
        run_together([partial(run, swarm)] * THREADS)
        asyncio.run(swarm.close())


V01 = """
import io, sys, threading
import kadepy
from kadepy import ClosedError, Swarm
from test_threads import ROUNDS, THREADS, TOPIC, run_together, set_and_remove

sys.setswitchinterval(1e-5)
told, sys.stdout = sys.stdout, io.StringIO()
peer, sender = Swarm(host="127.0.0.1"), Swarm(host="127.0.0.1")
is_over = threading.Event()


def act():
    kadepy.dht_ping(*peer.address)
    kadepy.dht_find_node(*peer.address, TOPIC)
    kadepy.dht_announce_peer(*peer.address, TOPIC, 4000)
    kadepy.dht_get_peers(*peer.address, TOPIC)
    kadepy.send_packet(*peer.address, 20, b"hi")
    kadepy.storage_cleanup(60_000)
    kadepy.dump_routing_table()
    assert kadepy.xor_distance(TOPIC, TOPIC) == bytes(32)
    assert kadepy.topic("name") == kadepy.topic(b"name")


def act_on():
    while not is_over.is_set():
        act()


def hear(port):
    def send(kind):
        sender.send("127.0.0.1", port, kind, b"")
        sender.ping("127.0.0.1", port)

    set_and_remove(kadepy.set_callback, send, ROUNDS * 4)
    is_over.set()


def replace():
    for n in range(ROUNDS):
        try:
            assert kadepy.create_swarm() > 0
            kadepy.set_callback(lambda *packet: None)
            kadepy.set_network_key(bytes(range(32)) if n % 2 else None)
            act()
            kadepy.set_callback(None)
        except ClosedError:
            pass  # by the next create_swarm


port = kadepy.create_swarm()
run_together([lambda: hear(port), act_on, act_on, act_on])
run_together([replace] * THREADS)
kadepy.set_network_key(None)
is_over.clear()
hear(kadepy.create_swarm())
print(len(threading.enumerate()), file=told)
"""


def test_v01_s_functions_from_many_threads(start: Callable[..., Child]) -> None:
    child = start(IMPORTABLE + V01)
    # The main thread, the dispatcher of the node that was made last, and the log's.
    assert child.line() == "3"
    assert child.wait() == 0
    # While the key changes, datagrams come under another one, and nodes say so.
    assert all("does not open under" in line for line in child.stderr.splitlines()), child.stderr


HANDED_ON = """
import queue, threading
import kadepy
from kadepy import Swarm
from test_threads import DEADLINE, THREADS, run_together

heard = queue.SimpleQueue()


class Slow:
    @property
    def __class__(self):
        # Others have their turn while it is checked.
        threading.Event().wait(0.001)
        return type(self)

    def __call__(self, sender, kind, *rest):
        heard.put(kind)


swarms, peer = [Swarm(host="127.0.0.1") for _ in range(4)], Swarm(host="127.0.0.1")
kadepy.set_callback(Slow())
for n, swarm in enumerate(swarms):
    run_together([lambda: kadepy.dht_ping(*peer.address)] * THREADS)
    pongs = 0
    while pongs < THREADS:
        pongs += heard.get(timeout=DEADLINE / 2) == kadepy.swarm.MSG_PONG
    print(n)
    swarm.close()
"""


def test_the_next_default_node_has_the_callback_before_any_call_returns(
    start: Callable[..., Child],
) -> None:
    child = start(IMPORTABLE + HANDED_ON)
    assert [child.line() for _ in range(4)] == ["0", "1", "2", "3"]
    assert child.wait() == 0
