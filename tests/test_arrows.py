"""Imports point one way, and importing the package stays light."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.source_tree import of_source

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fkdiff"

# What each part may import of fkdiff, itself apart. `terms` know smc and processes; `taps` alone
# know diffusers' insides; report, zoo, pipelines, bench and cli sit on top.
CORE = {
    "_version",
    "files",
    "folders",
    "smc",
    "processes",
    "terms",
    "taps",
    "result",
    "run",
    "loops",
    "refusals",
    "steering",
    "sampling",
}
MAY = {
    "_version": set(),
    "files": set(),
    "folders": {"_version", "files"},
    "smc": set(),
    "processes": set(),
    "terms": {"smc", "processes"},
    "taps": {"files", "folders", "processes", "terms", "result"},
    "result": {"terms"},
    "run": {"smc", "processes", "terms", "result"},
    "refusals": {"terms", "taps"},
    "steering": {"smc", "processes", "terms", "taps", "result", "run", "refusals"},
    "testing": {"smc", "processes", "terms", "taps", "result", "steering", "sampling"},
    "loops": {"smc", "processes", "terms", "result", "run"},
    "sampling": {"smc", "processes", "terms", "result", "run", "loops"},
    "sequences": CORE | {"zoo"},
    "rgba": {"terms"},
    "tokens": CORE,
    "rewards": {"terms", "zoo", "rgba"},
    "policy": {"smc", "processes", "terms", "result", "run", "loops"},
    "zoo": {"_version", "processes", "policy"},
    "pipelines": CORE | {"sequences", "tokens", "rgba"},
    "report": CORE | {"rewards", "zoo", "policy", "rgba"},
    "bench": CORE | {"zoo", "rewards", "policy", "sequences", "tokens", "rgba"},
}
# A result saves itself: the one upward arrow, taken inside a method.
EXCEPTIONS = {("result", "report")}


def parts() -> set[str]:
    """Subpackages and modules of fkdiff, by name."""
    found = {
        p.stem if p.suffix else p.name for p in PACKAGE.iterdir() if not p.name.startswith("__")
    }
    return {name for name in found if name not in ("py", "py.typed")}


def imports(path: Path) -> set[str]:
    """First names below fkdiff that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "fkdiff":
                names |= {alias.name for alias in node.names}
            elif node.module.startswith("fkdiff."):
                names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("fkdiff.")}
    return names & parts()


def files(part: str) -> list[Path]:
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]


@of_source
@pytest.mark.parametrize("part", sorted(MAY))
def test_imports_point_one_way(part):
    for path in files(part):
        for name in imports(path) - {part} - MAY[part]:
            assert (part, name) in EXCEPTIONS, f"{path.relative_to(ROOT)} imports fkdiff.{name}"


@of_source
def test_every_part_has_its_arrows():
    """The command line is the top and may import all; nothing imports it."""
    top = {p for p in parts() if p.startswith("cli") or p in ("commands", "__main__")}
    assert parts() - top - set(MAY) == {"__init__"} & parts()


@of_source
@pytest.mark.parametrize("part", ["smc", "processes", "terms"])
def test_diffusers_stays_in_the_taps(part):
    for path in files(part):
        assert "diffusers" not in [
            (getattr(node, "module", None) or "").split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
        ], path.name


@pytest.mark.parametrize("module", ["fkdiff", "fkdiff.cli", "fkdiff.rewards", "fkdiff.pipelines"])
def test_import_is_light(module):
    code = f"import sys, {module}; print({{'torch', 'diffusers', 'numpy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@of_source
def test_packages_listed_are_those_on_disk():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in [*PACKAGE.rglob("__init__.py"), *PACKAGE.glob("*/__init__.py")]
    }
    assert set(settings["packages"]) == on_disk
    mapped = settings["package-dir"]
    assert {mapped["fkdiff.rewards"], mapped["fkdiff.pipelines"]} == {"rewards", "pipelines"}


def test_no_pickle_and_no_vague_names():
    for path in [*PACKAGE.rglob("*"), *(ROOT / "tests").rglob("*.py")]:
        assert path.suffix not in {".pt", ".pth", ".ckpt", ".pkl", ".bin"}, path
        assert path.stem not in {"utils", "util", "helpers", "helper", "misc", "common"}, path
