"""The state file: nodes that come back by it, and what becomes of it and of them when it is
missing, damaged, or cannot be written; its bytes are left to `tests/state.rs`."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import random
import re
import secrets
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from conftest import DEADLINE, Child, can_bind, wait_until
from kadepy import ClosedError, KadepyError, Swarm

Make = Callable[..., Swarm]
Start = Callable[..., Child]

MAGIC = b"kadepy state 1\n"

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def read_state(path: Path) -> tuple[bytes, int]:
    """The id in a state file and how many contacts; fails where it does not verify."""
    data = path.read_bytes()
    body, checksum = data[:-32], data[-32:]
    assert data.startswith(MAGIC)
    assert hashlib.sha256(body).digest() == checksum
    contacts, rest = divmod(len(body) - 55, 52)
    assert rest == 0
    return body[23:55], contacts


def names(path: Path) -> list[str]:
    """What is in the directory of a state file, apart from the file that its lock is on."""
    return sorted(name for name in os.listdir(path.parent) if not name.endswith(".lock"))


def state_of(node_id: bytes, version: int = 1, contacts: bytes = b"") -> bytes:
    body = b"kadepy state %d\n" % version + bytes(8) + node_id + contacts
    return body + hashlib.sha256(body).digest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    return directory / "node.state"


@pytest.fixture
def port(make_swarm: Make) -> int:
    with make_swarm() as swarm:
        return swarm.port


@pytest.fixture
def mortal(tmp_path: Path) -> None:
    """Skips where permissions do not hold, as for root."""
    closed = tmp_path / "closed"
    closed.touch(0)
    if os.access(closed, os.R_OK):
        pytest.skip("this user may do everything")


# --- coming back ------------------------------------------------------------------------------


def test_a_restart_keeps_the_id_and_joins_without_bootstrap(
    make_network: Callable[[int], list[Swarm]], make_swarm: Make, path: Path
) -> None:
    others = make_network(5)
    with make_swarm(state_path=path, bootstrap=others[0].address) as swarm:
        wait_until(lambda: len(swarm.nodes()) == 5)
    again = make_swarm(state_path=path)
    assert again.id == swarm.id
    # At once: it waits for the contacts of the last run.
    assert again.find_node(others[3].id)
    wait_until(lambda: len(again.nodes()) == 5)


def test_bootstrap_and_the_state_file_work_together(
    make_network: Callable[[int], list[Swarm]], make_swarm: Make, path: Path
) -> None:
    island, *others = (make_swarm(), *make_network(3))
    with make_swarm(state_path=path) as swarm:
        swarm.bootstrap(island.address)
    again = make_swarm(state_path=path, bootstrap=others[0].address)
    wait_until(lambda: len(again.nodes()) == 4)


def test_a_private_node_comes_back(make_swarm: Make, path: Path) -> None:
    key = secrets.token_bytes(32)
    other = make_swarm(network_key=key)
    with make_swarm(network_key=key, state_path=path) as swarm:
        swarm.bootstrap(other.address)
    assert key not in path.read_bytes()
    again = make_swarm(network_key=key, state_path=path)
    assert again.find_node(bytes(31) + b"x")[0].id == other.id


def test_who_reaches_nobody_loses_no_contact(make_swarm: Make, path: Path) -> None:
    with make_swarm() as other, make_swarm(state_path=path) as swarm:
        swarm.bootstrap(other.address)
    for _ in range(3):
        with make_swarm(state_path=path) as again:
            assert again.get_peers(bytes(32), timeout=0.1) == []
        assert read_state(path) == (swarm.id, 1)


def test_a_given_node_id_wins_and_the_contacts_stay(make_swarm: Make, path: Path) -> None:
    other = make_swarm()
    with make_swarm(state_path=path) as swarm:
        swarm.bootstrap(other.address)
    given = secrets.token_bytes(32)
    again = make_swarm(state_path=path, node_id=given)
    assert again.id == given != swarm.id
    assert read_state(path) == (given, 1)
    assert again.find_node(other.id)[0].id == other.id


def test_the_file_is_made_at_once_and_only_its_owner_can_read_it(
    make_swarm: Make, path: Path
) -> None:
    swarm = make_swarm(state_path=path)
    assert read_state(path) == (swarm.id, 0)
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(path) == [path.name]


def test_a_relative_path_stays_what_it_was(
    make_swarm: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    swarm = make_swarm(state_path=path.name)
    path.unlink()
    monkeypatch.chdir(path.parent.parent)
    swarm.save()
    assert read_state(path)[0] == swarm.id


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a name is text")
def test_a_name_that_is_no_text_is_a_name(make_swarm: Make, path: Path) -> None:
    odd = path.with_name(os.fsdecode(b"\xff.state"))
    swarm = make_swarm(state_path=odd)
    assert read_state(odd)[0] == swarm.id


# --- the port ---------------------------------------------------------------------------------


def test_a_restart_keeps_the_port_unless_another_is_asked_for(
    make_swarm: Make, path: Path, port: int
) -> None:
    with make_swarm(state_path=path) as swarm:
        pass
    for _ in range(3):
        with make_swarm(state_path=path) as again:
            assert again.port == swarm.port
    with make_swarm(port, state_path=path) as elsewhere:
        assert elsewhere.port == port
    # The last one counts.
    with make_swarm(state_path=path) as again:
        assert (again.port, again.id) == (port, swarm.id)


def test_a_remembered_port_that_is_taken_gives_another(make_swarm: Make, path: Path) -> None:
    with make_swarm(state_path=path) as swarm:
        pass
    other = make_swarm(swarm.port)
    with make_swarm(state_path=path) as again:
        assert again.port != other.port
        assert again.id == swarm.id
    with pytest.raises(OSError, match="in use"):
        make_swarm(other.port, state_path=path)


def test_a_file_without_a_port_is_read(make_swarm: Make, path: Path) -> None:
    path.write_bytes(state_of(bytes(31) + b"x"))
    with make_swarm(state_path=path) as swarm:
        assert swarm.id == bytes(31) + b"x"
    with make_swarm(state_path=path) as again:
        assert again.port == swarm.port


# --- the lock ---------------------------------------------------------------------------------

HOLDING = """
import sys
from kadepy import Swarm
swarm = Swarm(host="127.0.0.1", state_path=sys.argv[1])
print(swarm.port)
sys.stdin.readline()
"""


def assert_in_use(path: Path) -> None:
    with pytest.raises(OSError, match=re.escape(path.name)) as told:
        Swarm(host="127.0.0.1", state_path=path)
    assert "another node uses" in str(told.value)
    assert "close" in str(told.value)
    assert (told.value.errno, told.value.filename) == (errno.EBUSY, str(path))


def test_a_second_node_of_the_process_is_refused_until_the_first_is_closed(
    make_swarm: Make, path: Path
) -> None:
    for _ in range(20):
        with make_swarm(state_path=path) as swarm:
            assert_in_use(path)
            swarm.save()
            assert_in_use(path)


def test_another_process_s_node_is_refused_and_one_that_was_killed_is_not_in_the_way(
    start: Start, path: Path
) -> None:
    ports = set()
    for _ in range(2):
        child = start(HOLDING, path)
        ports.add(int(child.line()))
        assert_in_use(path)
        child.process.kill()
        child.wait()
    with Swarm(host="127.0.0.1", state_path=path) as swarm:
        assert ports == {swarm.port}


def test_a_node_that_could_not_be_made_holds_no_lock(
    make_swarm: Make, swarm: Swarm, path: Path
) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match="in use"):
            make_swarm(swarm.port, state_path=path)
    with pytest.raises(OSError, match=r"192\.0\.2\.1"):
        Swarm(host="192.0.2.1", state_path=path)
    make_swarm(state_path=path)


def test_a_node_that_is_dropped_lets_go_of_the_lock(path: Path) -> None:
    for _ in range(3):
        swarms = [Swarm(host="127.0.0.1", state_path=path)]
        with pytest.warns(ResourceWarning, match=str(swarms[0].port)):
            swarms.clear()


LOCK_FORK = """
import os, sys, warnings
from kadepy import Swarm

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of a fork beside threads
swarm = Swarm(host="127.0.0.1", state_path=sys.argv[1])
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    try:
        Swarm(host="127.0.0.1", state_path=sys.argv[1])
    except OSError as error:
        print("another node" in str(error))
    swarm.close()
    del swarm
    os.read(reading, 1)
    # What the parent has let go of by now, though this process lives.
    with Swarm(host="127.0.0.1", state_path=sys.argv[1]):
        print("child")
    os._exit(0)
