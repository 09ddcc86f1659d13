"""What `AsyncSwarm` gives piece by piece: peers while their lookup runs, packets as they come, how
much is kept for a loop that does not take it, and that nothing is once nobody wants it."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

import pytest

import wire
from conftest import DEADLINE, RawNode, Run, ScriptedNode, until, wait_until
from kadepy import AsyncSwarm, ClosedError, Config, Peer, Swarm, aio
from kadepy import Packet as KadepyPacket
from wire import Type

HERE = "127.0.0.1"
TOPIC = bytes(range(32))
# A silent contact holds up a lookup for 20 seconds.
PATIENT = Config(request_timeout=60, short_wait_min=10, short_wait_max=60)
Make = Callable[..., Swarm]
MakeNode = Callable[..., ScriptedNode]


def local(**options: Any) -> AsyncSwarm:
    return AsyncSwarm(host=HERE, **options)


@pytest.fixture
def quick(make_node: MakeNode) -> ScriptedNode:
    node = make_node()
    node.holds = [(HERE, 80), (HERE, 81)]
    return node


@pytest.fixture
def slow(make_node: MakeNode) -> Slow:
    return Slow(make_node())


class Slow:
    """A node that keeps back its answer to GET_PEERS, which names one more peer, until `go_on`."""

    def __init__(self, node: ScriptedNode) -> None:
        self.node = node
        self.go_on = threading.Event()
        node.holds = [(HERE, 81), (HERE, 82)]
        node.scripts[Type.GET_PEERS] = self._late

    def _late(self, ask: wire.Packet) -> list[bytes]:
        self.go_on.wait(DEADLINE)
        return list(self.node.honest(ask))


async def meet(swarm: AsyncSwarm, *nodes: ScriptedNode) -> None:
    for node in nodes:
        await swarm.ping(node.address)


# --- iter_peers -------------------------------------------------------------------------------


def test_peers_come_while_the_lookup_runs_and_once(
    run_on_each: Run, quick: ScriptedNode, slow: Slow
) -> None:
    async def main() -> None:
        async with local(config=PATIENT) as swarm:
            await meet(swarm, quick, slow.node)
            peers = swarm.iter_peers(TOPIC, timeout=20)
            assert aiter(peers) is peers
            assert {await anext(peers), await anext(peers)} == {(HERE, 80), (HERE, 81)}
            assert swarm.stats().lookups_active == 1
            slow.go_on.set()
            assert [peer async for peer in peers] == [Peer(HERE, 82)]
            assert swarm.stats().lookups_active == 0
            with pytest.raises(StopAsyncIteration):
                await anext(peers)

    run_on_each(main)
    slow.go_on.set()


def test_a_lookup_begins_when_its_iterator_is_made(run: Run, quick: ScriptedNode) -> None:
    async def main() -> None:
        async with local() as swarm:
            await meet(swarm, quick)
            peers = swarm.iter_peers(TOPIC)
            wait_until(lambda: quick.asked_for(Type.GET_PEERS))
            # What came before anybody waited is there.
            wait_until(lambda: swarm.stats().lookups_active == 0)
            assert {peer async for peer in peers} == {(HERE, 80), (HERE, 81)}

    run(main)


async def all_of(peers: aio._AsyncPeers) -> list[Peer]:
    return [peer async for peer in peers]


async def by_break(peers: aio._AsyncPeers) -> None:
    async for _ in peers:
        break


async def by_an_error(peers: aio._AsyncPeers) -> None:
    with suppress(ZeroDivisionError):
        async for _ in peers:
            raise ZeroDivisionError


async def by_aclosing(peers: aio._AsyncPeers) -> None:
    async with aclosing(peers):
        await anext(peers)


async def by_never_beginning(peers: aio._AsyncPeers) -> None:
    pass


async def by_a_cancel(peers: aio._AsyncPeers) -> None:
    task = asyncio.ensure_future(all_of(peers))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "leave", [by_break, by_an_error, by_aclosing, by_never_beginning, by_a_cancel]
)
def test_leaving_ends_the_lookup(
    run_on_each: Run, quick: ScriptedNode, slow: Slow, leave: Callable[[aio._AsyncPeers], Any]
) -> None:
    async def main() -> None:
        async with local(config=PATIENT) as swarm:
            await meet(swarm, quick, slow.node)
            gc.disable()
            try:
                # Nothing but the loop has the iterator.
                await leave(swarm.iter_peers(TOPIC, timeout=60))
                stats = swarm.stats()
            finally:
                gc.enable()
            assert (stats.lookups, stats.lookups_active) == (1, 0)

    run_on_each(main)
    slow.go_on.set()


def test_a_closed_iterator_gives_nothing_any_more(
    run: Run, quick: ScriptedNode, slow: Slow
) -> None:
    async def main() -> None:
        async with local(config=PATIENT) as swarm:
            await meet(swarm, quick, slow.node)
            peers = swarm.iter_peers(TOPIC, timeout=60)
            await anext(peers)
            await peers.aclose()
            assert swarm.stats().lookups_active == 0
            assert [peer async for peer in peers] == []
            await peers.aclose()

    run(main)
    slow.go_on.set()


async def finish(slow: Slow, peers: aio._AsyncPeers) -> None:
    slow.go_on.set()


async def close(slow: Slow, peers: aio._AsyncPeers) -> None:
    await peers.aclose()


@pytest.mark.parametrize("end", [finish, close])
def test_every_task_that_waits_for_a_peer_learns_of_the_end(
    run: Run, quick: ScriptedNode, slow: Slow, end: Callable[[Slow, aio._AsyncPeers], Any]
) -> None:
    async def main() -> None:
        async with local(config=PATIENT) as swarm:
            await meet(swarm, quick, slow.node)
            peers = swarm.iter_peers(TOPIC, timeout=60)
            found: list[Peer] = []

            async def take() -> None:
                async for peer in peers:
                    found.append(peer)

            tasks = [asyncio.ensure_future(take()) for _ in range(4)]
            await until(lambda: len(found) == 2)
            await end(slow, peers)
            async with asyncio.timeout(DEADLINE):
                await asyncio.gather(*tasks)
            assert len(found) == len(set(found)) == (3 if slow.go_on.is_set() else 2)

    run(main)
    slow.go_on.set()


def test_every_task_that_waits_for_a_peer_learns_of_a_cancel_of_one(
    run: Run, quick: ScriptedNode, slow: Slow
) -> None:
    async def main() -> None:
        async with local(config=PATIENT) as swarm:
            await meet(swarm, quick, slow.node)
            peers = swarm.iter_peers(TOPIC, timeout=60)
            await anext(peers), await anext(peers)
            one, other = asyncio.ensure_future(anext(peers)), asyncio.ensure_future(anext(peers))
            await asyncio.sleep(0)
            one.cancel()
            async with asyncio.timeout(DEADLINE):
                with pytest.raises(asyncio.CancelledError):
                    await one
                with pytest.raises(StopAsyncIteration):
                    await other

    run(main)
    slow.go_on.set()


def test_a_close_of_the_node_ends_every_task_that_waits_for_a_peer(
    run: Run, quick: ScriptedNode, slow: Slow
) -> None:
    async def main() -> None:
        async with local(config=PATIENT) as swarm:
            await meet(swarm, quick, slow.node)
            peers = swarm.iter_peers(TOPIC, timeout=60)
            await anext(peers), await anext(peers)
            tasks = [asyncio.ensure_future(anext(peers)) for _ in range(3)]
            await asyncio.sleep(0)
            await swarm.close()
            async with asyncio.timeout(DEADLINE):
                ends = await asyncio.gather(*tasks, return_exceptions=True)
            # One is told; the iterator is over for the others.
            kinds = sorted(type(end).__name__ for end in ends)
            assert kinds == ["ClosedError", "StopAsyncIteration", "StopAsyncIteration"]

    run(main)
    slow.go_on.set()


# --- packets ----------------------------------------------------------------------------------


def message(raw: RawNode, payload: bytes) -> bytes:
    return wire.encode(20, raw.id, payload)


async def payloads(packets: aio._Packets, count: int) -> list[object]:
    """Of the next application messages."""
    taken: list[object] = []
    async with asyncio.timeout(DEADLINE):
        async for packet in packets:
            if packet.msg_type == 20:
                taken.append(packet.payload)
            if len(taken) == count:
                break
    return taken


def test_packets_come_in_order_and_to_every_iterator(run_on_each: Run, raw: RawNode) -> None:
    def has_come(n: int, swarm: AsyncSwarm) -> bool:
        return swarm.stats().packets_in["APPLICATION"] > n

    sent = [n.to_bytes(2) for n in range(1_000)]

    async def main() -> None:
        async with local() as swarm:
            streams = [swarm.packets() for _ in range(3)]
            tasks = [asyncio.ensure_future(payloads(stream, 1_000)) for stream in streams]
            for n, payload in enumerate(sent):
                raw.socket.sendto(message(raw, payload), swarm.address)
                if n % 50 == 0:
                    # So that the socket's buffer drops nothing.
                    await until(partial(has_come, n, swarm))
            assert await asyncio.gather(*tasks) == [sent] * 3
            assert swarm.stats().callback_dropped == 0

    run_on_each(main)


def test_a_packet_is_what_a_callback_gets(run: Run, raw: RawNode) -> None:
    async def main() -> None:
        async with local() as swarm:
            packets = swarm.packets()
            assert aiter(packets) is packets
            raw.socket.sendto(message(raw, b"hi"), swarm.address)
            packet = await anext(packets)
            assert packet == KadepyPacket(raw.id, 20, HERE, raw.port, b"hi")
            assert (packet.sender_id, packet.msg_type, packet.payload) == (raw.id, 20, b"hi")

    run(main)


def test_an_iterator_gets_what_comes_after_it_was_made(run: Run, raw: RawNode) -> None:
    async def main() -> None:
        async with local() as swarm:
            first = swarm.packets()
            raw.socket.sendto(message(raw, b"1"), swarm.address)
            assert await payloads(first, 1) == [b"1"]
            second = swarm.packets()
            raw.socket.sendto(message(raw, b"2"), swarm.address)
            assert await payloads(first, 1) == await payloads(second, 1) == [b"2"]

    run(main)


@pytest.mark.parametrize("burst", [True, False], ids=["at once", "one by one"])
def test_the_oldest_packets_are_dropped_and_counted(
    run_on_each: Run, raw: RawNode, burst: bool
) -> None:
    def taken(count: int, swarm: AsyncSwarm) -> bool:
        stats = swarm.stats()
        return stats.packets_in["APPLICATION"] == count and stats.callback_queue == 0

    async def main() -> None:
        async with local(config=Config(callback_queue=4)) as swarm:
            packets = swarm.packets()
            for n in range(20):
                raw.socket.sendto(message(raw, bytes([n])), swarm.address)
                if not burst:
                    # So that the queue before the iterator drops nothing.
                    wait_until(partial(taken, n + 1, swarm))
            wait_until(lambda: swarm.stats().callback_dropped == 16)
            await until(lambda: swarm.stats().callback_queue == 0)
            assert await payloads(packets, 4) == [b"\x10", b"\x11", b"\x12", b"\x13"]
            raw.socket.sendto(message(raw, b"next"), swarm.address)
            assert await payloads(packets, 1) == [b"next"]
            assert swarm.stats().callback_dropped == 16

    run_on_each(main)


def test_a_flood_wakes_a_busy_loop_once_for_each_iterator(
    run: Run, raw: RawNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    put = aio._Mailbox.put

    def counted(mailbox: aio._Mailbox, call: Callable[[], object]) -> None:
        told.append(call)
        put(mailbox, call)

    monkeypatch.setattr(aio._Mailbox, "put", counted)

    async def main() -> None:
        async with local(config=Config(callback_queue=10)) as swarm:
            takers = [asyncio.ensure_future(payloads(swarm.packets(), 1)) for _ in range(2)]
            await asyncio.sleep(0)
            for n in range(500):
                raw.socket.sendto(message(raw, n.to_bytes(2)), swarm.address)
            wait_until(lambda: swarm.stats().packets_in["APPLICATION"] == 500)
            wait_until(lambda: swarm.stats().callback_queue == 0)
            assert len(told) == 2
            await asyncio.gather(*takers)

    run(main)


class Counted:
    """How many packets are made for iterators."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *fields: Any) -> KadepyPacket:
        self.count += 1
        return KadepyPacket(*fields)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted()
    monkeypatch.setattr(aio, "Packet", counted)
    return counted


