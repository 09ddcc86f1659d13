"""`AsyncSwarm`: one node of the network, as an asyncio program holds it.

The work is done on the node's own thread. What it has for a loop, the node's dispatcher hands over
by one wake-up for all that has come until the loop runs.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from kadepy import _core, _threads
from kadepy._base import BaseMembership, BaseSwarm, contacts
from kadepy._types import ClosedError, Packet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Self

    from typing_extensions import Buffer

    from kadepy._base import _Address, _Contact
    from kadepy._types import Node, Peer

__all__ = ["AsyncMembership", "AsyncSwarm"]

_T = TypeVar("_T")


class AsyncSwarm(BaseSwarm):
    """One node, for asyncio: `Swarm` with ``await`` where that blocks.

    Arguments, results and errors are those of `Swarm`. To cancel an ``await``, or to leave an
    ``async for``, ends the work on the network behind it. A node belongs to no loop: any may use
    it, also several at a time, and one that ends before the node harms nothing.

    In place of a callback there is `packets`.

    >>> import asyncio
    >>> from kadepy import AsyncSwarm, topic
    >>> async def main():
    ...     first, second = AsyncSwarm(host="127.0.0.1"), AsyncSwarm(host="127.0.0.1")
    ...     async with first, second:
    ...         await second.bootstrap(first.address)
    ...         await second.announce_peer(topic("chess"), 4000)
    ...         async with asyncio.timeout(5):
    ...             async for peer in first.iter_peers(topic("chess")):
    ...                 print(peer)
    >>> asyncio.run(main())
    Peer(ip='127.0.0.1', port=4000)
    """

    _use = "an async with block"
    _mailbox: weakref.ref[_Mailbox] | None = None
    _feed: _Feed | None = None

    async def bootstrap(
        self,
        ip: _Contact | Iterable[_Contact],
        port: int | None = None,
        *,
        timeout: float | None = 5.0,
    ) -> int:
        """Joins the network through contacts; see `Swarm.bootstrap`."""
        return await self._result(self._node.bootstrap(contacts(ip), port, timeout))

    async def ping(
        self, ip: str | _Address, port: int | None = None, *, timeout: float | None = 2.0
    ) -> float:
        """The round trip to a node in seconds; see `Swarm.ping`."""
        return await self._result(self._node.ping(ip, port, timeout))

    async def find_node(self, target: Buffer, *, timeout: float | None = 10.0) -> list[Node]:
        """The nodes nearest to an id; see `Swarm.find_node`."""
        return await self._result(self._node.find_node(target, timeout))

    async def find_node_iterative(
        self, target_id: Buffer, timeout: float | None = 2.0
    ) -> list[tuple[str, int]]:
        """The nodes nearest to an id, as `(ip, port)` pairs."""
        return [(node.ip, node.port) for node in await self.find_node(target_id, timeout=timeout)]

    async def get_peers(self, topic: Buffer, timeout: float | None = 10.0) -> list[Peer]:
        """The peers that announced a topic; see `Swarm.get_peers`."""
        await asyncio.sleep(0)
        return [peer async for peer in self.iter_peers(topic, timeout=timeout)]

    def iter_peers(self, topic: Buffer, *, timeout: float | None = 10.0) -> _AsyncPeers:
        """The peers that announced a topic, each as it arrives; see `Swarm.iter_peers`.

        The lookup begins at once. Leaving the loop early and dropping the iterator ends it, and so
        does its `aclose()`.
        """
        return _AsyncPeers(self, self._node.iter_peers(topic, timeout))

    async def announce_peer(
        self, topic: Buffer, port: int | None = None, *, timeout: float | None = 10.0
    ) -> int:
        """Stores this host as a peer of a topic; see `Swarm.announce_peer`."""
        return await self._result(self._node.announce_peer(topic, port, timeout))

    announce = announce_peer

    def join(self, topic: Buffer, port: int | None = None) -> AsyncMembership:
        """Joins a topic: keeps this host announced as a peer of it, and keeps finding the others.

        See `Swarm.join`. The peers come out of the result by ``async for``.
        """
        members = self._node.join_topic(topic, port, None)
        return AsyncMembership(self, members, self._memberships)

    def packets(self) -> _Packets:
        """Every packet that comes in from now on, until the node is closed.

        It is this call that counts: make it before anything is sent that is to be answered.
        Each iterator gets all of them, until it is dropped or its `aclose()` is called. It keeps
        `Config.callback_queue` packets for a loop that is slow to take them; then the oldest is
        dropped, and counted in ``stats().callback_dropped``.

        Returns:
            An async iterator over packets: ``(sender_id, msg_type, ip, port, payload)``, as a
            callback of `Swarm` gets them.
        """
        # In one step, for another thread's loop may do the same.
        feed = vars(self).setdefault("_feed", _Feed(self._node))
        stream = _Packets(self, feed)
        feed.add(stream)
        return stream

    async def save(self) -> None:
        """Saves the node's id and contacts to the file at `state_path` now; see `Swarm.save`."""
        await asyncio.get_running_loop().run_in_executor(None, self._node.save)

    async def close(self) -> None:
        """Ends the node; see `Swarm.close`."""
        # It may take two seconds, though nearly always a millisecond. The loop's own threads may
        # all be busy, and whoever awaits this may be cancelled.
        closed = asyncio.Event()
        name = f"kadepy-close-{self.port}"
        _threads.start(self._close, (self._into_loop(closed.set),), name, daemon=False)
        await closed.wait()

    def _close(self, tell: Callable[[], None]) -> None:
        self._node.close()
        # Afterwards, for now no stream can begin any more.
        if self._feed is not None:
            self._feed.end()
        tell()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _result(self, operation: _core.Operation[_T]) -> _T:
        ready = asyncio.Event()
        try:
            if operation.listen(self._into_loop(ready.set)):
                # Every await lets other tasks run, as one that had to wait does.
                await asyncio.sleep(0)
            else:
                await ready.wait()
            return operation.result_now()
        finally:
            operation.close()

    def _into_loop(self, wake: Callable[[], object]) -> Callable[[], None]:
        """What any thread calls to have `wake` called in the running loop."""
        loop = asyncio.get_running_loop()
        mailbox = self._mailbox() if self._mailbox is not None else None
        if mailbox is None or mailbox.loop is not loop:
            mailbox = _Mailbox(loop)
            # Not to keep a loop alive: who waits in it holds the mailbox.
            self._mailbox = weakref.ref(mailbox)
        return partial(mailbox.put, wake)


