"""What nodes log, whenever `logging` is set up; what the lines say is left to the tests of what
they tell of."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Child, RawNode

Start = Callable[..., Child]

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")

PRELUDE = """
import os, sys, threading
from kadepy import Config, Swarm

silent = ("127.0.0.1", int(sys.argv[1]))

def lonely():
    # It warns at once, and a second later again.
    return Swarm(host="127.0.0.1", bootstrap=[silent], config=Config(request_timeout=0.2))

class Lines:
    def __init__(self, heading):
        self.heading, self.has_come = heading, threading.Event()

    def write(self, line):
        if "no bootstrap contact" in line:
            print(self.heading, flush=True)
            self.has_come.set()

    def flush(self):
        pass
"""

WAYS = {
    "before the node": """
import logging
seen = Lines("seen")
logging.basicConfig(stream=seen)
node = lonely()
seen.has_come.wait()
""",
    "after the node": """
node = lonely()
import logging
seen = Lines("seen")
logging.basicConfig(stream=seen)
seen.has_come.wait()
""",
    "twice": """
import logging
first, second = Lines("first"), Lines("seen")
logging.basicConfig(stream=first)
node = lonely()
first.has_come.wait()
logging.basicConfig(stream=second, force=True)
second.has_come.wait()
""",
    "never": """
seen = sys.stderr = Lines("seen")
node = lonely()
seen.has_come.wait()
sys.stderr = sys.__stderr__
""",
}


@pytest.mark.parametrize("when", WAYS)
def test_lines_are_seen_when_logging_is_set_up(start: Start, raw: RawNode, when: str) -> None:
    child = start(PRELUDE + WAYS[when] + "node.close()", raw.port)
    while (line := child.line()) != "seen":
        assert line == "first"
    assert (child.wait(), child.stderr) == (0, "")


def test_the_level_is_the_logger_s_when_the_line_is_written(start: Start) -> None:
    script = """
import logging
joined = threading.Event()
class Seen(logging.Handler):
    def emit(self, record):
        text = record.getMessage().split(": ", 1)[1]
        print(record.levelname, record.threadName, text, flush=True)
        joined.set()
logging.getLogger("kadepy").addHandler(Seen())
with Swarm(host="127.0.0.1") as first:
    with Swarm(host="127.0.0.1", bootstrap=[first.address]) as second:
        second.ping(first.address)
    assert not joined.wait(0.2)
    logging.getLogger("kadepy").setLevel("INFO")
    with Swarm(host="127.0.0.1", bootstrap=[first.address]) as second:
        joined.wait()
"""
    child = start(PRELUDE + script, 1)
    assert child.line() == "INFO kadepy-log joined; contacts: 1"
    assert (child.wait(), child.stderr) == (0, "")


def test_one_thread_writes_the_lines_of_all_nodes(start: Start, raw: RawNode) -> None:
    script = """
nodes = [lonely() for _ in range(20)]
print(sorted(thread.name for thread in threading.enumerate()))
for node in nodes:
    node.close()
"""
    child = start(PRELUDE + script, raw.port)
    assert child.line() == "['MainThread', 'kadepy-log']"
    assert child.wait() == 0


def test_the_last_line_is_written_before_the_process_ends(start: Start, tmp_path: Path) -> None:
    script = """
path = sys.argv[2]
node = Swarm(host="127.0.0.1", state_path=path)
os.unlink(path)
os.mkdir(path)
"""
    child = start(PRELUDE + script, 1, tmp_path / "node.state")
    assert child.wait() == 0
    assert child.stderr.startswith("node on port ")
    assert "cannot write the state file" in child.stderr


def test_a_handler_that_hangs_does_not_keep_a_process(start: Start, raw: RawNode) -> None:
    script = """
import logging
entered = threading.Event()
class Hanging(logging.Handler):
    def emit(self, record):
        entered.set()
        threading.Event().wait()
    def createLock(self):
        self.lock = None
logging.basicConfig(handlers=[Hanging()])
node = lonely()
entered.wait()
print("ready")
sys.exit(3)
"""
    child = start(PRELUDE + script, raw.port)
    assert child.line() == "ready"
    assert (child.wait(3), child.stderr) == (3, "")


@on_posix
def test_a_forked_child_logs_what_its_own_nodes_tell(start: Start, raw: RawNode) -> None:
    script = """
import logging
parent = lonely()
if (child := os.fork()) == 0:
    seen = Lines("seen")
    logging.basicConfig(stream=seen)
    node = lonely()
    seen.has_come.wait()
    node.close()
    sys.exit(4)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
parent.close()
"""
    options = ["-W", "ignore::DeprecationWarning"]
    child = start(PRELUDE + script, raw.port, options=options)
    assert child.line() == "seen"
    assert child.line() == "4"
    assert child.wait() == 0


def test_what_a_callback_raises_is_seen_without_any_set_up(start: Start) -> None:
    script = """
told = threading.Event()
def callback(*packet):
    if packet[4] == b"bad":
        raise ValueError("from the callback")
    told.set()
with Swarm(host="127.0.0.1") as node, Swarm(host="127.0.0.1") as other:
    node.set_callback(callback)
    other.send(node.address, 20, b"bad")
    other.send(node.address, 20, b"good")
    told.wait()
"""
    child = start(PRELUDE + script, 1)
    assert child.wait() == 0
    assert "raised an exception\nTraceback (most recent call last):\n" in child.stderr
    assert child.stderr.endswith("\nValueError: from the callback\n")
