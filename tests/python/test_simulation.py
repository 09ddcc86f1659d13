"""`Simulation` as a program uses it: its figures and its conduct as a blocking call. How good its
lookups are under faults is left to the core's own tests."""

from __future__ import annotations

import copy
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import DEADLINE, Child
from kadepy import Config, KadepyError, Lookup, Report, Simulation, topic, xor_distance

TOPIC = topic("chess")
TARGET = bytes(range(32))
BEYOND = 1e9
"""Virtual seconds that no test lives to see pass."""


def figures(report: Report) -> Report:
    """What has to be equal for equal arguments."""
    return report._replace(wall_seconds=0, memory_bytes_per_node=None)


@pytest.fixture
def sim() -> Simulation:
    return Simulation(60, seed=1)


# --- lookups ----------------------------------------------------------------------------------


def test_without_faults_lookups_find_everything(sim: Simulation) -> None:
    report = sim.lookups(20)
    assert (report.lookups, report.find_nodes) == (20, 20)
    assert report.success == 1
    assert report.exact is not None
    assert report.exact > 0.9
    assert (report.nodes, report.seed) == (60, 1)
    assert report.hops is not None
    assert 1 <= report.hops.p50 <= math.log2(60)
    assert report.latency_ms is not None
    assert 40 <= report.latency_ms.p50 <= report.latency_ms.p99 <= report.latency_ms.max < 10_000


def test_every_lookup_of_a_report_is_among_the_results(sim: Simulation) -> None:
    report = sim.lookups(10)
    results = sim.results()
    assert sorted(lookup.number for lookup in results) == list(range(1, 21))
    assert sum(lookup.goal == "record" for lookup in results) == report.lookups
    assert report.messages is not None
    assert report.messages.mean == sum(lookup.messages for lookup in results) / 20
    assert report.messages.max == max(lookup.messages for lookup in results)
    assert figures(sim.report()) == figures(report)


def test_a_report_of_lookups_tells_of_these_alone(sim: Simulation) -> None:
    sim.lookups(5)
    assert sim.lookups(3).lookups == 3
    assert sim.report().lookups == 8


def test_the_path_of_a_lookup_ends_at_the_nearest_node_that_it_found(sim: Simulation) -> None:
    lookup = sim.find_node(TARGET, 7)
    assert (lookup.goal, lookup.asker, lookup.target, lookup.success) == ("nodes", 7, TARGET, True)
    assert lookup.path[-1] == lookup.nodes[0]
    assert lookup.hops == len(lookup.path)
    assert lookup.queries >= lookup.messages / 2 >= lookup.hops
    alive = [node for node in map(sim.node, range(60)) if node]
    del alive[7]
    nearest = sorted(alive, key=lambda node: xor_distance(node.id, TARGET))[:20]
    assert lookup.nodes == nearest


def test_who_announced_is_found(sim: Simulation) -> None:
    announced = sim.announce(TOPIC, 4001, node=3)
    assert announced.success
    assert announced.confirmed == 20
    near = {node.id for node in sim.find_node(TOPIC, node=3).nodes}
    # One that has not stored it itself, so that somebody gives it.
    far = next(n for n in range(4, 60) if (node := sim.node(n)) and node.id not in near)
    found = sim.get_peers(TOPIC, node=far)
    announcer = sim.node(3)
    assert announcer
    assert found.peers == [(announcer.ip, 4001)]
    assert found.success
    assert found.path
    assert not sim.get_peers(topic("go")).success


def test_virtual_time_passes_as_long_as_a_lookup_takes(sim: Simulation) -> None:
    sim.build()
    before = sim.now
    lookup = sim.find_node(TARGET)
    assert lookup.started == before
    assert sim.now == pytest.approx(before + lookup.latency)
    sim.run(90)
    assert sim.now == pytest.approx(before + lookup.latency + 90)


# --- seeds ------------------------------------------------------------------------------------