sys.stdin.readline()
try:
    Swarm(host="127.0.0.1", state_path=sys.argv[1])
except OSError as error:
    print("another node" in str(error))
for _ in range(2):
    swarm.close()
    swarm = Swarm(host="127.0.0.1", state_path=sys.argv[1])
swarm.close()
print("parent")
os.write(writing, b"x")
os.waitpid(child, 0)
"""


@on_posix
def test_a_forked_child_neither_holds_the_lock_nor_lets_go_of_it(start: Start, path: Path) -> None:
    parent = start(LOCK_FORK, path)
    assert parent.line() == "True"
    parent.tell()
    assert [parent.line() for _ in range(3)] == ["True", "parent", "child"]
    assert (parent.wait(), parent.stderr) == (0, "")


KILLED_PARENT = """
import os, sys, time, warnings
from kadepy import Swarm

warnings.simplefilter("ignore", DeprecationWarning)
swarm = Swarm(host="127.0.0.1", state_path=sys.argv[1])
if os.fork() == 0:
    print(os.getpid())
    time.sleep(600)
sys.stdin.readline()
"""


@on_posix
def test_a_child_that_outlives_a_killed_parent_does_not_keep_its_lock(
    start: Start, make_swarm: Make, path: Path
) -> None:
    parent = start(KILLED_PARENT, path)
    orphan = int(parent.line())
    try:
        assert_in_use(path)
        parent.process.kill()
        parent.process.wait()
        make_swarm(state_path=path)
    finally:
        os.kill(orphan, signal.SIGKILL)


# --- saving -----------------------------------------------------------------------------------


def test_save_writes_now(make_swarm: Make, path: Path) -> None:
    other, swarm = make_swarm(), make_swarm(state_path=path)
    swarm.bootstrap(other.address)
    assert read_state(path)[1] == 0
    swarm.save()
    assert read_state(path)[1] == 1


def test_saves_from_eight_threads_do_not_collide(make_swarm: Make, path: Path) -> None:
    swarm, together = make_swarm(state_path=path), threading.Barrier(8)

    def save() -> None:
        together.wait(DEADLINE)
        for _ in range(20):
            swarm.save()
            assert read_state(path)[0] == swarm.id

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(save) for _ in range(8)]:
            done.result()
    assert names(path) == [path.name]


def test_without_a_state_path_save_says_what_to_do(swarm: Swarm) -> None:
    with pytest.raises(KadepyError, match="state_path"):
        swarm.save()
    swarm.close()
    with pytest.raises(ClosedError):
        swarm.save()


def test_a_save_that_fails_is_an_os_error_with_the_file_s_name(
    make_swarm: Make, path: Path
) -> None:
    swarm = make_swarm(state_path=path)
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match=re.escape(path.name)) as told:
        swarm.save()
    assert told.value.filename == str(path)
    assert told.value.errno in ((errno.EACCES,) if sys.platform == "win32" else (errno.EISDIR,))
    assert names(path) == [path.name]
    path.rmdir()
    swarm.save()
    swarm.close()
    with pytest.raises(ClosedError):
        swarm.save()


def test_that_the_last_save_fails_is_logged(
    make_swarm: Make, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    swarm = make_swarm(state_path=path)
    path.unlink()
    path.mkdir()
    swarm.close()
    wait_until(lambda: any("cannot write" in line for line in caplog.messages))
    (told,) = [record for record in caplog.records if "cannot write" in record.getMessage()]
    assert told.levelno == logging.WARNING
    assert str(path) in told.getMessage()


@on_linux
def test_100_nodes_with_a_file_come_and_go_and_leave_nothing(path: Path) -> None:
    def cycle() -> None:
        with Swarm(host="127.0.0.1", state_path=path):
            pass

    def held() -> int:
        return len(os.listdir("/proc/self/fd")) + len(os.listdir("/proc/self/task"))

    cycle()
    before = held()
    for _ in range(100):
        cycle()
    wait_until(lambda: held() <= before)


# --- paths that cannot be used ----------------------------------------------------------------


def test_a_path_is_a_str_or_a_path_like(path: Path) -> None:
    class PathLike:
        def __fspath__(self) -> str:
            return str(path)

    given: list[Any] = [str(path), path, PathLike()]
    for right in given:
        with Swarm(host="127.0.0.1", state_path=right) as swarm:
            assert read_state(path)[0] == swarm.id
    wrong: list[Any] = [os.fsencode(path), 3, True, object(), ["a"]]
    for value in wrong:
        with pytest.raises(TypeError, match="state_path"):
            Swarm(host="127.0.0.1", state_path=value)
    for text in ("", "\0", str(path) + "\0"):
        with pytest.raises(ValueError, match="state_path"):
            Swarm(host="127.0.0.1", state_path=text)


def refused(port: int, path: Path) -> OSError:
    """What the constructor raises; it leaves no socket, no thread and no file."""
    before = names(path) if path.parent.is_dir() else []
    threads = set(threading.enumerate())
    with pytest.raises(OSError, match=re.escape(path.name)) as told:
        Swarm(port, host="127.0.0.1", state_path=path)
    wait_until(lambda: can_bind(port))
    wait_until(lambda: threads.issuperset(threading.enumerate()))
    assert (names(path) if path.parent.is_dir() else []) == before
    return told.value


def test_a_directory_is_refused(port: int, path: Path) -> None:
    path.mkdir()
    told = refused(port, path)
    assert isinstance(told, PermissionError if sys.platform == "win32" else IsADirectoryError)
    assert told.filename == str(path)


def test_a_directory_that_does_not_exist_is_refused(port: int, path: Path) -> None:
    told = refused(port, path / "sub")
    assert isinstance(told, FileNotFoundError)
    assert told.filename == str(path / "sub")


@on_posix
def test_a_file_in_the_place_of_a_directory_is_refused(port: int, path: Path) -> None:
    path.touch()
    assert isinstance(refused(port, path / "sub"), NotADirectoryError)


@on_posix
def test_a_pipe_is_refused_and_not_waited_for(port: int, path: Path) -> None:
    os.mkfifo(path)
    assert "not a regular file" in str(refused(port, path))
    assert path.is_fifo()


@on_posix
@pytest.mark.usefixtures("mortal")
def test_a_file_that_cannot_be_read_is_refused(port: int, path: Path) -> None:
    path.write_bytes(state_of(bytes(31) + b"x"))
    path.chmod(0)
    assert isinstance(refused(port, path), PermissionError)
    path.chmod(0o600)


@on_posix
@pytest.mark.usefixtures("mortal")
def test_in_a_read_only_directory_a_file_can_be_used_and_none_made(
    make_swarm: Make, port: int, path: Path
) -> None:
    path.write_bytes(state_of(bytes(31) + b"x"))
    path.parent.chmod(0o500)
    try:
        with make_swarm(state_path=path) as swarm:
            assert swarm.id == bytes(31) + b"x"
            with pytest.raises(PermissionError):
                swarm.save()
        assert isinstance(refused(port, path.with_name("other")), PermissionError)
    finally:
        path.parent.chmod(0o700)


@on_posix
def test_a_read_only_file_is_replaced_like_any_other(make_swarm: Make, path: Path) -> None:
    path.write_bytes(state_of(bytes(31) + b"x"))
    path.chmod(0o400)
    with make_swarm(state_path=path) as swarm:
        assert swarm.id == bytes(31) + b"x"
        swarm.save()
    assert read_state(path) == (swarm.id, 0)


def test_a_port_in_use_leaves_the_file_alone(make_swarm: Make, swarm: Swarm, path: Path) -> None:
    with pytest.raises(OSError, match="in use"):
        make_swarm(swarm.port, state_path=path)
    assert not path.exists()


# --- files that do not verify -----------------------------------------------------------------

GOOD = state_of(secrets.token_bytes(32))
BAD = {
    "empty": (b"", "not a state file"),
    "foreign": (b"-----BEGIN CERTIFICATE-----\n", "not a state file"),
    "cut": (GOOD[:-1], "damaged"),
    "flipped": (GOOD[:40] + bytes([GOOD[40] ^ 1]) + GOOD[41:], "damaged"),
    "longer": (GOOD + b"\n", "damaged"),
    "too long": (GOOD + bytes(100_000), "longer"),
    "of a later version": (state_of(bytes(32), version=2, contacts=bytes(50_000)), "version 2"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_does_not_verify_is_moved_aside_with_a_warning(
    make_swarm: Make, path: Path, what: str
) -> None:
    content, reason = BAD[what]
    path.write_bytes(content)
    aside = path.with_name("node.state.bad")
    aside.write_text("an older one")
    with pytest.warns(RuntimeWarning, match=reason) as told:
        swarm = make_swarm(state_path=path)
    (warning,) = told
    for words in (str(path), str(aside.resolve()), "afresh"):
        assert words in str(warning.message)
    assert aside.read_bytes() == content
    assert read_state(path) == (swarm.id, 0)
    assert names(path) == ["node.state", "node.state.bad"]


def test_the_warning_points_to_the_line_that_makes_the_swarm(path: Path) -> None:
    path.touch()
    with pytest.warns(RuntimeWarning) as told:
        swarm = Swarm(host="127.0.0.1", state_path=path)
    swarm.close()
    assert told[0].filename == __file__


@pytest.mark.parametrize("content", [b"", MAGIC], ids=["nothing", "a state file's beginning"])
def test_a_gigabyte_is_not_read(make_swarm: Make, path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.truncate(1 << 30)
    with pytest.warns(RuntimeWarning, match="not a state file|longer"):
        make_swarm(state_path=path)
    assert path.with_name("node.state.bad").stat().st_size == 1 << 30


def test_where_warnings_are_errors_nothing_is_left_open(port: int, path: Path) -> None:
    path.touch()
    with pytest.raises(RuntimeWarning, match="afresh"):  # pytest makes errors of warnings here
        Swarm(port, host="127.0.0.1", state_path=path)
    assert can_bind(port)
    with Swarm(host="127.0.0.1", state_path=path) as swarm:
        assert read_state(path)[0] == swarm.id


# --- sudden ends ------------------------------------------------------------------------------

SAVING = """
import sys
from kadepy import Swarm

