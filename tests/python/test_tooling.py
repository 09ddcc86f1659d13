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
        "ruff check python tests/python",
        "ruff format --check python tests/python",
    ],
)
def test_is_content(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