def everything(seed: int, progress: Callable[[float, str], object] | None = None) -> object:
    sim = Simulation(
        40, seed=seed, loss=0.1, churn=300, hostile=0.1, latency_ms=(5, 50), progress=progress
    )
    sim.run(60)
    sim.rebind(0.1)
    sim.partition(0.2, 30)
    sim.kill(0.1)
    return figures(sim.lookups(10, over=20)), sim.results(), sim.table_fill(), sim.now


def test_a_seed_decides_everything() -> None:
    assert everything(5) == everything(5)
    assert everything(5) != everything(6)


def test_slices_make_no_difference() -> None:
    def burn(share: float, what: str) -> None:
        sum(range(1000))

    assert everything(5) == everything(5, burn)


# --- faults -----------------------------------------------------------------------------------


def test_who_is_killed_is_gone_and_others_are_found(sim: Simulation) -> None:
    killed = sim.kill(0.5)
    assert 10 < killed < 50
    assert sim.nodes == sim.report().nodes == 60 - killed
    dead = [number for number in range(60) if sim.node(number) is None]
    assert len(dead) == killed
    with pytest.raises(KadepyError, match=f"node {dead[0]} is switched off"):
        sim.find_node(TARGET, dead[0])
    report = sim.lookups(10)
    assert report.success is not None
    assert report.success > 0.9


def test_where_all_are_dead_nothing_hangs(sim: Simulation) -> None:
    assert sim.kill(1) == 60
    report = sim.lookups(5)
    assert (report.success, report.exact, report.hops, report.table_fill) == (None,) * 4
    with pytest.raises(KadepyError, match="no honest node"):
        sim.find_node(TARGET)
    sim.run(3600)


def test_a_lookup_whose_node_is_switched_off_says_so() -> None:
    sim = Simulation(40, churn=1)
    ask_often = (sim.find_node(TARGET) for _ in range(100))
    with pytest.raises(KadepyError, match="was switched off before"):
        list(ask_often)


def test_a_partition_cuts_off_and_heals(sim: Simulation) -> None:
    sim.partition(0.5, 60)
    during = sim.find_node(TARGET, 0)
    assert not during.success
    assert 0 < len(during.nodes) <= 40
    sim.run(1800)
    assert sim.find_node(TARGET, 0).success


def test_who_is_rebound_has_another_address(sim: Simulation) -> None:
    sim.build()
    before = [sim.node(number) for number in range(60)]
    rebound = sim.rebind(0.5)
    after = [sim.node(number) for number in range(60)]
    assert 10 < rebound < 50
    assert sum(old != new for old, new in zip(before, after, strict=True)) == rebound


@pytest.mark.parametrize("conduct", ["silence", "lie", "collude"])
def test_hostile_nodes_mislead_lookups_and_never_ask(conduct: str) -> None:
    sim = Simulation(60, seed=2, hostile=0.3, conduct=conduct)
    report = sim.lookups(10)
    assert (report.lookups, report.find_nodes) == (10, 10)
    assert report.exact == 0


@pytest.mark.parametrize("conduct", ["forge", "flood"])
def test_hostile_nodes_send_unasked(conduct: str) -> None:
    calm, loud = (
        Simulation(12, seed=2, hostile=hostile, conduct=conduct).lookups(2, over=1).datagrams
        for hostile in (0, 0.2)
    )
    assert loud > 5 * calm


def test_nodes_behind_translators_are_named_unless_they_are_read_only() -> None:
    spared, named = (
        Simulation(60, seed=2, nat=0.5, read_only=read_only).lookups(10)
        for read_only in (None, False)
    )
    assert (spared.success, spared.dead) == (1, 0)
    assert spared.barred is not None
    assert named.barred is not None
    # The first nodes are needed, reached or not.
    assert spared.barred < 0.01 < 0.1 < named.barred
    assert Simulation(60, seed=2, nat=0.5).find_node(TARGET).named > 0


def test_churn_replaces_nodes() -> None:
    sim = Simulation(60, churn=300)
    sim.build()
    before = {sim.node(number) for number in range(60)}
    sim.run(300)
    after = {sim.node(number) for number in range(60)}
    assert sim.nodes == 60
    assert 10 < len(before & after) < 50


