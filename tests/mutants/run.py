"""Runs the edits of `mutants.toml`, each in a copy of the tree, and names those that no test sees.

A test suite is worth what it notices. Each edit breaks one line as a slip would (a sign, an
offset, a permutation, a cache, an escape) and is followed by the tests that should fail. First
the same tests run on the unedited tree, where all of them must pass.
"""

import argparse
import contextlib
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("mutants.toml")
FOLDERS = ("fkdiff", "rewards", "pipelines", "tests", "docs", "pyproject.toml", "README.md")
HEAVY = ("torch", "numpy", "diffusers", "transformers", "pytest", "hypothesis", "scipy.stats")
LIMIT = 900  # seconds for the tests of one edit: those of a hang, on a busy machine
PASSED, FAILED = 0, 1  # pytest's exit codes; any other says that nothing was tested


@dataclass(frozen=True)
class Mutant:
    """One edit.

    Arguments:
        file: File below the root.
        old: Text that is there exactly once.
        new: Text that takes its place; equal to `old` for the unedited tree.
        why: What goes wrong by it.
        tests: Tests of which one should fail, as pytest names them.
    """

    file: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...]

    def edited(self, root: Path) -> str:
        """The file's text after the edit.

        Raises:
            ValueError: If the old text isn't there exactly once.
        """
        text = (root / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            found = text.count(self.old)
            raise ValueError(f"{self.file} must hold {self.old!r} once, it does {found} times")
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Outcome:
    """What the tests made of an edit.

    Arguments:
        mutant: The edit.
        code: Exit code of pytest, None where its time was up.
        seconds: How long it took.
        output: What pytest printed.
    """

    mutant: Mutant
    code: int | None
    seconds: float
    output: str

    @property
    def verdict(self) -> str:
        """ "killed", "SURVIVED", or "ERROR" where no test was run."""
        return {FAILED: "killed", None: "killed", PASSED: "SURVIVED"}.get(self.code, "ERROR")


def read_mutants(path: Path = LIST) -> list[Mutant]:
    """The committed edits.

    Raises:
        ValueError: If one changes nothing, or its old text isn't in its file exactly once.
    """
    with path.open("rb") as file:
        entries = tomllib.load(file)["mutant"]
    mutants = [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]
    for mutant in mutants:
        if mutant.edited(ROOT) == (ROOT / mutant.file).read_text(encoding="utf-8"):
            raise ValueError(f"{mutant.file}: an edit changes nothing ({mutant.why})")
    return mutants


def copy_tree(target: Path) -> None:
    """Copy what tests need: texts as files, weights and compiled modules as links to ours."""

    def copy(source: str, place: str) -> None:
        light = source.endswith((".py", ".toml", ".md", ".html", ".css"))
        shutil.copy2(source, place) if light else os.symlink(source, place)

    for name in FOLDERS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, symlinks=True, copy_function=copy)
        else:
            shutil.copy2(ROOT / name, target / name)


@contextlib.contextmanager
def edited_tree(mutant: Mutant) -> Iterator[Path]:
    """A copy of the tree with the edit, deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        root = Path(folder)
        copy_tree(root)
        (root / mutant.file).write_text(mutant.edited(ROOT), encoding="utf-8")
        yield root


def run_tests(root: Path, tests: Sequence[str], output: Path) -> int | None:
    """Run tests of a tree in a child process; gives pytest's exit code, None if time was up."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = _pytest(root, tests, output)
        finally:
            os._exit(code)
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _pytest(root: Path, tests: Sequence[str], output: Path) -> int:
    import pytest

    os.setpgid(0, 0)
    os.chdir(root)
    os.environ["PYTHONPATH"] = str(root)
    sys.path[:] = [str(root), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    sys.dont_write_bytecode = True
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        options = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=short"]
        # Plugins were imported before the fork, which saves seconds an edit.
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        return int(pytest.main([*options, *tests]))


def run_one(mutant: Mutant) -> Outcome:
    """Apply an edit in a copy and run its tests."""
    began = time.monotonic()
    with edited_tree(mutant) as root:
        output = root / "output.txt"
        code = run_tests(root, mutant.tests, output)
        text = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
    return Outcome(mutant, code, time.monotonic() - began, text)


def unedited(mutants: Sequence[Mutant]) -> list[Mutant]:
    """Edits that change nothing, which together run all tests, by test file."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    groups: dict[str, list[str]] = {}
    for test in tests:
        groups.setdefault(test.partition("::")[0], []).append(test)
    same = mutants[0].old
    return [
        Mutant(mutants[0].file, same, same, f"unedited: {name}", tuple(group))
        for name, group in groups.items()
    ]


def report(outcome: Outcome, expected: str) -> bool:
    """Print an outcome; whether it is the expected one."""
    mutant, fine = outcome.mutant, outcome.verdict == expected
    print(f"{outcome.verdict:9} {outcome.seconds:4.0f} s  {mutant.file}: {mutant.why}", flush=True)
    if not fine:
        print(f"    {mutant.old.strip()}\n  > {mutant.new.strip()}\n{outcome.output[-1500:]}")
    return fine


def main(words: Sequence[str] | None = None) -> int:
    """Run all edits, or those whose file or reason holds a word; 0 if each was noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", help="words that a file or reason must hold")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--trust", action="store_true", help="skip the unedited tree")
    options = parser.parse_args(words)
    mutants = [
        m for m in read_mutants() if all(word in f"{m.file} {m.why}" for word in options.only)
    ]
    if not mutants:
        parser.error(f"no edit holds {' '.join(options.only)!r}")
    os.environ["HF_HUB_OFFLINE"] = "1"  # read at import, which the tests' own setting comes after
    for name in HEAVY:
        importlib.import_module(name)
    fine = True
    with multiprocessing.get_context("fork").Pool(options.processes, maxtasksperchild=1) as pool:
        if not options.trust:
            print("Their tests on the unedited tree:")
            jobs = pool.imap_unordered(run_one, unedited(mutants))
            fine = all([report(done, "SURVIVED") for done in jobs])
            print(f"\n{len(mutants)} edits:")
        outcomes = list(map_printed(pool.imap_unordered(run_one, mutants)))
    left = [done for done in outcomes if done.verdict != "killed"]
    print(f"{len(outcomes) - len(left)} of {len(outcomes)} edits were noticed")
    return 0 if fine and not left else 1


def map_printed(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """Outcomes as they come, each printed."""
    for outcome in outcomes:
        report(outcome, "killed")
        yield outcome


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
