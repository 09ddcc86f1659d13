"""The command line as a user meets it: what it prints, its exit status, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
from importlib import metadata

import pytest
from click.testing import CliRunner

from kadepy import KadepyError, Swarm
from kadepy.cli import demo, main
from kadepy.cli.demo import SNIPPET, Cost, Member, Outcome, run

KADEPY = (sys.executable, "-m", "kadepy")
SECONDS = 30


def kadepy(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*KADEPY, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=SECONDS,
        env={**os.environ, **environment},
    )


def test_json_tells_the_whole_outcome_in_one_object() -> None:
    done = kadepy("demo", "--nodes", "12", "--topic", "tea", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    assert (figures["nodes"], figures["topic"], figures["found_all"]) == (12, "tea", True)
    assert len(figures["announced"]) == 3
    assert sorted(figures["found"]) == sorted(figures["announced"])
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+", address) for address in figures["found"])
    assert figures["stored_on"]
    for name in ("join", "announce", "search"):
        assert figures["milliseconds"][name] > 0
        assert figures["packets"][name] > 0


def test_a_pipe_gets_plain_lines() -> None:
    done = kadepy("demo", "--nodes", "5", FORCE_COLOR="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert "found all 3 who announced it" in done.stdout
    for line in SNIPPET.splitlines():
        assert line in done.stdout


def test_a_topic_that_the_output_cannot_show_is_no_error() -> None:
    done = kadepy("demo", "--nodes", "5", "--topic", "茶", PYTHONIOENCODING="cp1252")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\u8336" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_picture() -> None:
    ours, theirs = os.openpty()
    terminal = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", "PYTHONUTF8": "1"}
    with subprocess.Popen(
        [*KADEPY, "demo", "--nodes", "5", "--topic", "[b]tea"],
        stdout=theirs,
        env={**os.environ, **terminal},
    ) as process:
        os.close(theirs)
        screen = _until_closed(ours)
    assert process.returncode == 0
    for drawn in ("╭", "▲", "●", "★", "◆", "topic '[b]tea'", "found all 3 who announced it"):
        assert drawn in screen


def _until_closed(terminal: int) -> str:
    text = b""
    while True:
        try:
            more = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other side is closed
            more = b""
        if not more:
            os.close(terminal)
            return text.decode()
        text += more


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_ctrl_c_is_quiet() -> None:
    with subprocess.Popen(
        [*KADEPY, "demo", "--nodes", "200"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=SECONDS)
    assert (first, rest, errors) == ("starting 200 nodes on 127.0.0.1\n", "", "")
    assert process.returncode == 130


def test_an_interrupted_demo_closes_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Swarm] = []

    def record(*args: object, **kwargs: object) -> Swarm:
        started.append(Swarm(*args, **kwargs))  # type: ignore[arg-type]
        return started[-1]

    def interrupt(step: str) -> None:
        if step == "node 6 joins":
            raise KeyboardInterrupt

    monkeypatch.setattr(demo, "Swarm", record)
    with pytest.raises(KeyboardInterrupt):
        run(20, "demo", None, interrupt)
    assert [swarm.closed for swarm in started] == [True] * 5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["demo", "--nodes", "4"], "--nodes"),
        (["demo", "--nodes", "many"], "many"),
        (["demo", "--topic"], "--topic"),
        (["demo", "--topic", "\udcff"], "--topic"),
        (["demo", "here"], "here"),
        (["dmeo"], "dmeo"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_what_is_wrong(arguments: list[str], named: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert named in result.output.splitlines()[-1]


def test_a_peer_that_is_not_found_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = Cost(1.0, 1)
    members = (
        Member(1, b"\1" * 32, "127.0.0.1:1001", 1, frozenset()),
        Member(2, b"\2" * 32, "127.0.0.1:1002", None, frozenset()),
    )
    outcome = Outcome("demo", b"\3" * 32, False, members, (), cost, cost, cost)
    monkeypatch.setattr(demo, "run", lambda *_: outcome)
    for arguments in (["demo"], ["demo", "--json"]):
        assert CliRunner().invoke(main, arguments).exit_code == 1


@pytest.mark.parametrize("error", [KadepyError("no\nanswer"), OSError(24, "too many open files")])
def test_a_failure_is_one_line_and_exits_with_1(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Outcome:
        raise error

    monkeypatch.setattr(demo, "run", fail)
    result = CliRunner().invoke(main, ["demo", "--json"])
    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 1
    assert str(error).split()[-1] in result.output


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_one_line_says_what_to_install(missing: str) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None; import kadepy.__main__ as m; m.main()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=SECONDS
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'kadepy\'s command line needs: pip install "kadepy[cli]"\n'


def test_version_is_the_installed_one() -> None:
    done = kadepy("--version")
    assert (done.returncode, done.stdout) == (0, f"kadepy {metadata.version('kadepy')}\n")


def test_the_lines_of_python_that_the_demo_shows_find_a_peer() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SNIPPET], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0
    assert re.fullmatch(r"1\n\[Peer\(ip='127\.0\.0\.1', port=\d+\)\]\n", done.stdout)