def test_latency_and_loss_are_as_asked_for() -> None:
    swift = Simulation(60, latency_ms=(5, 5)).lookups(10).latency_ms
    slow = Simulation(60, latency_ms=(50, 50)).lookups(10).latency_ms
    assert swift is not None
    assert slow is not None
    assert swift.p50 * 8 < slow.p50 < swift.p50 * 12
    clean, lossy = Simulation(60).lookups(10).queries, Simulation(60, loss=0.2).lookups(10).queries
    assert clean is not None
    assert lossy is not None
    assert lossy.mean > 1.2 * clean.mean


def test_addresses_are_public_unless_asked_otherwise() -> None:
    for local in (False, True):
        sim = Simulation(60, local=local)
        sim.build()
        nodes = [node for node in map(sim.node, range(60)) if node]
        assert len({node.ip for node in nodes}) == 60
        assert all(node.ip.startswith("10.") == local for node in nodes)


def test_a_config_holds_for_every_node() -> None:
    assert len(Simulation(60, config=Config(k=4)).find_node(TARGET).nodes) == 4


# --- how it behaves ---------------------------------------------------------------------------


def test_nothing_happens_before_it_is_needed(sim: Simulation) -> None:
    assert (sim.now, sim.nodes, sim.results()) == (0, 0, [])
    sim.build()
    built = sim.now
    assert (sim.nodes, built > 0) == (60, True)
    sim.build()
    assert sim.now == built


def test_progress_rises_to_one_in_each_piece_of_work() -> None:
    told: list[tuple[str, float]] = []
    sim = Simulation(300, progress=lambda share, what: told.append((what, share)))
    sim.run(200)
    sim.lookups(20)
    work = list(dict.fromkeys(what for what, _ in told))
    assert len(work) == 3
    for what in work:
        shares = [share for of, share in told if of == what]
        assert shares == sorted(shares)
        assert shares[-1] == 1
        assert shares[0] >= 0
    assert len(told) > 3


def test_what_a_progress_callback_raises_ends_the_work_which_can_go_on() -> None:
    is_patient = False

    def refuse(share: float, what: str) -> None:
        if not is_patient and share < 1:
            raise ZeroDivisionError

    sim = Simulation(60, progress=refuse)
    with pytest.raises(ZeroDivisionError):
        sim.run(BEYOND)
    is_patient = True
    assert sim.lookups(5).success == 1
    assert sim.nodes == 60


def test_lookups_that_were_interrupted_are_given_up() -> None:
    sim = Simulation(30, progress=interrupt)
    with pytest.raises(Interrupted):
        sim.lookups(5_000, over=6_000)
    before = sim.now
    report = sim.lookups(3, over=1)
    assert (report.lookups, report.find_nodes) == (3, 3)
    assert sim.now - before < 30


class Interrupted(Exception):
    pass


def interrupt(share: float, what: str) -> None:
    """Ends the lookups, once."""
    if what == "looking up" and 0 < share < 0.5:
        raise Interrupted


def test_progress_cannot_let_more_time_pass() -> None:
    refused: list[str] = []

    def greedy(share: float, what: str) -> None:
        with pytest.raises(KadepyError, match="progress") as told:
            network.run(1)
        refused.append(str(told.value))

    network = Simulation(10, progress=greedy)
    network.build()
    assert refused


def test_a_lookup_that_is_over_at_once_is_told_like_any_other() -> None:
    alone = Simulation(1)
    assert (alone.find_node(TARGET).nodes, alone.get_peers(TARGET).peers) == ([], [])


def test_records_of_many_lookups_are_all_stored() -> None:
    """More than one address may store at one node, which all of them would be at in so small a
    network."""
    assert Simulation(21).lookups(1_100).success == 1