def test_nothing_is_kept_for_a_closed_iterator(
    run_on_each: Run, raw: RawNode, made: Counted
) -> None:
    async def main() -> None:
        async with local() as swarm:
            packets = swarm.packets()
            raw.socket.sendto(message(raw, b"1"), swarm.address)
            await until(lambda: made.count == 1)
            await packets.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(packets)
            raw.socket.sendto(message(raw, b"2"), swarm.address)
            await until(lambda: swarm.stats().packets_in["APPLICATION"] == 2)
            other = swarm.packets()
            raw.socket.sendto(message(raw, b"3"), swarm.address)
            assert await payloads(other, 1) == [b"3"]
            assert made.count == 2
            await packets.aclose()

    run_on_each(main)


def test_nothing_is_kept_for_a_dropped_iterator(
    run_on_each: Run, raw: RawNode, made: Counted
) -> None:
    async def main() -> None:
        async with local() as swarm:
            gc.disable()
            try:
                # It has waited, and so been told of what came.
                taker = asyncio.ensure_future(payloads(swarm.packets(), 1))
                await asyncio.sleep(0)
                raw.socket.sendto(message(raw, b"1"), swarm.address)
                await taker
                # The next packet shows that nobody is there.
                raw.socket.sendto(message(raw, b"2"), swarm.address)
                await until(lambda: made.count == 2)
            finally:
                gc.enable()
            raw.socket.sendto(message(raw, b"3"), swarm.address)
            await until(lambda: swarm.stats().packets_in["APPLICATION"] == 3)
            other = swarm.packets()
            raw.socket.sendto(message(raw, b"4"), swarm.address)
            assert await payloads(other, 1) == [b"4"]
            assert made.count == 3

    run_on_each(main)


