"""What `AsyncSwarm` gives and raises, and that its work ends with whoever awaits it: by a cancel, a
close, the end of a loop, a fork or Ctrl-C; its iterators are left to test_aio_iterators.py."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import signal
import sys
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import kadepy
import wire
from conftest import DEADLINE, Child, RawNode, Run, ScriptedNode, can_bind, until, wait_until
from kadepy import (
    AsyncSwarm,
    BootstrapError,
    ClosedError,
    Config,
    Node,
    Peer,
    RequestTimeout,
    Swarm,
)
from wire import Type

HERE = "127.0.0.1"
TOPIC = bytes(range(32))
# A silent contact holds up a lookup for 20 seconds.
PATIENT = Config(request_timeout=60, short_wait_min=10, short_wait_max=60)
Make = Callable[..., Swarm]
MakeNetwork = Callable[[int], list[Swarm]]
Start = Callable[..., Child]

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")


async def peers_of(swarm: AsyncSwarm) -> list[Peer]:
    return [peer async for peer in swarm.iter_peers(TOPIC, timeout=60)]


CALLS: dict[str, Callable[[AsyncSwarm, Any], Awaitable[object]]] = {
    "ping": lambda swarm, at: swarm.ping(at, timeout=60),
    "bootstrap": lambda swarm, at: swarm.bootstrap(at, timeout=60),
    "find_node": lambda swarm, at: swarm.find_node(TOPIC, timeout=60),
    "find_node_iterative": lambda swarm, at: swarm.find_node_iterative(TOPIC, timeout=60),
    "get_peers": lambda swarm, at: swarm.get_peers(TOPIC, timeout=60),
    "iter_peers": lambda swarm, at: peers_of(swarm),
    "announce_peer": lambda swarm, at: swarm.announce_peer(TOPIC, timeout=60),
}


def local(**options: Any) -> AsyncSwarm:
    return AsyncSwarm(host=HERE, **options)


async def meet(swarm: AsyncSwarm, node: ScriptedNode) -> None:
    """Has the node listed, and then silent."""
    await swarm.ping(node.address)
    node.scripts = dict.fromkeys(Type, lambda ask: [])


async def begin(node: ScriptedNode, call: Awaitable[object]) -> asyncio.Task[object]:
    """A call that has asked the node."""
    asked = len(node.asked)
    task = asyncio.ensure_future(call)
    assert isinstance(task, asyncio.Task)
    await until(lambda: len(node.asked) > asked)
    return task


async def assert_asks_no_more(swarm: AsyncSwarm, node: ScriptedNode) -> None:
    """A silent node is asked again, and so is it by a ping that begins now: when that is repeated,
    all else that was under way has been too."""
    asked = len(node.asked)
    ping = await begin(node, swarm.ping(node.address, timeout=None))
    await until(lambda: len(node.asked) >= asked + 2)
    assert [packet.type for packet in node.asked[asked:]] == [Type.PING, Type.PING]
    ping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ping


def complaints(child: Child) -> list[str]:
    """What a child has to say on stderr, but for asyncio's debug mode on a busy machine."""
    return [line for line in child.stderr.splitlines() if not line.startswith("Executing <")]


