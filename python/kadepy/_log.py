"""The logger ``kadepy``: one thread writes what the nodes of the process have to tell.

Whether a line goes out is decided when it is written, so that `logging` may be set up at any time.
"""

from __future__ import annotations

import _thread
from collections import deque

from kadepy import _core, _threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    _Line = tuple[int, str, tuple[object, ...], BaseException | None]

ERROR = 40
"""`logging.ERROR`, without the import."""


class _Greenlet:
    """Writes lines where a monkey patch has put greenlets in the place of threads.

    There `logging`'s locks are the patch's too: a real thread may wait for one for ever.
    """

    def __init__(self) -> None:
        import socket

        self._lines: deque[_Line] = deque(maxlen=1_000)
        self._is_told = False
        # To wait for a socket lets other greenlets run. The patched function starts a greenlet.
        self._told, self._tell = socket.socketpair()
        _thread.start_new_thread(self._run, ())

    def put(self, line: _Line) -> None:
        """Has a line written; any thread may call it."""
        self._lines.append(line)
        if not self._is_told:
            self._is_told = True
            self._tell.send(b".")

    def write(self) -> None:
        """Writes what waits."""
        while self._lines:
            _write(*self._lines.popleft())

    def _run(self) -> None:
        while self._told.recv(1):
            # First, so that what is put in from now on either is seen below or tells again.
            self._is_told = False
            self.write()


_greenlet: _Greenlet | None = None


def start() -> None:
    """Starts what writes the nodes' lines, unless it runs."""
    global _greenlet
    lines = _core._open_log()
    if lines is not None:
        _greenlet = _Greenlet() if _threads.are_green() else None
        _threads.start(_write_all, (lines,), "kadepy-log")


def finish() -> None:
    """Writes what is left, at the interpreter's exit."""
    if _greenlet is not None:
        _greenlet.write()


def forget() -> None:
    """Leaves what waits to the parent, in a forked child."""
    global _greenlet
    _greenlet = None


def write(level: int, text: str, *args: object, error: BaseException | None = None) -> None:
    """Has a line written, with the traceback of `error`; for the core's threads."""
    if _greenlet is None:
        _write(level, text, args, error)
    else:
        _greenlet.put((level, text, args, error))


def _write_all(lines: _core.Lines) -> None:
    while (line := lines.take()) is not None:
        write(*line)


def _write(level: int, text: str, args: tuple[object, ...], error: BaseException | None) -> None:
    import logging

    try:
        logging.getLogger("kadepy").log(level, text, *args, exc_info=error)
    except Exception as raised:
        # By a filter or handler, of which nothing else could tell. Ctrl-C may come in a greenlet,
        # and is the program's.
        _core._report(raised, _write)
