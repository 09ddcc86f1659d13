"""Why nobody answers: each reason that is known is said, in the error and in the log."""

from __future__ import annotations

import errno
import logging
import re
import sys
from collections.abc import Callable

import pytest

from conftest import DEADLINE, Connected, RawNode, Run, wait_until
from kadepy import AsyncSwarm, BootstrapError, RequestTimeout, Swarm, topic

Make = Callable[..., Swarm]

# No host: what a node on a loopback address sends there, Linux refuses.
ELSEWHERE = ("192.0.2.1", 9_000)

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse other things")


@linux
def test_a_ping_that_the_system_refuses_to_send_raises_its_error(swarm: Swarm) -> None:
    with pytest.raises(
        OSError, match=r"cannot send to 192\.0\.2\.1:9000: .*this host alone"
    ) as told:
        swarm.ping(ELSEWHERE, timeout=DEADLINE)
    assert told.value.errno == errno.EINVAL
    assert not isinstance(told.value, RequestTimeout)


@linux
def test_the_async_ping_raises_it_too(run: Run) -> None:
    async def main() -> None:
        async with AsyncSwarm(host="127.0.0.1") as swarm:
            with pytest.raises(OSError, match="cannot send to") as told:
                await swarm.ping(ELSEWHERE, timeout=DEADLINE)
            assert told.value.errno == errno.EINVAL

    run(main)


@linux
def test_a_failed_join_names_each_contact_and_why(make_swarm: Make, raw: RawNode) -> None:
    node = make_swarm()
    silent = ("127.0.0.1", raw.port)
    with pytest.raises(BootstrapError) as told:
        node.bootstrap([ELSEWHERE, node.address, silent], timeout=0.2)
    reasons = dict(re.findall(r"(\S+?:\d+) \(([^)]*)\)", str(told.value)))
    assert reasons.pop("192.0.2.1:9000").startswith("cannot be sent to: Invalid argument")
    assert reasons == {
        f"127.0.0.1:{node.port}": "it is this node itself",
        f"127.0.0.1:{raw.port}": "no answer",
    }


def test_a_ping_to_itself_says_so(swarm: Swarm) -> None:
    with pytest.raises(RequestTimeout, match="is this node itself"):
        swarm.ping(swarm.address, timeout=DEADLINE)


def test_a_node_with_the_same_id_is_warned_of(
    make_swarm: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "kadepy")
    first = make_swarm()
    second = make_swarm(node_id=first.id)
    with pytest.raises(RequestTimeout):
        second.ping(first.address, timeout=0.2)
    said = f"on port {first.port}: a packet from 127.0.0.1:{second.port} carries this node's own id"
    wait_until(lambda: any(said in line for line in caplog.messages))


@linux
def test_the_log_says_why_no_contact_answers(
    make_swarm: Make, raw: RawNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "kadepy")
    contacts = [ELSEWHERE, ("127.0.0.1", raw.port)]
    node = make_swarm(bootstrap=contacts)
    said = (
        "no bootstrap contact answers: 192.0.2.1:9000 (cannot be sent to: Invalid argument; a node"
        f" on 127.0.0.1 reaches this host alone), 127.0.0.1:{raw.port} (no answer)"
    )
    wait_until(lambda: any(said in line for line in caplog.messages))
    assert node.get_peers(topic("t"), timeout=0) == []


@linux
def test_a_host_that_has_lost_the_bound_address_says_so(connected: Connected) -> None:
    child = connected(
        [["10.77.0.1/24"]],
        """
hosts[0].start('''
import logging, queue, subprocess
from kadepy import Swarm
said = queue.SimpleQueue()
handler = logging.Handler()
handler.emit = lambda record: said.put(record.getMessage())
logging.getLogger("kadepy").addHandler(handler)
with Swarm(host="10.77.0.1") as node:
    subprocess.run("ip addr del 10.77.0.1/24 dev lan0".split(), check=True)
    try:
        node.ping(("10.77.0.2", 9000), timeout=20)
    except OSError as error:
        print(type(error).__name__)
    print(said.get(timeout=20))
''')
print(hosts[0].line())
print(hosts[0].line())
""",
    )
    assert child.line() == "OSError"
    assert "this host has lost the address that the node is bound to" in child.line()


def test_a_contact_that_comes_up_late_is_joined(make_swarm: Make) -> None:
    first, late = make_swarm(), make_swarm()
    contacts = [first.address, late.address]
    late.close()
    node = make_swarm(bootstrap=contacts)
    assert node.announce_peer(topic("t"), 5_000) == 1
    late = make_swarm(port=contacts[1][1])
    # The first look at who is missing comes 10 seconds after the start.
    wait_until(lambda: late.id in {contact.id for contact in node.nodes()})
    assert late.get_peers(topic("t")) == [("127.0.0.1", 5_000)]
