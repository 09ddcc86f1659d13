"""`kadepy demo`: a network in one process that announces and finds, and a picture of what happened.

The work comes first and gives a frozen `Outcome`; everything that shows it comes after.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple, ParamSpec, TypeVar

import click
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn
from rich.syntax import Syntax
from rich.text import Text

from kadepy import Config, Swarm, topic, xor_distance
from kadepy.cli import keys

HOST = "127.0.0.1"
ANNOUNCERS = 3
# With the default k = 20 every node of a small network stores every topic, and nobody could see
# that a topic lives on the nodes nearest to its id.
CONFIG = Config(k=5)
SNIPPET = """\
from kadepy import Swarm, topic
first = Swarm(host="127.0.0.1")
second = Swarm(host="127.0.0.1", bootstrap=[first.address])
print(second.announce_peer(topic("demo")))
print(first.get_peers(topic("demo")))"""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cost:
    """What calls took: their time, and the packets that the calling node sent and received."""

    milliseconds: float
    packets: int


@dataclass(frozen=True, slots=True)
class Member:
    """One node of the demo, numbered in order of starting, from 1."""

    number: int
    id: bytes
    address: str
    confirmed: int | None
    """How many nodes confirmed storing its announcement; None where it made none."""
    stored: frozenset[str]
    """The peers of the topic that this node stores for others to find."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a demo did and found; the last member is the one that searched."""

    topic: str
    key: bytes
    private: bool
    """Whether the nodes share a network key."""
    members: tuple[Member, ...]
    found: tuple[str, ...]
    join: Cost
    announce: Cost
    search: Cost

    @property
    def announcers(self) -> list[Member]:
        """The members that announced the topic."""
        return [member for member in self.members if member.confirmed is not None]

    @property
    def holders(self) -> list[Member]:
        """The members that store who announced it."""
        return [member for member in self.members if member.stored]

    @property
    def searcher(self) -> Member:
        """The member that joined last and searched."""
        return self.members[-1]

    @property
    def found_all(self) -> bool:
        """Whether the search gave everyone who announced."""
        return {member.address for member in self.announcers} <= set(self.found)


def run(
    count: int, name: str, network_key: list[bytes] | None, step: Callable[[str], None]
) -> Outcome:
    """Start `count` nodes, let some announce and the last one search, and close them all.

    Before each of its `steps(count)` steps it calls `step` with what comes now.
    """
    key = topic(name)
    swarms: list[Swarm] = []
    joins: list[Cost] = []
    announces: list[Cost] = []
    confirmed: dict[Swarm, int] = {}

    with ExitStack() as stack:

        def start() -> Swarm:
            step(f"node {len(swarms) + 1} joins")
            swarm = stack.enter_context(Swarm(host=HOST, network_key=network_key, config=CONFIG))
            if swarms:
                joins.append(_measure(swarm, swarm.bootstrap, swarms[0].address)[1])
            swarms.append(swarm)
            return swarm

        for _ in range(count - 1):
            start()

        # The farthest announce, so that those who announce and those who store are not the same;
        # never the first, whose address the searcher is told.
        far = sorted(swarms[1:], key=lambda swarm: xor_distance(swarm.id, key))[-ANNOUNCERS:]
        for swarm in far:
            step(f"node {swarms.index(swarm) + 1} announces")
            confirmed[swarm], cost = _measure(swarm, swarm.announce_peer, key)
            announces.append(cost)

        searcher = start()
        step(f"node {count} searches")
        found, search = _measure(searcher, searcher.get_peers, key)

        return Outcome(
            topic=name,
            key=key,
            private=network_key is not None,
            members=tuple(
                Member(
                    number=number,
                    id=swarm.id,
                    address=_address(swarm.address),
                    confirmed=confirmed.get(swarm),
                    stored=_stored(swarm, key),
                )
                for number, swarm in enumerate(swarms, 1)
            ),
            found=tuple(map(_address, found)),
            join=_total(joins),
            announce=_total(announces),
            search=search,
        )


def steps(count: int) -> int:
    """How many steps `run(count, ...)` takes."""
    return count + ANNOUNCERS + 1