FORK = """
import os, threading, warnings
from kadepy import KadepyError, Simulation

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of a fork beside threads
under_way = threading.Event()
sim = Simulation(300, progress=lambda share, what: under_way.set())
threading.Thread(target=sim.run, args=(1e9,), daemon=True).start()
under_way.wait()
if not (child := os.fork()):
    try:
        sim.nodes
    except KadepyError as error:
        os._exit(7 if "parent process" in str(error) else 1)
    os._exit(2)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_in_a_forked_child_it_says_whose_it_is() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=DEADLINE
    )
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_it_cannot_be_copied(sim: Simulation) -> None:
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot pickle or copy"):
            copied(sim)


def test_other_threads_run_meanwhile() -> None:
    seen: set[float] = set()
    is_over = threading.Event()

    def stop(share: float, what: str) -> None:
        if len(seen) > 5:
            raise InterruptedError

    def watch() -> None:
        while not is_over.is_set():
            seen.add(network.now)

    network = Simulation(60, progress=stop)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        with pytest.raises(InterruptedError):
            network.run(BEYOND)
    finally:
        is_over.set()
        thread.join(DEADLINE)
    assert not thread.is_alive()


RUNS_ON = """
import time
from kadepy import Simulation
sim = Simulation(60)
sim.build()
try:
    print("running")
    sim.run(1e9)
except KeyboardInterrupt:
    print(sim.lookups(5).success)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_ctrl_c_ends_a_call_and_the_simulation_can_go_on(start: Callable[..., Child]) -> None:
    child = start(RUNS_ON)
    assert child.line() == "running"
    child.process.send_signal(signal.SIGINT)
    assert child.line() == "1.0"
    assert (child.wait(), child.stderr) == (0, "")


RUNS_AT_EXIT = """
import threading
from kadepy import Simulation
is_running = threading.Event()
sim = Simulation(60, progress=lambda share, what: is_running.set())
threading.Thread(target=sim.run, args=(1e9,), daemon=True).start()
is_running.wait()
"""


def test_a_process_ends_in_the_middle_of_it(start: Callable[..., Child]) -> None:
    child = start(RUNS_AT_EXIT)
    assert (child.wait(), child.stderr) == (0, "")


A_USERS_TEST = """
import pytest
from kadepy import Simulation, topic

@pytest.fixture(scope="module")
def network():
    return Simulation(50, seed=1)

@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_topic_is_found(network, loss):
    network.announce(topic("mine"), 4000)
    assert network.get_peers(topic("mine")).peers
    assert Simulation(50, loss=loss).lookups(5).success == 1.0
"""