class AsyncMembership(BaseMembership):
    """A topic that an `AsyncSwarm` has joined: stays announced and looked up, until it is left.

    `AsyncSwarm.join` makes it. ``async for`` gives each peer once, those known first, then each as
    it comes, until the topic is left. As an async context manager it is left at the end of the
    block.
    """

    def __init__(self, swarm: AsyncSwarm, members: _core.Members, kept: set[_core.Members]) -> None:
        super().__init__(members, kept)
        self._swarm = swarm
        self._bell = _Bell()

    def __aiter__(self) -> _AsyncMembers:
        return _AsyncMembers(self._swarm, self._members, self._bell)

    def leave(self) -> None:
        """Ends it; see `Membership.leave`."""
        super().leave()
        self._bell.ring()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()


class _AsyncMembers:
    def __init__(self, swarm: AsyncSwarm, members: _core.Members, bell: _Bell) -> None:
        self._swarm = swarm
        self._members = members
        self._bell = bell
        self._ready: deque[Peer] = deque()
        self._last = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Peer:
        self._members.listen(self._bell.ring)
        return await self._bell.wait(self._swarm, self._take)

    def _take(self) -> Peer | None:
        is_over = self._members.closed
        peers, self._last = self._members.after(self._last)
        self._ready.extend(peers)
        if self._ready:
            return self._ready.popleft()
        if is_over:
            raise StopAsyncIteration
        return None