def test_a_dropped_iterator_is_freed_without_the_collector(run: Run, raw: RawNode) -> None:
    async def main() -> None:
        async with local() as swarm:
            gc.disable()
            try:
                packets = swarm.packets()
                waits = asyncio.ensure_future(anext(packets))
                await asyncio.sleep(0)
                raw.socket.sendto(message(raw, b"1"), swarm.address)
                await waits
                # And it may have been left while it waited.
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(packets), 0.01)
                alive = weakref.ref(packets)
                del packets, waits
                # The dispatcher's turn may hold it a moment longer.
                await until(lambda: alive() is None)
            finally:
                gc.enable()

    run(main)


def test_iterators_that_come_and_go_in_silence_leave_nothing(run: Run) -> None:
    async def main() -> None:
        async with local() as swarm:
            for _ in range(100):
                swarm.packets()
            assert swarm._feed is not None
            assert len(swarm._feed._streams) == 1

    run(main)


def test_an_iterator_outlives_others(run: Run, raw: RawNode) -> None:
    async def main() -> None:
        async with local() as swarm:
            kept = swarm.packets()
            for n in range(20):
                other = swarm.packets()
                raw.socket.sendto(message(raw, bytes([n])), swarm.address)
                assert await payloads(other, 1) == [bytes([n])]
                if n % 2:
                    await other.aclose()
            assert await payloads(kept, 20) == [bytes([n]) for n in range(20)]

    run(main)


