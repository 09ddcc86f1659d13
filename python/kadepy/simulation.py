"""`Simulation`: a network of thousands of nodes on virtual time, as a program holds it, and what is
reported of it; the network itself is simulated in the core."""

from __future__ import annotations

import os
import time

from kadepy import _core
from kadepy._types import KadepyError, Report, Spread, TableFill

# As in `typing`, whose import would cost more than all else here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

    from typing_extensions import Buffer

    from kadepy._core import Config
    from kadepy._types import Lookup, Node

__all__ = ["Simulation"]


class Simulation:
    """A network of up to a million nodes in this process, on virtual time.

    Each node is the very engine that a `Swarm` runs; sockets and clock are simulated, so that hours
    pass in seconds and nothing leaves the process. The same arguments and calls give the same
    results to the byte, but for the time and memory that the simulation itself takes; another
    seed gives another network.

    Methods build the network at their first need, and let virtual time pass until what they are
    for is over. Meanwhile other threads run, and Ctrl-C ends the call within 150 ms; the simulation
    stands then at some moment between, its lookups are given up, and it can go on. Use it from one
    thread at a time.

    Args:
        nodes: how many nodes there are, from 1 to 1,000,000, hostile ones included. They are
            numbered from 0.
        seed: what every random number is made from: an int from 0 to 2**64 - 1.
        loss: the share of datagrams that are lost, from 0 to 1, each way.
        latency_ms: the least and the most milliseconds that a datagram takes one way, from 0 to
            60,000. Each pair of nodes has a latency of its own, evenly spread between the two, and
            each datagram takes up to a tenth more or less.
        churn: the median seconds after which a node is switched off and a new one joins in its
            place, from the end of the build on; None for never.
        hostile: the share of nodes that are hostile, from 0 to 1. The first three, which newcomers
            may be told of as bootstrap nodes, are honest always.
        conduct: what hostile nodes do. ``"silence"``: leave lookups unanswered. ``"lie"``: name
            made-up ids next to the target, where nobody is. ``"collude"``: name each other, under
            made-up ids next to the target, and answer under these. ``"forge"``: send forged
            answers in the name of others. ``"flood"``: send requests without end.
        nat: the share of nodes behind translators, from 0 to 1. A translator gives its node one
            external port towards everybody, and another one after 30 to 120 seconds in which
            the node has sent nothing; it lets in only what comes from an address that the node has
            sent to within that time. Newcomers join through nodes that are behind none, as the
            first three are always.
        read_only: as for `Swarm`, for every node.
        local: whether the nodes have addresses of one local network, to which the limits against
            strangers do not apply, and not public ones, each in a /24 of its own.
        config: a `Config` with other limits than the defaults, for every node.
        progress: called with the share of the work that is done, from 0 to 1 and never falling in
            one piece of work, and what that work is, on the caller's thread, some 20 times a
            second. What it raises ends the work.

    Raises:
        ValueError, TypeError: a bad argument; the message says which, what came and what is
            allowed.

    >>> from kadepy import Simulation, topic
    >>> sim = Simulation(50, seed=7, loss=0.01)
    >>> sim
    <Simulation of 50 nodes, seed 7, at 0.0 s>
    >>> sim.announce(topic("chess"), 4000).confirmed
    20
    >>> [peer.port for peer in sim.get_peers(topic("chess")).peers]
    [4000]
    >>> report = sim.lookups(20)
    >>> report.success, report.nodes
    (1.0, 50)
    >>> sim.kill(0.5) > 10
    True
    """

    def __init__(
        self,
        nodes: int,
        *,
        seed: int = 0,
        loss: float = 0.0,
        latency_ms: tuple[float, float] = (20, 200),
        churn: float | None = None,
        hostile: float = 0.0,
        conduct: str = "collude",
        nat: float = 0.0,
        read_only: bool | None = None,
        local: bool = False,
        config: Config | None = None,
        progress: Callable[[float, str], object] | None = None,
    ) -> None:
        if progress is not None and not callable(progress):
            raise TypeError(f"progress must be callable or None, got {progress!r}")
        if isinstance(latency_ms, list):
            latency_ms = (*latency_ms,)
        self._memory = _resident()
        self._wall = 0.0
        self._is_passing = False
        self._sim = _core.Simulation(
            nodes, seed, loss, latency_ms, churn, hostile, conduct, nat, read_only, local, config
        )
        self._size = nodes
        self._seed = seed
        self._progress = progress

    def __repr__(self) -> str:
        return f"<Simulation of {self._size:,} nodes, seed {self._seed}, at {self.now:,.1f} s>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle or copy a Simulation: make another with the same seed")

    @property
    def seed(self) -> int:
        """The seed, with which all of it can be repeated."""
        return self._seed

    @property
    def now(self) -> float:
        """The virtual time: seconds since the beginning."""
        return self._sim.now

    @property
    def nodes(self) -> int:
        """How many nodes are alive now."""
        return self._sim.alive

    def node(self, number: int) -> Node | None:
        """Id and address of the node with this number, from 0; None where it is switched off."""
        return self._sim.contact(number)

    def build(self) -> None:
        """Has every node start and join, 50 of them a virtual second, and half a minute to settle.

        Does nothing where that is done. Every other method does it first.
        """
        if self._sim.now < self._sim.built_at:
            self._pass_until(self._sim.built_at, "building the network")

    def run(self, seconds: float) -> None:
        """Lets so many virtual seconds pass, finite and not negative."""
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise TypeError(f"seconds must be a number, got {seconds!r}")
        if not 0 <= seconds <= _SECONDS_MAX:
            raise ValueError(f"seconds must be from 0 to {_SECONDS_MAX:,}, got {seconds!r}")
        self.build()
        self._pass_until(self._sim.now + seconds, "letting time pass")

    def lookups(self, count: int = 100, *, over: float = 60.0) -> Report:
        """Has honest nodes, drawn at random, do lookups until all are over, and reports these.

        Args:
            count: how many lookups for a record, which the k nearest nodes alive are given right
                before, and as many for the nearest nodes; up to 1,000,000. Each is for an id of
                its own, drawn at random.
            over: the virtual seconds over which they begin, evenly.
        """
        self.build()
        first = self._sim.ended
        self._sim.look_up(count, over)
        self._finish(2 * count)
        return self._report(first)

    def find_node(self, target: Buffer, node: int | None = None) -> Lookup:
        """Looks up the nodes nearest to 32 bytes.

        Args:
            target: what they are to be near to.
            node: the number of the node that asks, from 0; None for an honest one at random.

        Raises:
            KadepyError: that node is switched off, or was before the lookup ended.
        """
        self.build()
        return self._one(lambda: self._sim.find_node(target, node), node)

    def announce(self, topic: Buffer, port: int, node: int | None = None) -> Lookup:
        """Announces a topic, as `Swarm.announce_peer` does; `confirmed` says with what success.

        Args:
            topic: 32 bytes; `topic()` makes them of a name.
            port: the port to announce, from 1 to 65535; the address is that of the node.
            node: as for `find_node`.

        Raises:
            KadepyError: as for `find_node`.
        """
        self.build()
        return self._one(lambda: self._sim.announce(topic, port, node), node)

    def get_peers(self, topic: Buffer, node: int | None = None) -> Lookup:
        """Looks up who was announced for a topic, as `Swarm.get_peers` does.

        Args:
            topic: 32 bytes; `topic()` makes them of a name.
            node: as for `find_node`.

        Raises:
            KadepyError: as for `find_node`.
        """
        self.build()
        return self._one(lambda: self._sim.get_peers(topic, node), node)

    def kill(self, share: float) -> int:
        """Switches off a share of the nodes that live, from 0 to 1, at once and for good.

        Each is drawn with that probability. Gives how many it were.
        """
        self.build()
        return self._sim.kill(share)

    def partition(self, share: float, seconds: float) -> None:
        """Cuts a share of the nodes, from 0 to 1, off from all others for so many virtual seconds.

        It returns at once. Within each of the two parts all goes on; the network heals by itself
        as time passes.
        """
        self.build()
        self._sim.partition(share, seconds)

    def rebind(self, share: float) -> int:
        """Gives a share of the nodes that live, from 0 to 1, new addresses, as a NAT does that
        forgets its mappings.

        Each is drawn with that probability. Gives how many it were.
        """
        self.build()
        return self._sim.rebind(share)

    def report(self) -> Report:
        """Reports all lookups for records and for nodes so far, and how the network stands."""
        self.build()
        return self._report(0)

    def results(self) -> list[Lookup]:
        """Every lookup that is over, in the order of their ends."""
        return self._sim.lookups(0)

    def table_fill(self) -> list[int]:
        """The number of contacts in the routing table of each node that lives.

        A contact that was switched off stays there until the node notices.
        """
        self.build()
        return self._sim.fill()

    def _one(self, start: Callable[[], int | None], node: int | None) -> Lookup:
        """The end of the lookup that `start` begins at this node; it may end at once."""
        first = self._sim.ended
        number = start()
        if number is None and node is None:
            raise KadepyError("no honest node that is alive was found to ask")
        if number is None:
            raise KadepyError(f"node {node} is switched off and cannot ask")
        self._finish(1)
        for lookup in self._sim.lookups(first):
            if lookup.number == number:
                return lookup
        raise KadepyError("the node that asked was switched off before its lookup ended")

    def _finish(self, count: int) -> None:
        """Lets time pass until no lookup is under way; so many are expected to end."""
        first = self._sim.ended
        self._pass(None, "looking up", lambda: min(1.0, (self._sim.ended - first) / count))

    def _pass_until(self, end: float, what: str) -> None:
        began = self._sim.now
        self._pass(end, what, lambda: (self._sim.now - began) / max(end - began, 1e-6))

    def _pass(self, until: float | None, what: str, share: Callable[[], float]) -> None:
        """Lets time pass in slices, between which `share` says how much of it is done."""
        if self._is_passing:
            raise KadepyError("time is passing already: progress cannot let more of it pass")
        self._is_passing = True
        is_over = False
        try:
            while not is_over:
                started = time.perf_counter()
                is_over = self._sim.advance(until)
                self._wall += time.perf_counter() - started
                if self._progress is not None:
                    self._progress(1.0 if is_over else share(), what)
        except BaseException:
            # Nobody waits for them any more, and the next call is not to wait for them either.
            self._sim.forget_lookups()
            raise
        finally:
            self._is_passing = False

    def _report(self, first: int) -> Report:
        lookups = self._sim.lookups(first)
        records = [lookup for lookup in lookups if lookup.goal == "record"]
        nodes = [lookup for lookup in lookups if lookup.goal == "nodes"]
        both = records + nodes
        datagrams, sent, _ = self._sim.traffic()
        named = sum(lookup.named for lookup in both)
        fill = self._sim.fill()
        memory, before = _resident(), self._memory
        return Report(
            success=_share(records),
            exact=_share(nodes),
            hops=_spread(lookup.hops for lookup in both if lookup.hops),
            queries=_spread(lookup.queries for lookup in both),
            messages=_spread(lookup.messages for lookup in both),
            latency_ms=_spread(lookup.latency * 1000 for lookup in both),
            dead=sum(lookup.dead for lookup in both) / named if named else None,
            barred=sum(lookup.barred for lookup in both) / named if named else None,
            lookups=len(records),
            find_nodes=len(nodes),
            table_fill=TableFill(sum(fill) / len(fill), min(fill), max(fill)) if fill else None,
            datagrams=datagrams,
            bytes=sent,
            nodes=len(fill),
            seed=self._seed,
            virtual_seconds=self._sim.now,
            wall_seconds=self._wall,
            memory_bytes_per_node=(
                None if memory is None or before is None else max(0, memory - before) // self._size
            ),
        )


_SECONDS_MAX = 1_000_000_000
"""Some 30 years."""


def _share(lookups: list[Lookup]) -> float | None:
    return sum(lookup.success for lookup in lookups) / len(lookups) if lookups else None


def _spread(figures: Iterable[float]) -> Spread | None:
    ordered = sorted(figures)
    if not ordered:
        return None

    def percentile(percent: int) -> float:
        # The least value that so many percent do not exceed.
        return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]

    mean = sum(ordered) / len(ordered)
    return Spread(mean, percentile(50), percentile(90), percentile(99), ordered[-1])


def _resident() -> int | None:
    """Bytes of memory that the process has; None where the platform does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
