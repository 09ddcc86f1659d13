"""Processes in which gevent or eventlet has put greenlets in the place of threads."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable

import pytest

from conftest import Child, RawNode

Start = Callable[..., Child]
Run = Callable[..., Child]

PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()\n",
    "eventlet": """
import warnings; warnings.simplefilter("ignore")
import eventlet; eventlet.monkey_patch()
""",
}

PRELUDE = """
import logging, os, signal, sys, threading, time
from kadepy import Config, Swarm, _threads, topic

silent = ("127.0.0.1", int(sys.argv[1]))

def until(condition):
    while not condition():
        time.sleep(0.001)
"""


@pytest.fixture(params=["before", "after"])
def run(request: pytest.FixtureRequest, start: Start, patch: str) -> Run:
    """Starts a script that is patched before or after it imports kadepy."""

    def run(script: str, port: int = 1) -> Child:
        parts = [PATCHES[patch], PRELUDE]
        if request.param == "after":
            parts = ["import kadepy._log\n", *parts]
        return start("".join(parts) + script, port)

    return run


@pytest.fixture(params=PATCHES)
def patch(request: pytest.FixtureRequest) -> str:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


def ended(child: Child) -> tuple[int, str]:
    return child.wait(), child.stderr


def test_callbacks_run_while_the_program_waits(run: Run) -> None:
    child = run("""
first, second = Swarm(host="127.0.0.1"), Swarm(host="127.0.0.1")
with first, second:
    packets, met = [], []
    first.set_callback(lambda *packet: packets.append(packet))
    first.join(topic("t"), 4000, on_peer=met.append)
    print(second.bootstrap(first.address), second.announce_peer(topic("t"), 5000))
    until(lambda: packets and met)
    # Without a switch to another greenlet: the callback has a thread of its own.
    del packets[:]
    second.ping(first.address)
    while not packets:
        first.ping(second.address)
    print([peer.port for peer in met])
""")
    assert child.line() == "1 1"
    assert child.line() == "[5000]"
    assert ended(child) == (0, "")


def test_a_program_may_log_as_much_as_the_nodes_do(run: Run, raw: RawNode) -> None:
    child = run(
        """
lines = []
class Slow(logging.Handler):
    def emit(self, record):
        # Under the handler's lock, which another greenlet and another thread want meanwhile.
        time.sleep(0)
        lines.append(record.getMessage())
logging.basicConfig(level="DEBUG", handlers=[Slow()])
def fail(*packet):
    raise ValueError
def log():
    for _ in range(200):
        logging.info("mine")
        time.sleep(0)
config = Config(request_timeout=0.2)
nodes = [Swarm(host="127.0.0.1", bootstrap=[silent], config=config) for _ in range(10)]
for node in nodes:
    node.set_callback(fail)
threads = [threading.Thread(target=log) for _ in range(4)]
for thread in threads:
    thread.start()
for n in range(200):
    nodes[n % 10].send(nodes[(n + 1) % 10].address, 20, b"hi")
    time.sleep(0)
for thread in threads:
    thread.join()
until(lambda: sum(" raised " in line for line in lines) == 200)
silence = "no bootstrap contact answers"
until(lambda: all(any(f"port {node.port}: {silence}" in line for line in lines) for node in nodes))
print(sum(line == "mine" for line in lines))
for node in nodes:
    node.close()
""",
        raw.port,
    )
    assert child.line() == "800"
    assert ended(child) == (0, "")


def test_a_program_that_has_set_up_no_logging_sees_warnings(run: Run, raw: RawNode) -> None:
    child = run(
        """
class Seen:
    def write(self, line):
        lines.append(line)
    def flush(self):
        pass
lines = []
sys.stderr = Seen()
with Swarm(host="127.0.0.1", bootstrap=[silent], config=Config(request_timeout=0.2)):
    until(lambda: any("no bootstrap contact" in line for line in lines))
sys.stderr = sys.__stderr__
print("seen")
""",
        raw.port,
    )
    assert child.line() == "seen"
    assert ended(child) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_ctrl_c_ends_a_call_that_blocks(run: Run, raw: RawNode) -> None:
    child = run(
        """
signal.signal(signal.SIGINT, signal.default_int_handler)
with Swarm(host="127.0.0.1", bootstrap=[silent], config=Config(request_timeout=60)) as node:
    node.set_callback(print)
    def interrupt():
        while not node.stats().lookups_active:
            pass
        os.kill(os.getpid(), signal.SIGINT)
    _threads.start(interrupt, (), "interrupt")
    try:
        node.get_peers(bytes(32), timeout=60)
    except KeyboardInterrupt:
        print("interrupted")
""",
        raw.port,
    )
    assert child.line() == "interrupted"
    assert ended(child) == (0, "")


def test_a_process_ends_with_nodes_open_and_a_callback_busy(run: Run) -> None:
    child = run("""
first, second = Swarm(host="127.0.0.1"), Swarm(host="127.0.0.1")
def callback(*packet):
    second.send(first.address, 20, b"again")
    first.find_node(bytes(32))
first.set_callback(callback)
callback()
print("ready")
sys.exit(5)
""")
    assert child.line() == "ready"
    assert (child.wait(3), child.stderr) == (5, "")


def test_asyncio_works_under_the_patch(run: Run, patch: str) -> None:
    if patch == "eventlet":
        pytest.skip("eventlet's patch leaves asyncio no selector that works with threads")
    child = run("""
import asyncio
from kadepy import AsyncSwarm
async def main():
    first, second = AsyncSwarm(host="127.0.0.1"), AsyncSwarm(host="127.0.0.1")
    async with first, second:
        packets = first.packets()
        await second.bootstrap(first.address)
        print(await second.announce_peer(topic("t"), 5000))
        print(len(await first.get_peers(topic("t"))), (await anext(packets)).sender_id == second.id)
asyncio.run(main())
""")
    assert child.line() == "1"
    assert child.line() == "1 True"
    assert ended(child) == (0, "")