def _measure(
    swarm: Swarm, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> tuple[T, Cost]:
    packets = _packets(swarm)
    began = time.perf_counter()
    result = call(*args, **kwargs)
    milliseconds = (time.perf_counter() - began) * 1000
    return result, Cost(milliseconds, _packets(swarm) - packets)


def _packets(swarm: Swarm) -> int:
    stats = swarm.stats()
    return sum(stats.packets_in.values()) + sum(stats.packets_out.values())


def _total(costs: Iterable[Cost]) -> Cost:
    costs = list(costs)
    return Cost(sum(cost.milliseconds for cost in costs), sum(cost.packets for cost in costs))


def _stored(swarm: Swarm, key: bytes) -> frozenset[str]:
    if not swarm.stats().records:
        return frozenset()
    # A lookup without time gives what this node stores itself.
    return frozenset(map(_address, swarm.get_peers(key, timeout=0)))


def _address(address: tuple[str, int]) -> str:
    ip, port = address
    return f"{ip}:{port}"


def _encodable(ctx: click.Context, param: click.Parameter, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{name!r} is not valid UTF-8 text.") from None
    return name


@click.command("demo")
@click.option(
    "--nodes",
    metavar="N",
    type=click.IntRange(ANNOUNCERS + 2, 1000),
    default=20,
    show_default=True,
    help="How many nodes to start.",
)
@click.option(
    "--topic",
    "name",
    metavar="NAME",
    default="demo",
    show_default=True,
    callback=_encodable,
    help="What they announce.",
)
@keys.option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.pass_context
def command(
    ctx: click.Context,
    nodes: int,
    name: str,
    network_key: list[bytes] | None,
    as_json: bool,
) -> None:
    """Start a local network, announce, find, and show what happened.

    All nodes live in this process on 127.0.0.1; nothing leaves this machine.
    """
    if as_json:
        outcome = run(nodes, name, network_key, lambda step: None)
        click.echo(json.dumps(_figures(outcome)))
    elif _can_draw():
        console = Console(highlight=False)
        columns = TextColumn("{task.description}"), BarColumn()
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=steps(nodes))
            outcome = run(
                nodes,
                name,
                network_key,
                lambda step: progress.update(task, description=step, advance=1),
            )
        console.print(_picture(outcome))
    else:
        click.echo(f"starting {nodes} nodes on {HOST}")
        outcome = run(nodes, name, network_key, lambda step: None)
        click.echo("\n".join(_lines(outcome)))
    ctx.exit(0 if outcome.found_all else 1)


def _can_draw() -> bool:
    terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return terminal and sys.stdout.encoding.lower().startswith("utf")


def _figures(outcome: Outcome) -> dict[str, object]:
    costs = {"join": outcome.join, "announce": outcome.announce, "search": outcome.search}
    return {
        "nodes": len(outcome.members),
        "topic": outcome.topic,
        "private": outcome.private,
        "announced": [member.address for member in outcome.announcers],
        "stored_on": [member.address for member in outcome.holders],
        "found": list(outcome.found),
        "found_all": outcome.found_all,
        "milliseconds": {name: round(cost.milliseconds, 3) for name, cost in costs.items()},
        "packets": {name: cost.packets for name, cost in costs.items()},
    }


class _Role(NamedTuple):
    mark: str
    style: str


_PLAIN = _Role("○", "dim")
_ANNOUNCER = _Role("▲", "green")
_HOLDER = _Role("●", "yellow")
_SEARCHER = _Role("★", "magenta")
_TOPIC = _Role("◆", "cyan")


class _Part(NamedTuple):
    """One part of the story, which the picture and the plain lines tell alike."""

    role: _Role
    headline: str
    cost: Cost | None = None
    rows: tuple[tuple[Member, str], ...] = ()

    def lines(self) -> list[str]:
        """What is said below the headline."""
        lines = [f"  node {m.number:<3} {m.address:<15}  {note}" for m, note in self.rows]
        if self.cost is not None:
            cost = f"in {self.cost.milliseconds:,.1f} ms with {self.cost.packets:,} packets"
            lines.insert(0, f"  {cost}")
        return lines


def _story(outcome: Outcome) -> tuple[_Part, ...]:
    announcers, holders, searcher = outcome.announcers, outcome.holders, outcome.searcher
    return (
        _Part(
            _PLAIN,
            f"{len(outcome.members)} nodes joined{' a private network' if outcome.private else ''}",
            outcome.join,
        ),
        _Part(
            _ANNOUNCER,
            f"{len(announcers)} announced the topic",
            outcome.announce,
            tuple((member, f"{member.confirmed} confirmed") for member in announcers),
        ),
        _Part(
            _HOLDER,
            f"{len(holders)} store it: the {CONFIG.k} with the nearest ids",
            rows=tuple((member, f"stores {len(member.stored)}") for member in holders),
        ),
        _Part(
            _SEARCHER,
            f"node {searcher.number}, the last to join, searched",
            outcome.search,
            ((searcher, f"found {len(outcome.found)}"),),
        ),
    )


def _meaning(outcome: Outcome) -> str:
    newcomer, asked = outcome.searcher.number, repr(outcome.topic)
    if outcome.found_all:
        return (
            f"Node {newcomer} knew one address and the name {asked}, and found all "
            f"{len(outcome.announcers)} who announced it, with no server. "
            "The same from Python:"
        )
    return (
        f"Node {newcomer} did not find everyone who announced {asked}: does a firewall drop "
        f"UDP on {HOST}? The same from Python:"
    )


def _snippet(outcome: Outcome) -> str:
    key = ", network_key=key" if outcome.private else ""
    return SNIPPET.replace('host="127.0.0.1"', f'host="127.0.0.1"{key}')


def _lines(outcome: Outcome) -> list[str]:
    told = [line for part in _story(outcome) for line in (part.headline, *part.lines())]
    return [*told, _meaning(outcome), *(f"  {line}" for line in _snippet(outcome).splitlines())]


def _picture(outcome: Outcome) -> RenderableType:
    story = Text("\n").join(
        Text.assemble(
            (f"{part.role.mark} {part.headline}", part.role.style),
            *(f"\n{line}" for line in part.lines()),
        )
        for part in _story(outcome)
    )
    panel = Panel(
        Columns([_ring(outcome), story], padding=(0, 2)),
        title=Text(f"kadepy demo: topic {outcome.topic!r}"),
        width=80,
        subtitle="nodes clockwise by id, ◆ the id of the topic",
    )
    snippet = Syntax(
        _snippet(outcome), "python", theme="ansi_dark", background_color="default", word_wrap=True
    )
    return Group(panel, Text(_meaning(outcome)), snippet)


class _Canvas:
    """A grid of characters for glyphs, each of 2 by 4 Braille dots for lines."""

    DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))

    def __init__(self, columns: int, rows: int) -> None:
        self.cells = [[(" ", "")] * columns for _ in range(rows)]

    def line(self, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
        """Draw from dot to dot."""
        length = max(1, math.ceil(math.dist(start, end)))
        for i in range(length + 1):
            share = i / length
            x = round(start[0] + (end[0] - start[0]) * share)
            y = round(start[1] + (end[1] - start[1]) * share)
            self.dot(x, y, style)

    def dot(self, x: int, y: int, style: str) -> None:
        row = self.cells[y // 4]
        old = ord(row[x // 2][0])
        bits = old - 0x2800 if 0x2800 <= old < 0x2900 else 0
        row[x // 2] = (chr(0x2800 + (bits | self.DOTS[y % 4][x % 2])), style)

    def write(self, dot: tuple[float, float], text: str, style: str) -> None:
        """Write text centred on a dot."""
        x, y = dot
        column = round(x / 2 - len(text) / 2)
        for i, letter in enumerate(text):
            self.cells[int(y) // 4][column + i] = (letter, style)

    def text(self) -> Text:
        return Text("\n").join(Text.assemble(*row) for row in self.cells)


def _ring(outcome: Outcome) -> Text:
    columns, rows, radius = 33, 16, 24
    slots = sorted([*(member.id for member in outcome.members), outcome.key])

    def place(key: bytes, radius: int = radius) -> tuple[float, float]:
        angle = 2 * math.pi * slots.index(key) / len(slots)
        return columns + radius * math.sin(angle), 2 * rows - radius * math.cos(angle)

    canvas = _Canvas(columns, rows)
    for holder in outcome.holders:
        for announcer in outcome.announcers:
            if announcer.address in holder.stored:
                canvas.line(place(announcer.id), place(holder.id), _ANNOUNCER.style)
    for holder in outcome.holders:
        canvas.line(place(outcome.searcher.id), place(holder.id), _SEARCHER.style)

    roles = dict.fromkeys(outcome.members, _PLAIN)
    roles |= dict.fromkeys(outcome.holders, _HOLDER)
    roles |= dict.fromkeys(outcome.announcers, _ANNOUNCER)
    roles[outcome.searcher] = _SEARCHER
    # On a crowded ring what matters is written last, over the rest, and numbers have no room.
    for member, role in sorted(roles.items(), key=lambda item: item[1] is not _PLAIN):
        canvas.write(place(member.id), *role)
        if len(slots) <= 32:
            canvas.write(place(member.id, radius + 6), str(member.number), role.style)
    canvas.write(place(outcome.key), *_TOPIC)
    return canvas.text()
