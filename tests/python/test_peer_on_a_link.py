"""A peer at a link-local address: a pair to Python, and to `connect` one with its interface."""

from __future__ import annotations

import copy
import errno
import pickle
import socket
from collections.abc import Callable

import pytest

from kadepy import Peer
from kadepy._types import LinkPeer

PLAIN = Peer("fe80::1%lo", 4000)


def test_it_is_a_pair_like_any_other() -> None:
    peer = LinkPeer("fe80::1%lo", 4000, 1)
    ip, port = peer
    assert (ip, port, len(peer), peer[1], list(peer)) == (*PLAIN, 2, 4000, list(PLAIN))
    assert peer == PLAIN == tuple(peer)
    assert peer in [PLAIN]
    assert peer != Peer("fe80::1%lo", 4001)
    assert {peer, PLAIN, tuple(PLAIN)} == {PLAIN}
    assert sorted([Peer("fe80::2%lo", 1), peer]) == [PLAIN, ("fe80::2%lo", 1)]
    assert (repr(peer), 4000 in peer, 0 in peer) == (repr(PLAIN), True, False)


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))]
)
def test_connect_finds_its_interface(again: Callable[[Peer], Peer]) -> None:
    peer = again(LinkPeer("fe80::1%lo", 4000, socket.if_nameindex()[0][0]))
    assert peer == PLAIN
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        # EINVAL is what the system says where it does not know the interface.
        assert sock.connect_ex(PLAIN) == errno.EINVAL
        assert sock.connect_ex(peer) != errno.EINVAL
