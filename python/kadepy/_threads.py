"""Real threads and locks, also where a monkey patch has put greenlets in their place.

gevent and eventlet do that, before this is imported or afterwards.
"""

from __future__ import annotations

import _thread
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any


def are_green() -> bool:
    """Whether what `threading` starts is a greenlet."""
    # By the locks, for debuggers patch what starts threads, and they stay threads.
    return type(threading.Lock()).__module__ != "_thread"


def _unpatched() -> ModuleType:
    if not are_green():
        return _thread
    from importlib.machinery import BuiltinImporter
    from importlib.util import module_from_spec

    # A patch replaces names in a module; another copy of that has them as they were.
    spec = BuiltinImporter.find_spec("_thread")
    assert spec is not None, "it is built in"
    copy = module_from_spec(spec)
    BuiltinImporter.exec_module(copy)
    return copy


_real = _unpatched()
_start = _real.start_new_thread
Lock: Callable[[], threading.Lock] = _real.allocate_lock


def start(
    function: Callable[..., object], args: tuple[Any, ...], name: str, *, daemon: bool = True
) -> None:
    """Starts a thread; where `threading` gives none, it has no name and is a daemon."""
    if are_green():
        _start(function, args)
    else:
        threading.Thread(target=function, args=args, name=name, daemon=daemon).start()