def test_it_serves_in_a_users_own_tests(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(A_USERS_TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_results_are_values_that_can_be_kept(sim: Simulation) -> None:
    report = sim.lookups(2)
    assert pickle.loads(pickle.dumps(report)) == report
    lookup: Lookup = sim.results()[0]
    assert pickle.loads(pickle.dumps(lookup)) == lookup
    with pytest.raises(AttributeError):
        report.success = 0.0  # type: ignore[misc]


def test_its_repr_says_how_to_have_it_again(sim: Simulation) -> None:
    assert repr(sim) == "<Simulation of 60 nodes, seed 1, at 0.0 s>"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_memory_is_reported_by_node(start: Callable[..., Child]) -> None:
    # In a process of its own, where no memory is left over from others.
    script = "import kadepy; print(kadepy.Simulation(200).report().memory_bytes_per_node)"
    assert 1_000 < int(start(script).line()) < 1_000_000


# --- bad arguments ----------------------------------------------------------------------------

BAD_SETTINGS = [
    ("nodes", 0, ValueError, "from 1 to 1000000"),
    ("nodes", 1_000_001, ValueError, "from 1 to 1000000"),
    ("nodes", 2**70, ValueError, "from 1 to 1000000"),
    ("nodes", 1.5, TypeError, "int"),
    ("nodes", True, TypeError, "int"),
    ("seed", -1, ValueError, "2**64 - 1"),
    ("seed", 2**64, ValueError, "2**64 - 1"),
    ("seed", "1", TypeError, "int"),
    ("seed", False, TypeError, "int"),
    ("loss", -0.1, ValueError, "from 0 to 1"),
    ("loss", 1.1, ValueError, "from 0 to 1"),
    ("loss", math.nan, ValueError, "from 0 to 1"),
    ("loss", "0.1", TypeError, "from 0 to 1"),
    ("hostile", math.inf, ValueError, "from 0 to 1"),
    ("hostile", True, TypeError, "from 0 to 1"),
    ("churn", 0, ValueError, "above 0, or None"),
    ("churn", -5.0, ValueError, "above 0, or None"),
    ("churn", math.nan, ValueError, "above 0, or None"),
    ("churn", "1", TypeError, "above 0, or None"),
    ("latency_ms", (5, 4), ValueError, "(least, most)"),
    ("latency_ms", (-1, 4), ValueError, "(least, most)"),
    ("latency_ms", (1, 60_001), ValueError, "60000"),
    ("latency_ms", (1, math.nan), ValueError, "(least, most)"),
    ("latency_ms", (1, 2, 3), ValueError, "(least, most)"),
    ("latency_ms", 20, TypeError, "(least, most)"),
    ("latency_ms", ("1", 2), TypeError, "(least, most)"),
    ("nat", 1.5, ValueError, "from 0 to 1"),
    ("read_only", 1, TypeError, "True, False or None"),
    ("conduct", "polite", ValueError, '"silence", "lie", "collude", "forge", "flood"'),
    ("conduct", None, TypeError, '"silence"'),
    ("local", 1, TypeError, "True or False"),
    ("config", {}, TypeError, "Config or None"),
    ("progress", 1, TypeError, "callable or None"),
]


@pytest.mark.parametrize(("name", "value", "error", "allowed"), BAD_SETTINGS)
def test_bad_settings_are_refused(
    name: str, value: object, error: type[Exception], allowed: str
) -> None:
    settings: dict[str, Any] = {"nodes": 10, name: value}
    with pytest.raises(error) as told:
        Simulation(**settings)
    text = str(told.value)
    assert text.startswith(f"{name} must be ")
    assert allowed in text
    assert str(value) in text or repr(value) in text


BAD_CALLS: list[tuple[str, Callable[[Simulation, Any], object], object, type[Exception]]] = [
    ("share", lambda sim, share: sim.kill(share), 2, ValueError),
    ("share", lambda sim, share: sim.rebind(share), -1, ValueError),
    ("share", lambda sim, share: sim.partition(share, 1), math.nan, ValueError),
    ("seconds", lambda sim, seconds: sim.partition(0.5, seconds), -1, ValueError),
    ("seconds", lambda sim, seconds: sim.run(seconds), -1, ValueError),
    ("seconds", lambda sim, seconds: sim.run(seconds), math.nan, ValueError),
    ("seconds", lambda sim, seconds: sim.run(seconds), math.inf, ValueError),
    ("seconds", lambda sim, seconds: sim.run(seconds), "1", TypeError),
    ("seconds", lambda sim, seconds: sim.run(seconds), True, TypeError),
    ("count", lambda sim, count: sim.lookups(count), 0, ValueError),
    ("count", lambda sim, count: sim.lookups(count), 1.0, TypeError),
    ("over", lambda sim, over: sim.lookups(1, over=over), -1, ValueError),
    ("target", lambda sim, target: sim.find_node(target), b"short", ValueError),
    ("topic", lambda sim, topic: sim.get_peers(topic), "chess", TypeError),
    ("topic", lambda sim, topic: sim.announce(topic, 1), "chess", TypeError),
    ("port", lambda sim, port: sim.announce(TOPIC, port), 0, ValueError),
    ("node", lambda sim, node: sim.find_node(TARGET, node), 60, ValueError),
    ("node", lambda sim, node: sim.get_peers(TOPIC, node), -1, ValueError),
    ("node", lambda sim, node: sim.announce(TOPIC, 1, node), "3", TypeError),
    ("node", lambda sim, node: sim.node(node), 60, ValueError),
]


def test_bad_arguments_of_methods_are_refused_and_do_nothing(sim: Simulation) -> None:
    sim.build()
    before = sim.now
    for name, call, value, error in BAD_CALLS:
        with pytest.raises(error, match=f"^{name} must be "):
            call(sim, value)
    assert (sim.now, sim.nodes, sim.results()) == (before, 60, [])
