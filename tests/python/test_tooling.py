"""The package under its tools: stubs, types, style; what the code does is left to other files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "command",
    [
        "mypy.stubtest kadepy",
        "mypy --strict python/kadepy tests/python",
        "pyright --pythonpath {python} tests/python/sample.py",
        "pyright --pythonpath {python} --ignoreexternal --verifytypes kadepy",
        "ruff check python tests/python",
        "ruff format --check python tests/python",
    ],
)
def test_is_content(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *(word.format(python=sys.executable) for word in command.split())],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_typed_sample_runs() -> None:
    sample = Path(__file__).with_name("sample.py")
    options = ["-X", "dev", "-W", "error"]
    done = subprocess.run(
        [sys.executable, *options, str(sample)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
