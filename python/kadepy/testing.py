"""A network on this machine, for tests of programs that use KadePy, and its pytest fixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from kadepy.swarm import Swarm

__all__ = ["local_network"]

# As many contacts as fit into a bucket: in a network of that size everyone knows everyone.
_CONTACTS = 20


@contextmanager
def local_network(nodes: int = 5, **options: Any) -> Iterator[list[Swarm]]:
    """A network of its own on 127.0.0.1, which is closed at the end of the block.

    All its nodes have joined; up to 21 of them all know each other. A program under test, with
    threads or asyncio, takes part with the address of any of them as its ``bootstrap``.

    Args:
        nodes: how many, 1 or more.
        options: arguments of each `Swarm`, such as ``network_key`` or ``config``.

    Returns:
        The nodes, as a list of `Swarm`.

    >>> from kadepy import topic
    >>> from kadepy.testing import local_network
    >>> with local_network(5) as swarms:
    ...     swarms[0].announce_peer(topic("chess"), 4000)
    ...     swarms[3].get_peers(topic("chess"))
    4
    [Peer(ip='127.0.0.1', port=4000)]
    """
    if isinstance(nodes, bool) or not isinstance(nodes, int):
        raise TypeError(f"nodes must be an int, got {nodes!r}")
    if nodes < 1:
        raise ValueError(f"nodes must be 1 or more, got {nodes}")
    with ExitStack() as stack:
        swarms = [
            stack.enter_context(Swarm(**{"host": "127.0.0.1", **options})) for _ in range(nodes)
        ]
        ring = [swarm.address for swarm in swarms]
        for place, swarm in enumerate(swarms):
            others = ring[place + 1 :] + ring[:place]
            if others:
                swarm.bootstrap(others[:_CONTACTS], timeout=None)
        yield swarms


try:
    import pytest
except ImportError:
    pass
else:
    __all__ += ["kadepy_network"]

    @pytest.fixture
    def kadepy_network() -> Iterator[Callable[..., list[Swarm]]]:
        """Makes networks as `local_network` does, and closes them at the end of the test."""
        with ExitStack() as stack:

            def make(nodes: int = 5, **options: Any) -> list[Swarm]:
                return stack.enter_context(local_network(nodes, **options))

            yield make
