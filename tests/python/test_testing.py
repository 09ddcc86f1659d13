"""`kadepy.testing` in users' own tests: the network, and the fixture in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Child, can_bind
from kadepy import Config, Node, Swarm
from kadepy.testing import local_network

TOPIC = bytes(range(32))
KEY = bytes(range(100, 132))
NAMED = 'pytest_plugins = ["kadepy.testing"]'


def run_pytest(directory: Path, *options: str, plugins: bool = True) -> tuple[int, str]:
    """Runs the tests there; without `plugins` none is loaded because it is installed."""
    without = {} if plugins else {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *options],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env={**os.environ, **without},
    )
    return done.returncode, done.stdout


# --- local_network ----------------------------------------------------------------------------


def test_all_nodes_of_a_network_know_each_other() -> None:
    with local_network(8) as swarms:
        assert [type(swarm) for swarm in swarms] == [Swarm] * 8
        everyone = {Node(swarm.id, *swarm.address) for swarm in swarms}
        for swarm in swarms:
            assert {*swarm.nodes(), Node(swarm.id, *swarm.address)} == everyone


def test_in_a_network_of_50_all_find_a_record() -> None:
    with local_network(50) as swarms:
        assert swarms[7].announce_peer(TOPIC, 4000) == 20
        assert all(swarm.get_peers(TOPIC) == [("127.0.0.1", 4000)] for swarm in swarms)


def test_a_network_of_one_is_alone() -> None:
    with local_network(1) as (swarm,):
        assert swarm.nodes() == []


@pytest.mark.parametrize(
    ("nodes", "error"),
    [(0, ValueError), (-1, ValueError), (True, TypeError), ("3", TypeError), (2.0, TypeError)],
)
def test_a_network_of_no_number_is_refused(nodes: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"nodes must be .*, got"), local_network(nodes):
        pass


def test_options_reach_each_node() -> None:
    ids = [bytes([1, *range(31)])]
    with local_network(3, network_key=KEY, cipher="chacha20", config=Config(k=2)) as swarms:
        assert all("chacha20" in repr(swarm) for swarm in swarms)
        assert len(swarms[0].find_node(TOPIC)) == 2
    with local_network(1, node_id=ids[0]) as (swarm,):
        assert swarm.id == ids[0]
    with pytest.raises(TypeError, match="bogus"), local_network(2, bogus=1):
        pass


def test_all_are_closed_at_the_end_also_after_an_error() -> None:
    made: list[Swarm] = []

    def fail() -> None:
        with local_network(3) as swarms:
            made.extend(swarms)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [swarm.closed for swarm in made] == [True] * 3
    assert all(can_bind(swarm.port) for swarm in made)


def test_those_made_are_closed_where_another_cannot_be_made(swarm: Swarm) -> None:
    swarm.close()
    # The first gets the port.
    with pytest.raises(OSError, match="in use"), local_network(2, port=swarm.port):
        pass
    assert can_bind(swarm.port)


# --- the fixture ------------------------------------------------------------------------------

A_USERS_TEST = """
import pytest
from kadepy import topic

PORTS = []

def test_a_topic_is_found(kadepy_network):
    first, *others = kadepy_network(4)
    first.announce_peer(topic("mine"), 4000)
    assert all(swarm.get_peers(topic("mine")) == [("127.0.0.1", 4000)] for swarm in others)

def test_two_networks_stand_apart(kadepy_network):
    one, other = kadepy_network(2), kadepy_network(network_key=bytes(31) + b"x")
    PORTS.extend((swarm.port, swarm) for swarm in (*one, *other))
    assert [len(one), len(other)] == [2, 5]
    assert [len(swarms[0].nodes()) for swarms in (one, other)] == [1, 4]
    pytest.fail("on purpose")

def test_all_were_closed_though_the_test_failed():
    assert len(PORTS) == 7
    assert all(swarm.closed for port, swarm in PORTS)
"""


@pytest.mark.parametrize(
    ("named", "plugins"),
    [(False, True), (True, True), (True, False)],
    ids=["as installed", "installed and named", "named alone"],
)
def test_the_fixture_serves_in_a_users_own_tests(
    tmp_path: Path, named: bool, plugins: bool
) -> None:
    (tmp_path / "test_mine.py").write_text(A_USERS_TEST)
    if named:
        (tmp_path / "conftest.py").write_text(NAMED)
    status, told = run_pytest(tmp_path, plugins=plugins)
    assert (status, "1 failed, 2 passed" in told) == (1, True), told
    assert "on purpose" in told


def test_the_fixture_can_be_switched_off(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(A_USERS_TEST)
    status, told = run_pytest(tmp_path, "-p", "no:kadepy.testing")
    assert (status, "fixture 'kadepy_network' not found" in told) == (1, True), told


def test_pytest_lists_the_fixture_with_its_documentation(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(A_USERS_TEST)
    status, told = run_pytest(tmp_path, "--fixtures")
    assert status == 0, told
    assert "kadepy_network" in told
    assert "closes them at the end of the test" in told


WITHOUT_PYTEST = """
import sys
sys.modules["pytest"] = None
import kadepy.testing
print(kadepy.testing.__all__, hasattr(kadepy.testing, "kadepy_network"))
with kadepy.testing.local_network(2) as swarms:
    print(len(swarms[0].nodes()))
"""


def test_without_pytest_the_network_is_there(start: Callable[..., Child]) -> None:
    child = start(WITHOUT_PYTEST, options=["-W", "error"])
    assert [child.line(), child.line()] == ["['local_network'] False", "1"]
    assert (child.wait(), child.stderr) == (0, "")
