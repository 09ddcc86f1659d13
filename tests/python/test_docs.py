"""What the documents show is so: the docstrings' examples, the README's programs, the packets under
a network key in the wire protocol."""

from __future__ import annotations

import doctest
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

import ciphers
import kadepy
import kadepy.swarm
import kadepy.testing

ROOT = Path(__file__).parents[2]
DOCUMENTED = {
    name: getattr(kadepy, name)
    for name in kadepy.__all__
    if ">>>" in (getattr(kadepy, name).__doc__ or "")
}
DOCUMENTED["Swarm.get_peers"] = kadepy.Swarm.get_peers
DOCUMENTED["Swarm.join"] = kadepy.Swarm.join
DOCUMENTED["Swarm.save"] = kadepy.Swarm.save
DOCUMENTED["testing.local_network"] = kadepy.testing.local_network


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_docstring_s_example_runs(name: str) -> None:
    runner = doctest.DocTestRunner()
    example = doctest.DocTestParser().get_doctest(
        DOCUMENTED[name].__doc__, {}, name, filename=None, lineno=0
    )
    assert example.examples
    report: list[str] = []
    assert runner.run(example, out=report.append).failed == 0, "".join(report)


def test_the_quick_start_runs(tmp_path: Path) -> None:
    assert run("Quick start", tmp_path) == ["[Peer(ip='127.0.0.1', port=5000)]"]


def test_the_program_of_a_private_network_runs(tmp_path: Path) -> None:
    (tmp_path / "network.key").write_text(secrets.token_hex(32) + "\n")
    found, found_by_stranger, dropped = run("Private networks", tmp_path)
    assert (found, found_by_stranger) == ("[Peer(ip='127.0.0.1', port=5000)]", "[]")
    assert int(dropped) > 0


def test_the_program_with_a_membership_runs(tmp_path: Path) -> None:
    met, peers = run("Stay announced", tmp_path)
    assert met == "met Peer(ip='127.0.0.1', port=5001)"
    assert peers == "[Peer(ip='127.0.0.1', port=5000)]"


def test_the_program_on_asyncio_runs(tmp_path: Path) -> None:
    assert run("asyncio", tmp_path) == ["Peer(ip='127.0.0.1', port=5000)", "b'checkmate'"]


def test_the_test_with_the_fixture_passes(tmp_path: Path) -> None:
    (tmp_path / "test_player.py").write_text(program("Test your own program"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_player.py"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout


def test_the_program_of_a_restart_runs(tmp_path: Path) -> None:
    assert run("Restarts", tmp_path) == ["True", "True"]
    assert (tmp_path / "node.state").exists()


def test_the_program_with_a_simulation_runs(tmp_path: Path) -> None:
    assert run("Simulate thousands of nodes", tmp_path) == ["True True", "1.0"]


def test_the_packets_under_a_network_key_are_what_the_wire_protocol_says() -> None:
    page = (ROOT / "docs" / "wire-protocol.md").read_text()
    clear, keyed = page.split("### With a network key")
    ping, *_ = packets(clear.split("## Examples")[1])
    derived, sealed_ping, v01_ping, v01_find_node = packets(keyed)
    key = bytes(range(0x80, 0xA0))
    sealed, v01 = ciphers.Sealed(key), ciphers.V01(key)
    assert derived == sealed.key
    assert sealed.open(sealed_ping) == ping
    assert v01.open(v01_ping) == ping[:33]
    assert v01.open(v01_find_node) == b"\x02" + ping[1:33] + bytes(range(0x40, 0x60))


def program(section: str) -> str:
    """The first program of a README section."""
    text = (ROOT / "README.md").read_text().split(f"\n## {section}\n")[1]
    return text.split("```python\n")[1].split("```")[0]


def run(section: str, directory: Path) -> list[str]:
    """The lines that it prints."""
    command = [sys.executable, "-c", program(section)]
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.splitlines()


def packets(text: str) -> list[bytes]:
    """The blocks of spaced hex, without their notes."""
    blocks = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    return [bytes.fromhex(re.sub(r";.*", "", block)) for block in blocks]
