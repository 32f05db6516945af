"""The wheel holds what the repository holds: every module, the symlinked folders, the weights."""

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.source_tree import of_source

ROOT = Path(__file__).parent.parent


def tracked() -> set[str]:
    """Files of the package that git knows, by the name they have once installed."""
    listed = subprocess.run(
        ["git", "ls-files", "fkdiff", "rewards", "pipelines"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    links = {"fkdiff/rewards", "fkdiff/pipelines"}
    return {n if n.startswith("fkdiff/") else f"fkdiff/{n}" for n in listed if n not in links}


@of_source
def test_wheel_holds_what_git_holds(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        + ["--no-index", "--wheel-dir", tmp_path, "."],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("fkdiff-*.whl")
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert tracked() <= names
    assert {n.split("/")[0] for n in names} == {"fkdiff"}
