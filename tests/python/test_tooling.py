"""The package under its tools: stubs, types, style; what the code does is left to other files."""

from __future__ import annotations

import ast
import inspect
import operator
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kadepy
from kadepy import _core

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "command",
    [
        "mypy.stubtest kadepy",
        "mypy --strict python/kadepy tests/python",
        "pyright tests/python/sample.py",
        "pyright --ignoreexternal --verifytypes kadepy",
        "ruff check python tests/python",
        "ruff format --check python tests/python",
    ],
)
def test_is_content(command: str) -> None:
    # Pyright looks at the packages of the Python that it finds there.
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=ROOT,
        env={**os.environ, "PATH": search},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def documented() -> dict[str, str]:
    """What the core's stub says of all that is public, by name."""
    stub = ast.parse((ROOT / "python" / "kadepy" / "_core.pyi").read_text())
    found = {}
    for node in stub.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            public = getattr(kadepy, node.name, None)
            if public is getattr(_core, node.name):
                found[node.name] = ast.get_docstring(node) or ""
    (config,) = (node for node in stub.body if getattr(node, "name", "") == "Config")
    assert isinstance(config, ast.ClassDef)
    for field in config.body:
        if isinstance(field, ast.FunctionDef) and not field.name.startswith("_"):
            found[f"Config.{field.name}"] = ast.get_docstring(field) or ""
    return found


def test_the_stub_of_the_core_says_what_help_says() -> None:
    assert len(documented()) > 30
    for name, text in documented().items():
        documentee = operator.attrgetter(name)(kadepy)
        assert inspect.getdoc(documentee) == text, name


def test_the_typed_sample_runs() -> None:
    sample = Path(__file__).with_name("sample.py")
    options = ["-X", "dev", "-W", "error"]
    done = subprocess.run(
        [sys.executable, *options, str(sample)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
