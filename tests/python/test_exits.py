"""Processes that end in the middle of something: with the right status, soon, and without a word
that does not belong; what becomes of nodes while a process goes on is left to test_lifecycle.py."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import Child, RawNode

Start = Callable[..., Child]

RUNS = 6
"""Processes for each middle, 200 in all and some: faults at exit are races."""
AT_ONCE = 4
SECONDS_MAX = 3
"""By contract."""
OPTIONS: list[list[str]] = [[], ["-W", "error"], ["-O"], ["-X", "dev"]]
"""Of the interpreter, by turns."""

PRELUDE = """
import _thread, atexit, os, signal, sys, threading
import kadepy
from kadepy import ClosedError, Config, Simulation, Swarm

silent, path = ("127.0.0.1", int(sys.argv[1])), sys.argv[2]
forever = threading.Event()
started = threading.Event()
config = Config(request_timeout=60)
swarm = Swarm(host="127.0.0.1", bootstrap=[silent], config=config)
other = Swarm(host="127.0.0.1")
# A shell may have started the tests with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def begin():
    if not started.is_set():
        print("ready")
        started.set()

def look_up():
    begin()
    swarm.get_peers(bytes(32), timeout=60)

def join(by_name):
    begin()
    swarm.bootstrap([by_name, silent], timeout=60)

def iterate():
    begin()
    for peer in swarm.iter_peers(bytes(32), timeout=60):
        pass

def run(function, daemon):
    threading.Thread(target=function, daemon=daemon).start()
    started.wait()

def interrupted(function):
    # By Ctrl-C, in the middle of it.
    def interrupt():
        started.wait()
        if sys.platform == "win32":
            _thread.interrupt_main()
        else:
            os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt).start()
    try:
        function()
    except KeyboardInterrupt:
        sys.exit(12)

def cause_calls():
    other.send(*swarm.address, 20, b"hi")
    other.announce_to(*swarm.address, bytes(32), 4000)

def simulate():
    Simulation(60, progress=lambda share, what: begin()).run(1e9)

def wait(*args):
    begin()
    forever.wait()
"""

IN_A_LOOP = """
import asyncio, logging
from kadepy import AsyncSwarm

# Under -X dev it tells of each step that a busy machine makes slow.
logging.getLogger("asyncio").setLevel(logging.ERROR)

async def main():
    swarm = AsyncSwarm(host="127.0.0.1", bootstrap=[silent], config=config)
    packets = swarm.packets()
    async def look_up():
        await swarm.get_peers(bytes(32), timeout=60)
    async def listen():
        async for packet in packets:
            pass
    async def meet():
        async for peer in swarm.join(bytes(32)):
            pass
    work = [asyncio.create_task(one()) for one in (look_up, listen, meet)]
    await asyncio.sleep(0)
    begin()
    await IN_THE_END

async def for_ever():
    # A signal right before the loop waits is seen when it wakes.
    while True:
        await asyncio.sleep(0.05)
"""

MIDDLES: dict[str, tuple[str, int, str]] = {
    # The script, the status, and what stderr tells.
    "with nodes open": ("begin()", 0, ""),
    "with the default node open": ("kadepy.create_swarm(); begin()", 0, ""),
    "by sys.exit": ("begin(); sys.exit(3)", 3, ""),
    "by an exception": ("begin(); raise ValueError", 1, "ValueError"),
    "by os._exit": ("begin(); os._exit(4)", 4, ""),
    "in a callback": (
        "swarm.set_callback(wait); cause_calls(); started.wait(); sys.exit(5)",
        5,
        "",
    ),
    "with a callback that is busy": (
        """
def callback(*packet):
    other.send(*swarm.address, 20, b"again")
swarm.set_callback(callback)
for _ in range(100):
    callback()
begin()
""",
        0,
        "",
    ),
    "with v0.1's callback that is busy": (
        """
port = kadepy.create_swarm()
def callback(*packet):
    kadepy.send_packet("127.0.0.1", port, 20, b"again")
kadepy.set_callback(callback)
for _ in range(100):
    callback()
begin()
""",
        0,
        "",
    ),
    "with a callback in a lookup": (
        "swarm.set_callback(lambda *_: look_up()); cause_calls(); started.wait(); sys.exit(8)",
        8,
        "",
    ),
    "with main in a lookup": ("interrupted(look_up)", 12, ""),
    "with a daemon in a lookup": ("run(look_up, True); sys.exit(6)", 6, ""),
    "with a worker in a lookup": ("run(look_up, False); sys.exit(7)", 7, "ClosedError"),
    "with main in iter_peers": ("interrupted(iterate)", 12, ""),
    "with a daemon in iter_peers": ("run(iterate, True)", 0, ""),
    "with a worker in iter_peers": ("run(iterate, False)", 0, "ClosedError"),
    "with many in lookups": ("for _ in range(20): run(look_up, True)\nsys.exit(6)", 6, ""),
    "with daemons that never stop calling": (
        """
def call(function):
    while True:
        try:
            function()
        except ClosedError:
            pass
functions = (swarm.stats, swarm.nodes, lambda: swarm.set_callback(print))
for function in functions:
    threading.Thread(target=call, args=(function,), daemon=True).start()
