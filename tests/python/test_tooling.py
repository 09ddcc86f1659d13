"""The package under its tools: stubs, types, style; what the code does is left to other files."""

from __future__ import annotations

import ast
import graphlib
import inspect
import operator
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kadepy
from kadepy import _core

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"


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


def modules_used(file: Path) -> set[Path]:
    """The files whose items a Rust file imports, apart from its own kin."""
    place = list(file.relative_to(SRC).with_suffix("").parts)
    place = place[:-1] if place[-1] in ("mod", "lib") else place
    used = set()
    code = re.sub(r"//.*", "", file.read_text())
    for line in re.findall(r"^(?:pub(?:\(\w+\))? )?use ((?:crate|self|super)::[^;]+);", code, re.M):
        head, _, group = re.sub(r"\s+", "", line).partition("{")
        for name in group.rstrip("}").split(",") if group else [""]:
            base, path = list(place), (head + name).split("::")
            while path[0] in ("crate", "self", "super"):
                base = {"crate": [], "self": base, "super": base[:-1]}[path.pop(0)]
            whole = base + path
            stems = [SRC.joinpath(*whole[:end]) for end in range(len(whole), 0, -1)]
            files = [path for stem in stems for path in (stem.with_suffix(".rs"), stem / "mod.rs")]
            used |= {next((path for path in files if path.exists()), SRC / "lib.rs")}
    return {other for other in used if not are_kin(file, other)}


def are_kin(one: Path, other: Path) -> bool:
    """Whether a module stands in the other, directly or not."""
    stems = [re.sub(r"(/mod|/lib)?\.rs$", "/", file.as_posix()) for file in (one, other)]
    return stems[0].startswith(stems[1]) or stems[1].startswith(stems[0])


def test_no_circle_of_modules_in_the_core() -> None:
    uses = {file: modules_used(file) for file in SRC.rglob("*.rs")}
    assert sum(map(len, uses.values())) > 100
    graphlib.TopologicalSorter(uses).prepare()  # It raises CycleError, which names the circle.