def test_packets_end_when_the_node_is_closed(run_on_each: Run, raw: RawNode) -> None:
    async def main() -> None:
        swarm = local()
        waiting, holding = swarm.packets(), swarm.packets()
        taker = asyncio.ensure_future(payloads(waiting, 2))
        await asyncio.sleep(0)
        raw.socket.sendto(message(raw, b"1"), swarm.address)
        await until(lambda: swarm.stats().packets_in["APPLICATION"] == 1)
        await until(lambda: holding._waiting)
        await swarm.close()
        assert await taker == [b"1"]
        # What it has it gives still.
        assert [packet.payload async for packet in holding] == [b"1"]
        with pytest.raises(ClosedError):
            swarm.packets()

    run_on_each(main)


def test_an_iterator_that_begins_in_the_middle_of_a_close_ends(run: Run) -> None:
    async def main() -> None:
        for turns in range(10):
            swarm = local()
            first = swarm.packets()
            closing = asyncio.ensure_future(swarm.close())
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(DEADLINE):
                with suppress(ClosedError):
                    assert [packet async for packet in swarm.packets()] == []
                assert [packet async for packet in first] == []
                await closing

    run(main)


def test_a_cancelled_wait_loses_no_packet(run_on_each: Run, raw: RawNode) -> None:
    async def main() -> None:
        async with local() as swarm:
            packets = swarm.packets()
            for n in range(5):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(packets), 0.01)
                raw.socket.sendto(message(raw, bytes([n])), swarm.address)
                assert await payloads(packets, 1) == [bytes([n])]

    run_on_each(main)