begin()
sys.exit(9)
""",
        9,
        "",
    ),
    "with daemons that make and close nodes": (
        """
def come_and_go():
    try:
        while True:
            with Swarm(host="127.0.0.1") as mine:
                mine.set_callback(print)
                begin()
    except (ClosedError, RuntimeError):
        pass  # too late for a node
for _ in range(4):
    run(come_and_go, True)
sys.exit(9)
""",
        9,
        "",
    ),
    "with memberships": (
        "all = [swarm.join(bytes([n]) * 32) for n in range(100)]; begin(); sys.exit(10)",
        10,
        "",
    ),
    "in an on_peer": (
        "swarm.join(bytes(32), on_peer=wait); cause_calls(); started.wait(); sys.exit(5)",
        5,
        "",
    ),
    "with an on_peer in a lookup": (
        "swarm.join(bytes(32), on_peer=lambda _: look_up()); cause_calls(); started.wait()",
        0,
        "",
    ),
    "while it saves": (
        """
kept = Swarm(host="127.0.0.1", state_path=path)
def save():
    while True:
        kept.save()
        begin()
run(save, True)
sys.exit(11)
""",
        11,
        "",
    ),
    "with a state file": (
        "kept = Swarm(host='127.0.0.1', state_path=path); begin(); sys.exit(11)",
        11,
        "",
    ),
    "in a running loop": (
        IN_A_LOOP.replace("IN_THE_END", "sys.exit(13)") + "asyncio.run(main())",
        13,
        "",
    ),
    "with a loop that is interrupted": (
        IN_A_LOOP.replace("IN_THE_END", "for_ever()") + "interrupted(lambda: asyncio.run(main()))",
        12,
        "",
    ),
    "with a loop in a daemon": (
        IN_A_LOOP.replace("IN_THE_END", "for_ever()")
        + "run(lambda: asyncio.run(main()), True); sys.exit(14)",
        14,
        "",
    ),
    "with a loop in a worker": (
        IN_A_LOOP.replace("IN_THE_END", "work[0]")
        + "run(lambda: asyncio.run(main()), False); sys.exit(14)",
        14,
        "ClosedError",
    ),
    "while names are resolved": (
        "node = Swarm(host='127.0.0.1', bootstrap='nobody.invalid:4000'); begin(); sys.exit(15)",
        15,
        "",
    ),
    "with main in a bootstrap by a name": (
        "interrupted(lambda: join('nobody.invalid:4000'))",
        12,
        "",
    ),
    "with a daemon in a bootstrap by a name": (
        "run(lambda: join('localhost:1'), True)",
        0,
        "",
    ),
    "with a simulation in main": ("interrupted(simulate)", 12, ""),
    "with a simulation in a daemon": ("run(simulate, True); sys.exit(16)", 16, ""),
    "with logging": (
        """
import logging
logging.basicConfig(level=logging.DEBUG, stream=open(os.devnull, "w"))
nodes = [Swarm(host="127.0.0.1", bootstrap=swarm.address) for _ in range(10)]
begin()
""",
        0,
        "",
    ),
    "with close at exit": ("atexit.register(swarm.close); begin()", 0, ""),
    "with a node made at exit": (
        "atexit.register(lambda: Swarm(host='127.0.0.1')); begin(); sys.exit(17)",
        17,
        "too late for a node",
    ),
    "with __del__ at exit": (
        """
class Application:
    def __init__(self):
        self.swarm = Swarm(host="127.0.0.1")
        self.swarm.set_callback(self.callback)
        self.membership = self.swarm.join(bytes(32), on_peer=self.callback)
        self.peers = self.swarm.iter_peers(bytes(32))
    def callback(self, *args):
        pass
    def __del__(self, closed=ClosedError):
        try:
            self.swarm.find_node(bytes(32))
        except closed:  # the module's names may be gone by then
            self.membership.leave()
            self.swarm.close()
application = Application()
in_no_cycle = Application()
in_no_cycle.swarm.set_callback(None)
in_no_cycle.membership.leave()
begin()
sys.exit(18)
""",
        18,
        "",
    ),
}


@pytest.mark.parametrize("how", MIDDLES)
def test_a_process_ends_whatever_it_is_in(
    start: Start, raw: RawNode, tmp_path: Path, how: str
) -> None:
    script, status, words = MIDDLES[how]

    def end(run: int) -> tuple[int, str]:
        options = OPTIONS[run % len(OPTIONS)]
        child = start(PRELUDE + script, raw.port, tmp_path / f"{run}.state", options=options)
        assert child.line() == "ready"
        return child.wait(SECONDS_MAX), child.stderr

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for ended, told in pool.map(end, range(RUNS)):
            assert ended == status, told
            # What nodes log goes there too.
            rest = re.sub(r"(?m)^node on port \d+: .*\n", "", told)
            assert (words in rest) if words else rest == "", told
            assert "panicked" not in told
            assert "Fatal" not in told


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_nobody_handles_ends_it_at_once(
    start: Start, raw: RawNode, tmp_path: Path, by: signal.Signals
) -> None:
    child = start(PRELUDE + "look_up()", raw.port, tmp_path / "state")
    assert child.line() == "ready"
    os.kill(child.process.pid, by)
    assert (child.wait(SECONDS_MAX), child.stderr) == (-by, "")
