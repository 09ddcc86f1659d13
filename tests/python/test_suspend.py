"""A suspend of the machine, as a process that is stopped and whose monotonic clock does not count
the time; what the engine makes of it is left to `tests/engine/memberships.rs`."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Child, wait_until
from kadepy import Swarm, topic

Make = Callable[..., Swarm]
Start = Callable[..., Child]

ASLEEP = 12
"""Seconds; more than the life of a record in `NODES`, and after them more than half of the pause
that a new membership makes is left."""

CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *time) {
    int (*next)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = next(id, time);
    const char *woken = getenv("WOKEN");
    if (id == CLOCK_MONOTONIC && woken && access(woken, F_OK) == 0) time->tv_sec -= ASLEEP;
    return result;
}
"""

NODES = """
import sys
from kadepy import Config, Swarm, topic

seed, other_seed = (f"127.0.0.1:{port}" for port in sys.argv[1:])
with (
    Swarm(host="127.0.0.1", bootstrap=[seed]) as member,
    Swarm(host="127.0.0.1", bootstrap=[other_seed], config=Config(record_life=10)) as keeper,
):
    membership = member.join(topic("joined"), 5000)
    keeper.find_node(keeper.id)
    print("up")
    while sys.stdin.readline():
        print(len(keeper.get_peers(topic("kept"))))
"""


@pytest.fixture
def woken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file: once it exists, the monotonic clock of children has not counted `ASLEEP` seconds."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler")
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(CLOCK)
    options = [f"-DASLEEP={ASLEEP}", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([compiler, *options, str(source), "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("WOKEN", str(tmp_path / "woken"))
    return tmp_path / "woken"


def test_a_node_wakes_from_a_suspend_as_from_a_restart(
    make_swarm: Make, start: Start, woken: Path
) -> None:
    seed, other_seed = make_swarm(), make_swarm()
    nodes = start(NODES, seed.port, other_seed.port)
    assert nodes.line() == "up"

    def announces() -> int:
        return seed.stats().packets_in["ANNOUNCE_PEER"]

    wait_until(announces)
    assert other_seed.announce_peer(topic("kept"), 4000) == 1
    assert nodes.ask("") == "1"

    before = announces()
    nodes.process.send_signal(signal.SIGSTOP)
    threading.Event().wait(ASLEEP)
    woken.touch()
    nodes.process.send_signal(signal.SIGCONT)

    assert nodes.ask("") == "0"
    wait_until(lambda: announces() > before)