swarm = Swarm(host="127.0.0.1", state_path=sys.argv[1])
swarm.bootstrap("127.0.0.1", int(sys.argv[2]))
swarm.save()
print(swarm.id.hex())
while True:
    swarm.save()
"""


def test_killed_again_and_again_while_it_saves_a_file_is_always_whole(
    start: Start, swarm: Swarm, path: Path, rng: random.Random
) -> None:
    ids = set()
    for _ in range(15):
        child = start(SAVING, path, swarm.port)
        ids.add(bytes.fromhex(child.line()))
        # Anywhere in one of its saves.
        time.sleep(rng.uniform(0, 0.01))
        child.process.kill()
        child.wait()
        assert read_state(path) == (*ids, 1)


def test_killed_at_any_moment_a_node_that_was_made_keeps_its_id(start: Start, path: Path) -> None:
    script = """
import sys
from kadepy import Swarm
print(Swarm(host="127.0.0.1", state_path=sys.argv[1]).id.hex())
sys.stdin.read()
"""
    ids = set()
    for _ in range(3):
        child = start(script, path)
        ids.add(child.line())
        child.process.kill()
        child.wait()
    assert ids == {read_state(path)[0].hex()}


LIMITED = """
import resource, sys
from kadepy import Swarm

swarm = Swarm(host="127.0.0.1", state_path=sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
try:
    swarm.save()
except OSError as error:
    print(error.errno, error.filename)
swarm.close()
"""


@on_posix
def test_a_file_that_may_not_grow_leaves_the_old_one(start: Start, path: Path) -> None:
    path.write_bytes(state_of(bytes(31) + b"x"))
    before = path.stat().st_ino
    child = start(LIMITED, path)
    assert child.line() == f"{errno.EFBIG} {path}"
    assert child.wait() == 0
    assert read_state(path)[0] == bytes(31) + b"x"
    assert path.stat().st_ino == before
    assert names(path) == [path.name]


FULL = """
import os, sys
from kadepy import Swarm

path = os.path.join(sys.argv[1], "node.state")
swarm = Swarm(host="127.0.0.1", state_path=path)
with open(os.path.join(sys.argv[1], "filler"), "wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError:
        pass
before = open(path, "rb").read()
try:
    swarm.save()
except OSError as error:
    print(error.errno, error.filename == path)
swarm.close()
print(open(path, "rb").read() == before, sorted(os.listdir(sys.argv[1])))
with Swarm(host="127.0.0.1", state_path=path) as again:
    print(again.id == swarm.id)
try:
    Swarm(host="127.0.0.1", state_path=path + "2")
except OSError as error:
    print(error.errno)
"""


@on_linux
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, path: Path) -> None:
    script = tmp_path / "full.py"
    script.write_text(FULL)
    mount = 'mount -t tmpfs -o size=64k none "$1" || exit 77; exec "$2" "$3" "$1"'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    try:
        done = subprocess.run(
            [*command, path.parent, sys.executable, script],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if "unshare" in done.stderr or done.returncode == 77:
        pytest.skip(f"no filesystem can be mounted: {done.stderr}")
    assert done.stdout.splitlines() == [
        f"{errno.ENOSPC} True",
        "True ['filler', 'node.state', 'node.state.lock']",
        "True",
        str(errno.ENOSPC),
    ], done.stderr


# --- the end of the process -------------------------------------------------------------------

ENDING = """
import os, signal, sys, threading, time
from kadepy import Swarm

signal.signal(signal.SIGINT, signal.default_int_handler)
swarm = Swarm(host="127.0.0.1", state_path=sys.argv[1])
swarm.bootstrap("127.0.0.1", int(sys.argv[2]))
print("ready")
"""
ENDS = {
    "at the end of the program": ("", 0),
    "by sys.exit": ("sys.exit(3)", 3),
    "by an exception": ("raise ValueError", 1),
    "in a thread's wait": ("threading.Thread(target=time.sleep, args=(0.1,)).start()", 0),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_process_that_ends_saves(start: Start, swarm: Swarm, path: Path, how: str) -> None:
    script, status = ENDS[how]
    child = start(ENDING + script, path, swarm.port)
    assert child.line() == "ready"
    assert child.wait() == status
    assert read_state(path)[1] == 1
    assert names(path) == [path.name]


@on_posix
def test_ctrl_c_saves(start: Start, swarm: Swarm, path: Path) -> None:
    # Not one long wait: a signal right before it would not end it.
    waiting = "print('waiting')\nwhile True: time.sleep(0.05)"
    child = start(ENDING + waiting, path, swarm.port)
    assert [child.line(), child.line()] == ["ready", "waiting"]
    child.process.send_signal(signal.SIGINT)
    assert child.wait() == -signal.SIGINT
    assert read_state(path)[1] == 1


def test_a_node_that_is_dropped_saves(swarm: Swarm, path: Path) -> None:
    dropped = [Swarm(host="127.0.0.1", state_path=path)]
    dropped[0].bootstrap(swarm.address)
    with pytest.warns(ResourceWarning):
        dropped.clear()
    assert read_state(path)[1] == 1


FORK = """
import os, sys, warnings
from kadepy import ClosedError, Swarm

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of a fork beside threads
swarm = Swarm(host="127.0.0.1", state_path=sys.argv[1])
inode = os.stat(sys.argv[1]).st_ino
child = os.fork()
if child == 0:
    try:
        swarm.save()
    except ClosedError as error:
        print("fork" in str(error))
    swarm.close()
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(os.stat(sys.argv[1]).st_ino == inode)
swarm.save()
print(os.stat(sys.argv[1]).st_ino == inode)
"""


@on_posix
def test_a_forked_child_writes_nothing(start: Start, path: Path) -> None:
    parent = start(FORK, path)
    assert [parent.line() for _ in range(4)] == ["True", "7", "True", "False"]
    assert (parent.wait(), parent.stderr) == (0, "")
    assert names(path) == [path.name]
