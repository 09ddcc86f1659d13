"""What the tests are made with: nodes that get closed, raw sockets with deadlines, child processes
and a seed; what they prove is left to the tests."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import itertools
import queue
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

import wire
from hosts import NETWORK
from kadepy import Stats, Swarm
from wire import Packet, Tag, Type

DEADLINE = 20.0
"""Seconds after which what must come counts as lost; far above any bound of the contract, because
the machine may be busy."""

T = TypeVar("T")
Address = tuple[str, int]
Script = Callable[[Packet], Sequence[bytes]]


def wait_until(predicate: Callable[[], object], timeout: float = DEADLINE) -> None:
    pause = threading.Event()
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        pause.wait(0.005)


async def until(predicate: Callable[[], object], timeout: float = DEADLINE) -> None:
    """`wait_until` in a loop that goes on meanwhile."""
    async with asyncio.timeout(timeout):
        while not predicate():
            await asyncio.sleep(0.005)


def dropped_since(before: Stats, after: Stats) -> dict[str, int]:
    """The counters that moved, and by how much."""
    moved = {reason: n - before.dropped[reason] for reason, n in after.dropped.items()}
    return {reason: n for reason, n in moved.items() if n}


def can_bind(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class RawNode:
    """A socket that sends packets as they are, or sealed, and hands out what comes back."""

    def __init__(
        self, node_id: bytes, *, cipher: wire.Clear | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.id = node_id
        self.cipher = cipher or wire.Clear()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.settimeout(DEADLINE)
        self.address: Address = self.socket.getsockname()
        self.port = self.address[1]
        self.listed = (self.id, *self.address)

    def close(self) -> None:
        self.socket.close()

    def send(self, to: Swarm, packet: bytes) -> None:
        self.socket.sendto(self.cipher.seal(packet), to.address)

    def receive(self) -> bytes:
        return self.cipher.open(self.socket.recv(65_535))

    def ask(self, to: Swarm, packet: bytes) -> bytes:
        """The next packet that is no request of the node's own, such as its probe of us."""
        self.send(to, packet)
        while (reply := self.receive())[0] in wire.REQUESTS:
            pass
        return reply

    def round_trip(self, to: Swarm) -> None:
        """After it `to` has taken in all that was sent before."""
        assert self.ask(to, wire.encode(Type.PING, self.id))[0] == Type.PONG

    def expect_pong_next(self, to: Swarm) -> None:
        """Proves without waiting that all sent before brought nothing back, and that `to` lives.

        It asks read-only, so that no probe follows from it, and twice: what the packets before
        caused leaves at the latest with the first answer.
        """
        for _ in range(2):
            txid = secrets.token_bytes(8)
            fields = [(Tag.TXID, txid), (Tag.FLAGS, b"\x01")]
            self.send(to, wire.encode(Type.PING, self.id, fields=fields))
            pong = wire.decode(self.receive())
            assert (pong.type, pong.sender, pong.txid) == (Type.PONG, to.id, txid)


class ScriptedNode(RawNode):
    """A node played by a thread: honest, but for the types that `scripts` answers instead."""

    def __init__(
        self, node_id: bytes, *, v01: bool = False, cipher: wire.Clear | None = None
    ) -> None:
        super().__init__(node_id, cipher=cipher)
        self.v01 = v01
        self.lists: list[wire.Listed] = []
        self.holds: list[Address] = []
        self.scripts: dict[int, Script] = {}
        self.asked: list[Packet] = []
        self.socket.settimeout(None)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.socket.sendto(b"", self.address)
        self._thread.join()
        super().close()

    def asked_for(self, kind: Type) -> list[Packet]:
        return [packet for packet in self.asked if packet.type == kind]

    def reply(
        self, ask: Packet, kind: Type, body: bytes = b"", *fields: tuple[int, bytes]
    ) -> bytes:
        if self.v01 or ask.txid is None:
            return wire.encode(kind, self.id, body)
        return wire.encode(kind, self.id, body, [(Tag.TXID, ask.txid), *fields])

    def honest(self, ask: Packet) -> Sequence[bytes]:
        token = (Tag.TOKEN, b"token of " + self.id[:4])
        match ask.type:
            case Type.PING:
                return [self.reply(ask, Type.PONG)]
            case Type.FIND_NODE:
                return [self.reply(ask, Type.FOUND_NODES, wire.found_nodes(self.lists))]
            case Type.GET_PEERS if self.holds:
                return [self.reply(ask, Type.PEERS, wire.peers(ask.body, self.holds), token)]
            case Type.GET_PEERS:
                return [self.reply(ask, Type.FOUND_NODES, wire.found_nodes(self.lists), token)]
            case Type.ANNOUNCE_PEER if not self.v01:
                return [self.reply(ask, Type.ANNOUNCED, ask.body[:32])]
            case _:
                return []

    def _serve(self) -> None:
        while True:
            try:
                datagram, source = self.socket.recvfrom(65_535)
            except ConnectionResetError:
                continue  # Windows tells this way that an earlier reply found a closed port.
            if source == self.address:
                return
            packet = wire.decode(self.cipher.open(datagram))
            self.asked.append(packet)
            for reply in self.scripts.get(packet.type, self.honest)(packet):
                self.socket.sendto(self.cipher.seal(reply), source)


