"""Thousands of announces awaited at once on one node: `python benches/many_at_once.py`.

Prints, for networks of several sizes on loopback, how many announces nobody stores, how many fewer
than half of the nodes that should, how long it takes and how much of the processor's time. The
last line says whether all were stored. With a number of bytes as argument, each node asks for such
a receive buffer: 212992 is what most Linux systems give at most.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time

from kadepy import AsyncSwarm, Config, topic

CASES = ((2, 10_000), (10, 1_000), (60, 1_000), (60, 4_000), (60, 10_000))
TIMEOUT = 60.0
K = 20


async def measure(nodes: int, announces: int, config: Config) -> bool:
    swarms = [AsyncSwarm(host="127.0.0.1", config=config) for _ in range(nodes)]
    first, announcer, *_ = swarms
    for swarm in swarms[1:]:
        await swarm.bootstrap(first.address)
    for swarm in swarms[1:]:
        await swarm.find_node(swarm.id)

    asked_before = announcer.stats().requests
    began, cpu_before = time.monotonic(), time.process_time()
    stored = await asyncio.gather(
        *(
            announcer.announce_peer(topic(f"{index}"), 4000, timeout=TIMEOUT)
            for index in range(announces)
        )
    )
    took, cpu = time.monotonic() - began, time.process_time() - cpu_before
    asked = announcer.stats().requests - asked_before
    none = stored.count(0)
    few = sum(0 < count < min(K, nodes - 1) / 2 for count in stored)
    print(
        f"{nodes:3} nodes, {announces:6} announces: {none} stored nowhere, {few} at less than half;"
        f" {took:.1f} s, {cpu:.1f} s of CPU, {asked / announces:.1f} questions each",
        flush=True,
    )
    for swarm in swarms:
        await swarm.close()
    return not none


async def main() -> None:
    config = Config(receive_buffer=int(sys.argv[1])) if len(sys.argv) > 1 else Config()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, hard), hard))
    results = [await measure(nodes, announces, config) for nodes, announces in CASES]
    print("PASS" if all(results) else "FAIL")


if __name__ == "__main__":
    asyncio.run(main())
