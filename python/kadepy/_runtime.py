"""What the core needs of the interpreter: a thread for callbacks, and hooks for exit and fork.

The loop over callbacks is Python, so that no Rust frame is on the stack while one runs: a thread
that the exiting interpreter kills inside a callback then ends quietly.
"""

from __future__ import annotations

import os
import threading

from kadepy import _core, _log, _threads
from kadepy._types import ClosedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from kadepy._types import Node


_is_exiting = False


def start_dispatcher(notices: _core.Notices, name: str) -> None:
    """Starts the thread that runs what a node has for Python."""
    _threads.start(_dispatch, (notices,), name)


def _dispatch(notices: _core.Notices) -> None:
    # What has been called is let go of before the next wait.
    while _call_next(notices):
        pass


def _call_next(notices: _core.Notices) -> bool:
    work = notices.take()
    if work is not None:
        call(notices, *work)
    return work is not None


def call(
    owner: _core.Notices | _core.Node, function: Callable[..., object], args: tuple[object, ...]
) -> None:
    """Calls a function of the user's; what it raises is logged and counted."""
    try:
        function(*args)
    except BaseException as error:
        # What a function was doing with a node when that was closed is no fault of its own.
        if not (isinstance(error, ClosedError) and owner.closed):
            owner.count_error()
            line = "node on port %d: %r raised an exception"
            _log.write(_log.ERROR, line, owner.port, function, error=error)


def is_async(callback: object) -> bool:
    """Whether calling it would only make a coroutine."""
    import functools
    import inspect

    while isinstance(callback, functools.partial):
        callback = callback.func
    return any(
        inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        for function in (callback, type(callback).__call__)
    )


def install_hooks() -> None:
    """Has every node closed before the interpreter ends, and left to the parent in a fork."""
    import atexit

    # Before threading's own wait for the threads that hang in a lookup, where there is such a
    # hook; atexit's come after it, and also where a monkey patch has switched threading's off.
    if hasattr(threading, "_register_atexit"):
        threading._register_atexit(_close_all)
    atexit.register(_close_all)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_leave_to_parent)


def _close_all() -> None:
    global _is_exiting
    if _is_exiting:
        return
    _is_exiting = True
    daemons = [thread.ident for thread in threading.enumerate() if thread.daemon]
    _core._close_all([ident for ident in daemons if ident is not None])
    _log.finish()


def _leave_to_parent() -> None:
    _log.forget()
    descriptors = _core._abandon_all()
    if not descriptors:
        return
    # Closing would free the numbers for other files, which the nodes would then close once more.
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def print_table(own_id: bytes, nodes: list[Node]) -> None:
    """Prints a routing table: a line for each contact, the nearest to `own_id` first."""
    print(f"node {own_id.hex()}: {len(nodes)} contact{'' if len(nodes) == 1 else 's'}")
    own = int.from_bytes(own_id)
    for node in sorted(nodes, key=lambda node: own ^ int.from_bytes(node.id)):
        shared = 256 - (own ^ int.from_bytes(node.id)).bit_length()
        print(f"  {node.id.hex()}  {shared:3} bits shared  {node.ip}:{node.port}")