class Child:
    """A Python process that runs `script` and talks by lines."""

    def __init__(self, options: Sequence[str], script: str, args: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-u", *options, "-c", script, *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self, timeout: float = DEADLINE) -> str:
        line = self._lines.get(timeout=timeout)
        assert line is not None, f"the child ended:\n{self.stderr}"
        return line

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.line()

    def wait(self, timeout: float = DEADLINE) -> int:
        """The exit status; stdin stays open, so that the child ends by itself or not at all."""
        return self.process.wait(timeout)

    def rest(self) -> list[str]:
        """The lines that nobody asked for, after the end of the child."""
        lines = iter(lambda: self._lines.get(timeout=DEADLINE), None)
        return [line for line in lines if line is not None]

    @property
    def stderr(self) -> str:
        return self._log.read_text()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.removesuffix("\n"))
        self._lines.put(None)


Connected = Callable[[list[list[str]], str], Child]


class Run(Protocol):
    """Runs a coroutine function in a loop of its own."""

    def __call__(self, main: Callable[[], Awaitable[T]]) -> T: ...


class Loop:
    """Runs programs on one of asyncio's kinds, in debug mode; what one leaves behind that raises
    later, or is never looked at, fails the test."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.told: list[dict[str, Any]] = []

    def __call__(self, main: Callable[[], Awaitable[T]]) -> T:
        results: list[T] = []

        async def guarded() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: self.told.append(context))
            loop.set_debug(True)
            results.append(await main())

        self._run(guarded)
        return results[0]

    def check(self) -> None:
        gc.collect()
        assert self.told == []

    def _run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        match self.kind:
            case "anyio":
                import anyio

                anyio.run(main, backend="asyncio")
            case "uvloop":
                import uvloop

                uvloop.run(main())
            case _:
                asyncio.run(main())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed", type=int, default=secrets.randbits(32), help="seed of the random tests"
    )
    parser.addoption(
        "--cycles", type=int, default=1_500, help="how many nodes come and go; 10,000 for a release"
    )


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.getoption('seed')} (again with --seed=)"


@pytest.fixture
def run() -> Iterator[Run]:
    loop = Loop("asyncio")
    yield loop
    loop.check()


@pytest.fixture(params=["asyncio", "uvloop", "anyio"])
def run_on_each(request: pytest.FixtureRequest) -> Iterator[Run]:
    if request.param != "asyncio" and importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    loop = Loop(request.param)
    yield loop
    loop.check()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    seed = request.config.getoption("seed")
    print(f"--seed={seed}")
    return random.Random(seed)


@pytest.fixture
def make_swarm() -> Iterator[Callable[..., Swarm]]:
    made: list[Swarm] = []

    def make(*args: object, **kwargs: object) -> Swarm:
        made.append(Swarm(*args, **{"host": "127.0.0.1", **kwargs}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for swarm in made:
        swarm.close()


@pytest.fixture
def make_network(make_swarm: Callable[..., Swarm]) -> Callable[[int], list[Swarm]]:
    """Nodes that all know of each other through the first."""

    def make(count: int) -> list[Swarm]:
        swarms = [make_swarm() for _ in range(count)]
        for swarm in swarms[1:]:
            swarm.bootstrap(swarms[0].address)
        return swarms

    return make


@pytest.fixture
def swarm(make_swarm: Callable[..., Swarm]) -> Swarm:
    return make_swarm()


@pytest.fixture
def make_raw() -> Iterator[Callable[..., RawNode]]:
    made: list[RawNode] = []

    def make(node_id: bytes | None = None, **options: Any) -> RawNode:
        made.append(RawNode(node_id or secrets.token_bytes(32), **options))
        return made[-1]

    yield make
    for raw in made:
        raw.close()


@pytest.fixture
def raw(make_raw: Callable[..., RawNode]) -> RawNode:
    return make_raw()


@pytest.fixture
def make_node() -> Iterator[Callable[..., ScriptedNode]]:
    made: list[ScriptedNode] = []

    def make(node_id: bytes | None = None, **options: Any) -> ScriptedNode:
        made.append(ScriptedNode(node_id or secrets.token_bytes(32), **options))
        return made[-1]

    yield make
    for node in made:
        node.close()


@pytest.fixture
def node(make_node: Callable[..., ScriptedNode]) -> ScriptedNode:
    return make_node()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Starts a child process that is killed at the end of the test if it still runs.

    Several threads may call it at once.
    """
    made: list[Child] = []
    numbers = itertools.count()

    def make(script: str, *args: object, options: Sequence[str] = ()) -> Child:
        log = tmp_path / f"stderr of child {next(numbers)}"
        made.append(Child(options, script, [str(arg) for arg in args], log))
        return made[-1]

    yield make
    for child in made:
        child.close()


@pytest.fixture
def connected(start: Callable[..., Child]) -> Connected:
    """Runs a script that has `hosts` with these addresses, on one switch."""

    def begin(addresses: list[list[str]], script: str) -> Child:
        child = start(f"HOSTS = {addresses!r}\n{NETWORK}{script}")
        if (line := child.line()) != "ready":
            pytest.skip(line)
        return child

    return begin
