"""What the documents show runs: the docstrings' examples and the README's quick start."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kadepy
import kadepy.swarm

ROOT = Path(__file__).parents[2]
DOCUMENTED = {
    name: getattr(kadepy, name)
    for name in kadepy.__all__
    if ">>>" in (getattr(kadepy, name).__doc__ or "")
}
DOCUMENTED["Swarm.get_peers"] = kadepy.Swarm.get_peers


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_docstring_s_example_runs(name: str) -> None:
    runner = doctest.DocTestRunner()
    example = doctest.DocTestParser().get_doctest(
        DOCUMENTED[name].__doc__, {}, name, filename=None, lineno=0
    )
    assert example.examples
    report: list[str] = []
    assert runner.run(example, out=report.append).failed == 0, "".join(report)


def test_the_quick_start_runs() -> None:
    quick_start = (ROOT / "README.md").read_text().split("## Quick start")[1]
    script = re.findall(r"```python\n(.*?)```", quick_start, re.DOTALL)[0]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[Peer(ip='127.0.0.1', port=5000)]\n"