def test_tasks_share_an_iterator(run_on_each: Run, raw: RawNode) -> None:
    sent = [n.to_bytes(2) for n in range(200)]

    async def main() -> None:
        async with local() as swarm:
            packets = swarm.packets()
            taken: list[object] = []

            async def take() -> None:
                async for packet in packets:
                    taken.append(packet.payload)
                    await asyncio.sleep(0)

            tasks = [asyncio.ensure_future(take()) for _ in range(4)]
            await asyncio.sleep(0)
            for payload in sent:
                raw.socket.sendto(message(raw, payload), swarm.address)
            await until(lambda: len(taken) == len(sent))
            assert sorted(taken) == sent  # type: ignore[type-var]
            await packets.aclose()
            async with asyncio.timeout(DEADLINE):
                await asyncio.gather(*tasks)

    run_on_each(main)


def test_an_iterator_may_be_made_before_the_loop(run_on_each: Run, raw: RawNode) -> None:
    swarm = local()
    packets, peers = swarm.packets(), swarm.iter_peers(TOPIC)
    raw.socket.sendto(message(raw, b"hi"), swarm.address)

    async def main() -> None:
        assert await payloads(packets, 1) == [b"hi"]
        assert [peer async for peer in peers] == []
        await swarm.close()

    run_on_each(main)


def test_a_stream_that_waited_in_one_loop_goes_on_in_the_next(run: Run, raw: RawNode) -> None:
    swarm = local()
    packets = swarm.packets()

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(packets)

    async def take() -> None:
        taking = asyncio.create_task(anext(packets))
        await asyncio.sleep(0)
        raw.socket.sendto(message(raw, b"later"), swarm.address)
        assert (await taking).payload == b"later"
        await swarm.close()

    run(wait)
    run(take)


def test_a_membership_that_waited_in_one_loop_goes_on_in_the_next(
    run: Run, make_swarm: Make
) -> None:
    first = make_swarm()
    swarm = local(bootstrap=[first.address])
    membership = swarm.join(TOPIC, 4_000)

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(aiter(membership))

    async def take() -> None:
        members = aiter(membership)
        taking = asyncio.create_task(anext(members))
        await asyncio.sleep(0)
        first.join(TOPIC, 4_001)
        assert await taking == ("127.0.0.1", 4_001)
        ending = asyncio.create_task(anext(members, None))
        await asyncio.sleep(0)
        await swarm.close()
        assert await ending is None

    run(wait)
    run(take)


def test_a_membership_left_in_another_thread_ends_its_iterators(run: Run) -> None:
    async def main() -> None:
        async with local() as swarm:
            membership = swarm.join(TOPIC)
            endings = [asyncio.create_task(anext(aiter(membership), None)) for _ in range(2)]
            await asyncio.sleep(0)
            threading.Thread(target=membership.leave).start()
            assert await asyncio.gather(*endings) == [None, None]

    run(main)


def test_loops_in_two_threads_get_every_packet(run: Run, raw: RawNode) -> None:
    sent = [n.to_bytes(2) for n in range(100)]
    swarm = local()
    ready = threading.Semaphore(0)
    taken: list[list[object]] = []

    async def take() -> None:
        packets = swarm.packets()
        ready.release()
        taken.append(await payloads(packets, 100))

    threads = [threading.Thread(target=run, args=(take,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert ready.acquire(timeout=DEADLINE)
    for payload in sent:
        raw.socket.sendto(message(raw, payload), swarm.address)
    for thread in threads:
        thread.join(DEADLINE)
    assert taken == [sent, sent]
    run(swarm.close)
