"""The command line as a user meets it: what it prints, its exit status, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

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
        (["sim", "--nodes", "0"], "--nodes"),
        (["sim", "--nodes", "1000001"], "--nodes"),
        (["sim", "--seed", "-1"], "--seed"),
        (["sim", "--loss", "1.5"], "--loss"),
        (["sim", "--loss", "nan"], "--loss"),
        (["sim", "--churn", "0"], "--churn"),
        (["sim", "--hostile", "-1"], "--hostile"),
        (["sim", "--nat", "2"], "--nat"),
        (["sim", "--lookups", "0"], "--lookups"),
        (["sim", "--conduct", "polite"], "polite"),
        (["sim", "--nodes", "1000000", "--plot", "picture.doc"], "picture.doc"),
        (["sim", "--nodes", "1000000", "--plot", "nowhere/picture.png"], "nowhere/picture.png"),
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


SIM = ("sim", "--nodes", "60", "--seed", "3", "--lookups", "10")


def simulated(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, [*SIM, "--json", *arguments])
    assert result.exit_code == 0, result.output
    figures: dict[str, Any] = json.loads(result.output)
    return figures


def test_a_simulation_s_json_is_equal_for_equal_arguments() -> None:
    faults = "--loss", "0.1", "--churn", "300", "--hostile", "0.1", "--conduct", "lie"
    first, second, other = simulated(*faults), simulated(*faults), simulated(*faults, "--local")
    assert 0 <= first["success"] <= 1
    assert 0 <= first["exact"] <= 1
    for name in ("hops", "queries", "messages", "latency_ms"):
        assert 0 < first[name]["p50"] <= first[name]["p90"] <= first[name]["p99"]
    asked = ("nodes", "seed", "lookups", "loss", "churn", "hostile", "conduct", "nat", "local")
    assert [first[name] for name in asked] == [60, 3, 10, 0.1, 300, 0.1, "lie", 0, False]
    for figures in (first, second, other):
        for name in [name for name in figures if "wall" in name or "memory" in name]:
            del figures[name]
    assert json.dumps(first) == json.dumps(second)
    assert first["datagrams"] != other["datagrams"]


def test_a_simulation_without_faults_succeeds_and_says_so() -> None:
    done = kadepy(*SIM)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert re.search(r"lookups for a record +10 +found it +100.00%", done.stdout)
    for told in ("60 nodes, no faults, seed 3", "hops", "latency, ms", "routing tables"):
        assert told in done.stdout


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG\r\n"), ("svg", b"<?xml")])
def test_a_simulation_is_drawn_as_the_file_s_name_says(
    suffix: str, magic: bytes, tmp_path: Path
) -> None:
    file = tmp_path / f"picture.{suffix}"
    done = kadepy(*SIM, "--churn", "60", "--json", "--plot", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert file.read_bytes().startswith(magic)
    assert json.loads(done.stdout)["nodes"] == 60


def test_without_matplotlib_a_simulation_that_is_to_be_drawn_says_what_to_install(
    tmp_path: Path,
) -> None:
    script = "import sys; sys.modules['matplotlib'] = None; import kadepy.__main__ as m; m.main()"
    done = subprocess.run(
        [sys.executable, "-c", script, *SIM, "--plot", str(tmp_path / "picture.png")],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'Error: --plot needs: pip install "kadepy[cli]"\n'
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_simulation_shows_its_progress_on_a_terminal_and_ends_quietly_on_ctrl_c() -> None:
    ours, theirs = os.openpty()
    terminal = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", "PYTHONUTF8": "1"}
    with subprocess.Popen(
        [*KADEPY, "sim", "--nodes", "100000"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, **terminal},
    ) as process:
        os.close(theirs)
        screen = b""
        while b"building the network" not in screen:
            screen += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        rest = _until_closed(ours)
        output, _ = process.communicate(timeout=SECONDS)
    assert (process.returncode, output) == (130, b"")
    assert "Traceback" not in rest


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
