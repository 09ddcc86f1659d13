"""The main job: processes that find each other by topic, and lookups that find exactly the closest;
single methods are left to test_lookups.py."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import pytest

import wire
from conftest import Child
from kadepy import Swarm

BOOTSTRAP = """
from kadepy import Swarm
with Swarm(host="127.0.0.1") as swarm:
    print(swarm.port)
    input()
"""

ANNOUNCER = """
import sys
from kadepy import Swarm, topic
with Swarm(host="127.0.0.1") as swarm:
    swarm.bootstrap(("127.0.0.1", int(sys.argv[1])))
    print(swarm.port if swarm.announce(topic("tests")) >= 1 else "nobody stored it")
    input()
"""

GETTER = """
import sys, time
from kadepy import Swarm, topic
with Swarm(host="127.0.0.1") as swarm:
    started = time.perf_counter()
    swarm.bootstrap("127.0.0.1", int(sys.argv[1]))
    peers = swarm.get_peers(topic("tests"))
    print(time.perf_counter() - started)
    print(*sorted(peer.port for peer in peers))
"""


@pytest.mark.parametrize("announcers", [1, 12])
def test_processes_find_each_other_by_topic(start: Callable[..., Child], announcers: int) -> None:
    bootstrap = start(BOOTSTRAP)
    port = int(bootstrap.line())
    others = [start(ANNOUNCER, port) for _ in range(announcers)]
    announced = sorted(int(other.line()) for other in others)

    getter = start(GETTER, port)
    seconds = float(getter.line())
    assert getter.line() == " ".join(map(str, announced))
    assert seconds < 1

    for child in (bootstrap, *others):
        child.tell()
    for child in (bootstrap, *others, getter):
        assert (child.wait(), child.stderr) == (0, "")


def test_lookups_among_two_hundred_nodes_find_exactly_the_twenty_closest(
    make_swarm: Callable[..., Swarm], rng: random.Random
) -> None:
    swarms = [make_swarm(node_id=rng.randbytes(32)) for _ in range(200)]
    for swarm in swarms[1:]:
        swarm.bootstrap(rng.choice(swarms[: swarms.index(swarm)]).address)

    exact, seconds = 0, []
    for _ in range(300):
        asker, target = rng.choice(swarms), rng.randbytes(32)
        others = [(s.id, *s.address) for s in swarms if s is not asker]
        closest = sorted(others, key=lambda node: wire.distance(node[0], target))[:20]
        started = time.perf_counter()
        found = asker.find_node(target)
        seconds.append(time.perf_counter() - started)
        exact += found == closest
    print(f"exact {exact} of 300, median {statistics.median(seconds) * 1000:.1f} ms")
    assert exact >= 0.99 * 300
    # The least short wait: a median above it means that lookups stall on live contacts.
    assert statistics.median(seconds) < 0.05