class _Mailbox:
    """Calls that a loop is to make, put in by other threads; one wake-up serves all that wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: deque[Callable[[], object]] = deque()
        self._is_told = False

    def put(self, call: Callable[[], object]) -> None:
        self._waiting.append(call)
        if self._is_told:
            return
        self._is_told = True
        try:
            self.loop.call_soon_threadsafe(self._empty)
        except RuntimeError:
            # The loop is closed, and with it all that waited in it.
            self._waiting.clear()
            self._is_told = False

    def _empty(self) -> None:
        # First, so that what is put in from now on either is seen below or tells again.
        self._is_told = False
        while self._waiting:
            self._waiting.popleft()()


class _Bell:
    """Wakes all who wait, in whatever loop; any thread may ring it."""

    def __init__(self) -> None:
        self._changing = _threads.Lock()
        self._waiting: set[Callable[[], None]] = set()

    def ring(self) -> None:
        with self._changing:
            waiting, self._waiting = self._waiting, set()
        for wake in waiting:
            wake()

    async def wait(self, swarm: AsyncSwarm, take: Callable[[], _T | None]) -> _T:
        """What `take` gives, which is asked again after each ring."""
        while True:
            if (taken := take()) is not None:
                return taken
            rung = asyncio.Event()
            wake = swarm._into_loop(rung.set)
            with self._changing:
                self._waiting.add(wake)
            try:
                # Once more, for what has come before it was heard.
                if (taken := take()) is not None:
                    return taken
                await rung.wait()
            finally:
                with self._changing:
                    self._waiting.discard(wake)


class _AsyncPeers:
    def __init__(self, swarm: AsyncSwarm, peers: _core.Peers) -> None:
        self._swarm = swarm
        self._peers = peers
        self._ready: deque[Peer] = deque()
        self._bell = _Bell()

    def __aiter__(self) -> Self:
        return self

    def __repr__(self) -> str:
        return f"<Async{repr(self._peers)[1:]}"

    async def __anext__(self) -> Peer:
        try:
            # Whether there is something already is seen below.
            self._peers.listen(self._bell.ring)
            return await self._bell.wait(self._swarm, self._take)
        except BaseException:
            self._end()
            raise

    def _take(self) -> Peer | None:
        if not self._ready:
            peers = self._peers.take()
            if peers is None:
                raise StopAsyncIteration
            self._ready.extend(peers)
        return self._ready.popleft() if self._ready else None

    async def aclose(self) -> None:
        """Ends the lookup, if it is still under way."""
        self._ready.clear()
        self._end()

    def _end(self) -> None:
        self._peers.close()
        # Nothing else tells the other tasks that wait for a peer.
        self._bell.ring()


class _Feed:
    """The callback of an `AsyncSwarm`: gives each packet to every open stream."""

    def __init__(self, node: _core.Node) -> None:
        self._node = node
        self._changing = _threads.Lock()
        # Replaced and never changed, for the dispatcher goes through it meanwhile.
        self._streams: tuple[weakref.ref[_Packets], ...] = ()

    def __call__(
        self,
        sender_id: bytes,
        msg_type: int,
        ip: str,
        port: int,
        payload: list[dict[str, bytes | str | int]] | bytes | None,
    ) -> None:
        packet = Packet(sender_id, msg_type, ip, port, payload)
        has_dropped = False
        for reference in self._streams:
            if (stream := reference()) is not None:
                stream.put(packet)
            else:
                has_dropped = True
        # Here and not in a finalizer, which would run anywhere, under the locks too.
        if has_dropped:
            self.remove(None)

    def add(self, stream: _Packets) -> None:
        with self._changing:
            self._streams = (*self._without(None), weakref.ref(stream))
            self._node.set_callback(self)

    def remove(self, stream: _Packets | None) -> None:
        """Lets go of a stream, and of those that were dropped."""
        with self._changing:
            self._streams = self._without(stream)
            if not self._streams:
                with suppress(ClosedError):
                    self._node.set_callback(None)

    def end(self) -> None:
        with self._changing:
            streams = self._streams
        for reference in streams:
            if (stream := reference()) is not None:
                stream.end()

    def _without(self, stream: _Packets | None) -> tuple[weakref.ref[_Packets], ...]:
        return tuple(reference for reference in self._streams if reference() not in (stream, None))


class _Packets:
    def __init__(self, swarm: AsyncSwarm, feed: _Feed) -> None:
        self._swarm = swarm
        self._feed = feed
        self._room = swarm._node.callback_queue
        self._waiting: deque[Packet] = deque()
        self._changing = _threads.Lock()
        self._bell = _Bell()
        self._is_over = False

    def put(self, packet: Packet) -> None:
        with self._changing:
            if self._is_over:
                return
            if len(self._waiting) == self._room:
                self._waiting.popleft()
                self._swarm._node.count_dropped()
            self._waiting.append(packet)
        self._bell.ring()

    def end(self) -> None:
        self._is_over = True
        self._bell.ring()

    def __aiter__(self) -> Self:
        return self

    def __repr__(self) -> str:
        state = " over" if self._is_over else ""
        return f"<Packets of {self._swarm!r}: {len(self._waiting)} waiting{state}>"

    async def __anext__(self) -> Packet:
        return await self._bell.wait(self._swarm, self._take)

    def _take(self) -> Packet | None:
        # Closed also where a fork has left the node to the parent, which nothing tells.
        is_over = self._is_over or self._swarm.closed
        with self._changing:
            if self._waiting:
                return self._waiting.popleft()
        if is_over:
            raise StopAsyncIteration
        return None

    async def aclose(self) -> None:
        """Ends the stream: packets are kept for it no longer."""
        self._feed.remove(self)
        self.end()
        self._waiting.clear()