def wake_ups(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What other threads ask of the loop, from now on."""
    told: list[Any] = []
    tell = loop.call_soon_threadsafe

    def counted(callback: Any, *args: Any, **kwargs: Any) -> Any:
        told.append(callback)
        return tell(callback, *args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    return told


# --- results and errors -----------------------------------------------------------------------


def test_every_method_gives_what_swarm_gives(
    run_on_each: Run, make_network: MakeNetwork, raw: RawNode
) -> None:
    first, *others = network = make_network(5)
    others[0].announce_peer(TOPIC, 80)
    nodes = [Node(other.id, *other.address) for other in network]
    nearest = sorted(nodes, key=lambda node: wire.distance(node.id, TOPIC))

    async def main() -> None:
        async with AsyncSwarm(host=HERE, node_id=TOPIC[::-1]) as swarm:
            assert (swarm.id, swarm.host, swarm.closed) == (TOPIC[::-1], HERE, False)
            assert swarm.address == (HERE, swarm.port)
            assert await swarm.bootstrap(first.address) == 5
            assert sorted(swarm.nodes()) == sorted(nodes)
            seconds = await swarm.ping(HERE, others[0].port)
            assert type(seconds) is float
            assert await swarm.find_node(TOPIC) == nearest
            pairs = [(node.ip, node.port) for node in nearest]
            assert await swarm.find_node_iterative(TOPIC) == pairs
            assert await swarm.get_peers(TOPIC) == [Peer(HERE, 80)]
            assert [peer async for peer in swarm.iter_peers(TOPIC)] == [Peer(HERE, 80)]
            assert await swarm.announce_peer(TOPIC) == 5
            assert set(await swarm.get_peers(TOPIC)) == {(HERE, 80), swarm.address}
            assert sorted(first.get_peers(TOPIC)) == sorted(await swarm.get_peers(TOPIC))
            swarm.send(raw.address, 20, b"hi")
            assert raw.receive() == wire.encode(20, swarm.id, b"hi")
            swarm.lookup_from(raw.address, TOPIC)
            assert wire.decode(raw.receive()).type == Type.GET_PEERS
            assert swarm.stats().lookups_active == 0
        assert swarm.closed

    run_on_each(main)


def test_announce_is_announce_peer() -> None:
    assert AsyncSwarm.announce is AsyncSwarm.announce_peer


def test_a_constructor_joins_behind_and_lookups_wait(
    run_on_each: Run, make_network: MakeNetwork
) -> None:
    first, second = make_network(2)
    second.announce_peer(TOPIC, 80)

    async def main() -> list[Peer]:
        async with local(bootstrap=[first.address]) as swarm:
            return await swarm.get_peers(TOPIC)

    assert run_on_each(main) == [Peer(HERE, 80)]


def test_errors_are_raised_by_the_await(
    run_on_each: Run, make_raw: Callable[..., RawNode], node: ScriptedNode
) -> None:
    silent = [make_raw(), make_raw()]

    async def main() -> None:
        async with local(config=Config(request_timeout=0.1)) as swarm:
            with pytest.raises(RequestTimeout, match=str(silent[0].port)):
                await swarm.ping(silent[0].address, timeout=0.05)
            with pytest.raises(BootstrapError) as told:
                await swarm.bootstrap([*(raw.address for raw in silent), ("nobody.invalid", 1)])
            for raw in silent:
                assert f"127.0.0.1:{raw.port} (no answer)" in str(told.value)
            assert "nobody.invalid:1 (the name does not resolve" in str(told.value)
            # A lookup that reaches its timeout is no error.
            await meet(swarm, node)
            assert await swarm.find_node(TOPIC, timeout=0) == []
            assert await swarm.get_peers(TOPIC, timeout=0) == []
            assert await swarm.announce_peer(TOPIC, timeout=0) == 0

    run_on_each(main)


BAD: dict[str, tuple[Callable[[AsyncSwarm], Awaitable[object]], type[Exception], str]] = {
    "port": (lambda swarm: swarm.ping(HERE, 65_536), ValueError, "port"),
    "ip": (lambda swarm: swarm.ping("", 1), ValueError, "ip"),
    "timeout": (lambda swarm: swarm.ping(HERE, 1, timeout=-1), ValueError, "timeout"),
    "target": (lambda swarm: swarm.find_node(bytes(31)), ValueError, "target"),
    "topic": (lambda swarm: swarm.get_peers("name"), TypeError, r"topic\('name'\)"),  # type: ignore[arg-type]
    "contacts": (lambda swarm: swarm.bootstrap(()), ValueError, "at least one contact"),
    "announced": (lambda swarm: swarm.announce_peer(TOPIC, True), TypeError, "port"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(run: Run, name: str) -> None:
    call, error, said = BAD[name]

    async def main() -> None:
        async with local() as swarm:
            with pytest.raises(error, match=said):
                await call(swarm)
            assert swarm.stats().requests == 0

    run(main)


def test_a_bad_argument_of_an_iterator_is_named_when_it_is_made(run: Run) -> None:
    async def main() -> None:
        async with local() as swarm:
            with pytest.raises(ValueError, match="topic"):
                swarm.iter_peers(bytes(33))

    run(main)


def test_a_thousand_lookups_at_once(run_on_each: Run, make_network: MakeNetwork) -> None:
    network = make_network(3)
    nearest = sorted(network, key=lambda other: wire.distance(other.id, TOPIC))
    expected = [Node(other.id, *other.address) for other in nearest]

    async def main() -> None:
        async with local() as swarm:
            await swarm.bootstrap(network[0].address)
            found = await asyncio.gather(*(swarm.find_node(TOPIC) for _ in range(1_000)))
            assert found == [expected] * 1_000
            assert swarm.stats().lookups_active == 0

    run_on_each(main)


def test_more_announces_at_once_than_the_buffer_has_room_for_are_all_stored(
    run: Run, make_network: MakeNetwork
) -> None:
    network = make_network(12)

    async def main() -> None:
        async with AsyncSwarm(host=HERE, config=Config(receive_buffer=32_768)) as swarm:
            await swarm.bootstrap(network[0].address)
            await swarm.find_node(swarm.id)
            topics = [kadepy.topic(f"{index}") for index in range(600)]
            stored = await asyncio.gather(
                *(swarm.announce_peer(topic, 4000, timeout=60) for topic in topics)
            )
            assert min(stored) >= 6
            assert swarm.stats().lookups_active == 0

    run(main)


# --- threads ----------------------------------------------------------------------------------


def test_one_wake_up_tells_a_loop_of_all_that_came_while_it_was_busy(
    run: Run, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network(4)

    async def main() -> None:
        async with local() as swarm:
            told = wake_ups(asyncio.get_running_loop(), monkeypatch)
            pings = [
                asyncio.ensure_future(swarm.ping(other.address, timeout=20))
                for other in network
                for _ in range(250)
            ]
            await asyncio.sleep(0)
            wait_until(lambda: swarm.stats().packets_in["PONG"] == 1_000)
            # The first may have come while the others were still being begun.
            assert len(told) == 1
            assert all(seconds > 0 for seconds in await asyncio.gather(*pings))
            assert len(told) < 100

    run(main)


def test_a_call_costs_no_thread(
    run: Run, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = make_network(2)
    begun: list[threading.Thread] = []
    begin = threading.Thread.start

    def counted(thread: threading.Thread) -> None:
        begun.append(thread)
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", counted)

    async def main() -> None:
        async with local() as swarm:
            for call in CALLS.values():
                await call(swarm, first.address)
            packets = swarm.packets()
            await swarm.ping(first.address)
            assert (await anext(packets)).msg_type == Type.PONG
            assert [thread.name for thread in begun] == [f"kadepy-callbacks-{swarm.port}"]

    run(main)


def test_close_needs_none_of_the_loop_s_threads(run: Run) -> None:
    go_on = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, go_on.wait)
        swarm = local()
        try:
            async with asyncio.timeout(DEADLINE):
                await swarm.close()
            assert can_bind(swarm.port)
        finally:
            go_on.set()
            await busy

    run(main)


def test_loops_in_two_threads_share_a_node(run: Run, make_network: MakeNetwork) -> None:
    first, *_ = network = make_network(3)
    swarm = local()
    together = threading.Barrier(2)

    async def look_up() -> set[int]:
        await swarm.bootstrap(first.address)
        await asyncio.to_thread(together.wait, DEADLINE)
        counts = set()
        for _ in range(20):
            found = await asyncio.gather(*(swarm.find_node(TOPIC) for _ in range(10)))
            counts |= {len(nodes) for nodes in found}
        return counts

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run, look_up) for _ in range(2)]
        assert [done.result(DEADLINE) for done in runs] == [{len(network)}] * 2
    run(swarm.close)


def test_a_node_made_outside_serves_one_loop_after_another(
    run_on_each: Run, node: ScriptedNode
) -> None:
    swarm = local()

    async def ping() -> float:
        return await swarm.ping(node.address)

    assert run_on_each(ping) > 0
    assert run_on_each(ping) > 0
    run_on_each(swarm.close)
    assert can_bind(swarm.port)


# --- cancelling -------------------------------------------------------------------------------


async def by_cancel(call: Awaitable[object]) -> None:
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_wait_for(call: Awaitable[object]) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call, 0.05)


async def by_timeout(call: Awaitable[object]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await call


async def by_a_task_group(call: Awaitable[object]) -> None:
    async def fail() -> None:
        await asyncio.sleep(0.05)
        raise ZeroDivisionError

    async def await_it() -> None:
        await call

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(await_it())
            group.create_task(fail())
    except* ZeroDivisionError:
        pass


@pytest.mark.parametrize("way", [by_cancel, by_wait_for, by_timeout, by_a_task_group])
def test_whatever_cancels_an_await_ends_its_work(
    run_on_each: Run, node: ScriptedNode, way: Callable[[Awaitable[object]], Awaitable[None]]
) -> None:
    async def main() -> None:
        async with local(config=PATIENT) as swarm:
            await meet(swarm, node)
            await way(swarm.get_peers(TOPIC, timeout=60))
            assert (swarm.stats().lookups, swarm.stats().lookups_active) == (1, 0)
            assert node.asked_for(Type.GET_PEERS)

    run_on_each(main)


@pytest.mark.parametrize("name", CALLS)
def test_a_cancelled_call_asks_nobody_any_more(run: Run, node: ScriptedNode, name: str) -> None:
    async def main() -> None:
        async with local(config=Config(short_wait_min=0.3)) as swarm:
            await meet(swarm, node)
            task = await begin(node, CALLS[name](swarm, node.address))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert swarm.stats().lookups_active == 0
            await assert_asks_no_more(swarm, node)

    run(main)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_cancelled_before_it_began_asks_nobody(
    run: Run, node: ScriptedNode, name: str
) -> None:
    async def main() -> None:
        async with local() as swarm:
            await meet(swarm, node)
            before = swarm.stats()
            task = asyncio.ensure_future(CALLS[name](swarm, node.address))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert swarm.stats().requests == before.requests
            assert swarm.stats().lookups == before.lookups

    run(main)


@pytest.mark.parametrize("turns", [0, 1])
def test_a_call_may_be_cancelled_when_its_result_has_just_come(
    run: Run, node: ScriptedNode, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    go_on = threading.Event()

    def late(ask: wire.Packet) -> list[bytes]:
        assert go_on.wait(DEADLINE)
        return list(node.honest(ask))

    node.scripts[Type.PING] = late

    async def main() -> None:
        async with local() as swarm:
            told = wake_ups(asyncio.get_running_loop(), monkeypatch)
            task = asyncio.ensure_future(swarm.ping(node.address))
            await asyncio.sleep(0)
            go_on.set()
            wait_until(lambda: told)
            # After one turn the loop has heard of it, and the task is about to run.
            for _ in range(turns):
                await asyncio.sleep(0)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await swarm.ping(node.address) > 0

    run(main)


def test_a_thousand_cancelled_calls_leave_nothing(run_on_each: Run, node: ScriptedNode) -> None:
    async def main() -> None:
        async with local(config=PATIENT) as swarm:
            await meet(swarm, node)
            tasks = [
                asyncio.ensure_future(call(swarm, node.address))
                for call in CALLS.values()
                for _ in range(150)
            ]
            await until(lambda: swarm.stats().lookups_active >= 5 * 150)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)
            assert swarm.stats().lookups_active == 0

    run_on_each(main)


# --- close ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_close_releases_who_awaits(run: Run, node: ScriptedNode, name: str) -> None:
    async def main() -> None:
        swarm = local(config=PATIENT)
        await meet(swarm, node)
        task = await begin(node, CALLS[name](swarm, node.address))
        await swarm.close()
        with pytest.raises(ClosedError):
            await asyncio.wait_for(task, DEADLINE)
        with pytest.raises(ClosedError):
            await CALLS[name](swarm, node.address)

    run(main)


def test_close_may_come_again_and_from_many_tasks(run_on_each: Run) -> None:
    async def main() -> None:
        async with local() as swarm:
            await asyncio.gather(*(swarm.close() for _ in range(8)))
            assert swarm.closed
            assert can_bind(swarm.port)
            await swarm.close()

    run_on_each(main)


def test_every_await_lets_other_tasks_run(run_on_each: Run) -> None:
    async def main() -> None:
        async with local() as first, local() as second:
            await second.bootstrap(first.address)
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: second.ping(first.address),
                lambda: second.bootstrap(first.address),
                lambda: second.find_node(TOPIC),
                lambda: second.announce_peer(TOPIC),
                lambda: second.get_peers(TOPIC),
            ]
            for call in calls:
                for _ in range(20):
                    turn = asyncio.Event()
                    asyncio.get_running_loop().call_soon(turn.set)
                    await call()
                    assert turn.is_set()

    run_on_each(main)


def test_many_who_close_at_once_release_all_who_await(run: Run, node: ScriptedNode) -> None:
    async def main() -> None:
        node.scripts = dict.fromkeys(Type, lambda ask: [])
        for _ in range(5):
            swarm = local(config=Config(request_timeout=60))
            pings = [asyncio.create_task(swarm.ping(node.address, timeout=60)) for _ in range(1000)]
            await asyncio.sleep(0)
            await asyncio.gather(*(swarm.close() for _ in range(3)))
            ends = await asyncio.gather(*pings, return_exceptions=True)
            assert {type(end) for end in ends} == {ClosedError}

    run(main)


def test_the_block_closes_on_an_error_too(run_on_each: Run) -> None:
    async def main() -> None:
        swarm = local()
        with pytest.raises(ZeroDivisionError):
            async with swarm:
                raise ZeroDivisionError
        assert swarm.closed

    run_on_each(main)


async def close(swarm: AsyncSwarm) -> None:
    await swarm.close()


async def leave(swarm: AsyncSwarm) -> None:
    async with swarm:
        pass


@pytest.mark.parametrize("end", [close, leave])
def test_a_cancelled_close_closes(
    run_on_each: Run, end: Callable[[AsyncSwarm], Awaitable[None]]
) -> None:
    async def main() -> None:
        swarm = local()
        port, task = swarm.port, asyncio.ensure_future(end(swarm))
        # Nobody else has it, so that a warning would tell of a close that comes too late.
        del swarm
        await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        await until(lambda: can_bind(port))

    run_on_each(main)


def test_the_end_of_a_cancelled_scope_closes(run: Run, node: ScriptedNode) -> None:
    anyio = pytest.importorskip("anyio")

    async def main() -> int:
        with anyio.move_on_after(0.05) as scope:
            async with local(config=PATIENT) as swarm:
                await meet(swarm, node)
                await swarm.get_peers(TOPIC, timeout=60)
        assert scope.cancelled_caught
        # Its only owner has let go of it, and is not warned.
        port = swarm.port
        del swarm
        return port

    port = run(main)
    wait_until(lambda: can_bind(port))


# --- loops that end first ---------------------------------------------------------------------


def test_a_loop_that_is_closed_first_harms_nothing(node: ScriptedNode) -> None:
    asked, answer = threading.Event(), threading.Event()

    def late(ask: wire.Packet) -> list[bytes]:
        asked.set()
        assert answer.wait(DEADLINE)
        return list(node.honest(ask))

    node.scripts = dict.fromkeys(Type, late)
    swarm = local()
    loop = asyncio.new_event_loop()
    told: list[object] = []
    loop.set_exception_handler(lambda _, context: told.append(context["message"]))
    packets = swarm.packets()
    tasks = [loop.create_task(swarm.ping(node.address, timeout=20)) for _ in range(3)]
    taking = loop.create_task(anext(packets))
    loop.run_until_complete(asyncio.sleep(0))
    assert asked.wait(DEADLINE)
    loop.close()
    answer.set()
    wait_until(lambda: swarm.stats().packets_in["PONG"] == 3)

    async def later() -> None:
        assert await swarm.ping(node.address, timeout=20) > 0
        await swarm.close()

    asyncio.run(later())
    del tasks, taking, packets

    def collected() -> bool:
        gc.collect()
        return len(told) == 4

    wait_until(collected)
    # That is asyncio's own word for tasks whose loop has ended.
    assert set(told) == {"Task was destroyed but it is pending!"}


LOOP_CLOSED_FIRST = """
import asyncio, sys
from kadepy import AsyncSwarm, Config

silent, how = ("127.0.0.1", int(sys.argv[1])), sys.argv[2]
swarm = AsyncSwarm(host="127.0.0.1", bootstrap=[silent], config=Config(request_timeout=60))

async def begin():
    packets = swarm.packets()
    # It tells nobody of tasks that never end.
    return asyncio.gather(
        swarm.ping(silent, timeout=60), swarm.get_peers(bytes(32), 60), anext(packets)
    )

loop = asyncio.new_event_loop()
pending = loop.run_until_complete(begin())
loop.run_until_complete(asyncio.sleep(0))
print(swarm.stats().lookups_active > 0)
loop.close()
if how == "closed":
    asyncio.run(swarm.close())
elif how == "dropped":
    del pending
print("end")
"""


@pytest.mark.parametrize("options", [(), ("-X", "dev", "-W", "error")], ids=["plain", "dev"])
@pytest.mark.parametrize("how", ["closed", "open", "dropped"])
def test_a_process_whose_loop_was_closed_first_ends_quietly(
    start: Start, raw: RawNode, how: str, options: tuple[str, ...]
) -> None:
    children = [start(LOOP_CLOSED_FIRST, raw.port, how, options=options) for _ in range(3)]
    for child in children:
        assert [child.line(), child.line()] == ["True", "end"]
        assert (child.wait(3), complaints(child)) == (0, [])


PROGRAM = """
import asyncio, os, signal, sys
from kadepy import AsyncSwarm, Config

silent = ("127.0.0.1", int(sys.argv[1]))
# A shell may have started the tests with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
config = Config(request_timeout=60)

async def main():
    async with AsyncSwarm(host="127.0.0.1", bootstrap=[silent], config=config) as swarm:
        global used
        used = swarm
        packets = swarm.packets()
        awaits = asyncio.gather(swarm.get_peers(bytes(32), timeout=None), anext(packets))
        await asyncio.sleep(0)
        print("ready")
"""

ENDS = {
    "by sys.exit": ("        sys.exit(3)", 3),
    "by an exception": ("        raise ValueError('mine')", 1),
    "by os._exit": ("        os._exit(4)", 4),
    "at the end of main": ("", 0),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_process_ends_in_the_middle_of_awaits(start: Start, raw: RawNode, how: str) -> None:
    end, status = ENDS[how]
    script = f"{PROGRAM}{end}\nasyncio.run(main())"
    for child in [start(script, raw.port, options=["-X", "dev"]) for _ in range(4)]:
        assert child.line() == "ready"
        assert child.wait(3) == status
        assert "panicked" not in child.stderr


RUNNERS = {"asyncio": "asyncio.run(main())", "uvloop": "import uvloop; uvloop.run(main())"}


@on_posix
@pytest.mark.parametrize("runner", RUNNERS)
def test_ctrl_c_ends_a_program_and_closes_its_node(start: Start, raw: RawNode, runner: str) -> None:
    pytest.importorskip(runner)
    script = f"""{PROGRAM}
        await awaits
try:
    {RUNNERS[runner]}
finally:
    print(used.closed)
"""
    child = start(script, raw.port)
    assert child.line() == "ready"
    child.process.send_signal(signal.SIGINT)
    assert child.line() == "True"
    assert child.wait(3) == -signal.SIGINT
    assert child.stderr.rstrip().endswith("KeyboardInterrupt")
    assert "never retrieved" not in child.stderr


FORK = """
import asyncio, os, sys, warnings
from kadepy import AsyncSwarm, ClosedError, Swarm

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of a fork beside threads
at = ("127.0.0.1", int(sys.argv[1]))

async def fails(swarm, peers, packets):
    told = []
    for call in [
        lambda: swarm.ping(at),
        lambda: swarm.bootstrap(at),
        lambda: swarm.find_node(bytes(32)),
        lambda: swarm.get_peers(bytes(32)),
        lambda: swarm.announce_peer(bytes(32)),
        lambda: anext(swarm.iter_peers(bytes(32))),
        lambda: anext(swarm.packets()),
        lambda: anext(peers),
    ]:
        try:
            await call()
        except ClosedError as error:
            told.append("fork" in str(error))
    told.append([packet async for packet in packets])
    await swarm.close()
    async with AsyncSwarm(host="127.0.0.1") as own, AsyncSwarm(host="127.0.0.1") as other:
        told.append(await own.ping(other.address) > 0)
    return told

async def main():
    with Swarm(host="127.0.0.1") as other:
        async with AsyncSwarm(host="127.0.0.1", bootstrap=[at]) as swarm:
            peers, packets = swarm.iter_peers(bytes(32)), swarm.packets()
            child = os.fork()
            if child == 0:
                try:
                    print(asyncio.run(fails(swarm, peers, packets)))
                finally:
                    os._exit(7)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            print(await swarm.ping(other.address) > 0)

asyncio.run(main())
"""


@on_posix
def test_a_child_forked_in_a_loop_has_no_node_and_the_parent_notices_nothing(
    start: Start, raw: RawNode
) -> None:
    parent = start(FORK, raw.port)
    assert parent.line() == repr([True] * 8 + [[], True])
    assert parent.line() == "7"
    assert parent.line() == "True"
    assert (parent.wait(3), parent.stderr) == (0, "")


# --- collection and copies --------------------------------------------------------------------


def test_dropped_without_close_warns_and_frees_the_socket(run_on_each: Run) -> None:
    async def main() -> None:
        swarms = [local()]
        port = swarms[0].port
        with pytest.warns(ResourceWarning, match=rf"AsyncSwarm.*{port}.*async with"):
            swarms.clear()
        await until(lambda: can_bind(port))

    run_on_each(main)


class Application:
    """A node in cycles: with who uses it, and with what takes its packets."""

    def __init__(self) -> None:
        self.swarm = local()
        self.packets = self.swarm.packets()
        self.peers = self.swarm.iter_peers(TOPIC)
        self.swarm.application = self  # type: ignore[attr-defined]


@pytest.mark.parametrize("used", [False, True])
def test_a_node_in_a_cycle_is_collected(run: Run, node: ScriptedNode, used: bool) -> None:
    async def main() -> None:
        application = Application()
        if used:
            await application.swarm.ping(node.address)
            assert (await anext(application.packets)).msg_type == Type.PONG
            assert [peer async for peer in application.peers] == []
        port, alive = application.swarm.port, weakref.ref(application)

        def collected() -> bool:
            gc.collect()
            return alive() is None

        del application
        with warnings.catch_warnings():
            # Not recorded, for the record holds the swarm that the warning is about.
            warnings.simplefilter("ignore", ResourceWarning)
            await until(collected)
        await until(lambda: can_bind(port))

    run(main)


def test_a_closed_node_is_freed_without_the_collector(run: Run, node: ScriptedNode) -> None:
    async def main() -> None:
        gc.disable()
        try:
            async with local() as swarm:
                packets = swarm.packets()
                await swarm.ping(node.address)
                await anext(packets)
                await swarm.get_peers(TOPIC)
            alive = weakref.ref(swarm)
            del swarm, packets
            await until(lambda: alive() is None)
        finally:
            gc.enable()

    run(main)


@pytest.mark.parametrize(
    "how", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"]
)
def test_a_node_cannot_be_copied(run: Run, how: Callable[[object], object]) -> None:
    async def main() -> None:
        async with local() as swarm:
            with pytest.raises(TypeError, match="AsyncSwarm"):
                how(swarm)

    run(main)


# --- the module -------------------------------------------------------------------------------

NO_DEFAULT = """
import asyncio, kadepy

async def main():
    kadepy.set_callback(lambda *packet: print("the callback of v0.1's functions"))
    async with kadepy.AsyncSwarm(host="127.0.0.1") as swarm, kadepy.AsyncSwarm(
        host="127.0.0.1"
    ) as other:
        packets = swarm.packets()
        for function in (kadepy.dump_routing_table, lambda: kadepy.dht_ping(*swarm.address)):
            try:
                function()
            except kadepy.ClosedError as error:
                print("refused")
        other.send(*swarm.address, 20, b"hi")
        print((await anext(packets)).payload)
        kadepy.set_callback(None)
        with kadepy.Swarm(host="127.0.0.1") as default:
            kadepy.dht_ping(*swarm.address)
            print((await anext(packets)).port == default.port)

asyncio.run(main())
"""


def test_v01_s_functions_leave_it_alone(start: Start) -> None:
    child = start(NO_DEFAULT)
    assert [child.line() for _ in range(4)] == ["refused", "refused", "b'hi'", "True"]
    assert (child.wait(3), child.rest()) == (0, [])


LAZY = """
import sys
import kadepy
print("AsyncSwarm" in dir(kadepy), "asyncio" in sys.modules)
print(set(kadepy.__all__) <= set(dir(kadepy)), hasattr(kadepy, "nothing"))
from kadepy import *
print(AsyncSwarm is kadepy.AsyncSwarm, all(name in globals() for name in kadepy.__all__))
"""


def test_its_name_is_there_before_asyncio_is(start: Start) -> None:
    child = start(LAZY)
    assert [child.line() for _ in range(3)] == ["True False", "True False", "True True"]
    assert child.wait(3) == 0


def test_a_missing_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'kadepy' has no attribute 'nothing'"):
        kadepy.nothing  # type: ignore[attr-defined]  # noqa: B018


EVERYTHING = """
import asyncio
from kadepy import AsyncSwarm, RequestTimeout, topic

async def main():
    async with AsyncSwarm(host="127.0.0.1") as first, AsyncSwarm(host="127.0.0.1") as second:
        packets = first.packets()
        print(await second.bootstrap(first.address), await second.announce_peer(topic("name")))
        found = [peer async for peer in second.iter_peers(topic("name"))]
        print(await first.get_peers(topic("name")) == found != [])
        second.send(*first.address, 20, b"hi")
        async for packet in packets:
            if packet.msg_type == 20:
                print(packet.payload)
                break
        try:
            await second.ping("127.0.0.1", second.port, timeout=0)
        except RequestTimeout:
            print("timeout")
    print(first.closed, second.closed)

asyncio.run(main())
"""


@pytest.mark.parametrize("options", [["-W", "error"], ["-O"], ["-X", "dev"]], ids=" ".join)
def test_interpreter_options_change_nothing(start: Start, options: list[str]) -> None:
    child = start(EVERYTHING, options=options)
    lines = [child.line() for _ in range(5)]
    assert lines == ["1 1", "True", "b'hi'", "timeout", "True True"]
    assert (child.wait(3), complaints(child)) == (0, [])


def test_nothing_warns_of_a_node_that_was_closed(run: Run) -> None:
    async def main() -> None:
        swarm = local()
        await swarm.close()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del swarm
            gc.collect()
        assert [str(warning.message) for warning in caught] == []

    run(main)
