"""The list of edits fits the tree, and the tool tells a noticed edit from one that isn't."""

import pytest

from tests.mutants import run
from tests.mutants.run import ROOT, Mutant, Outcome, read_mutants
from tests.source_tree import of_source

ENTRY = """
[[mutant]]
file = "fkdiff/terms/rows.py"
old = {old!r}
new = "pass"
why = "none"
tests = ["tests"]
"""


@of_source
def test_every_edit_fits_the_tree():
    mutants = read_mutants()
    assert len(mutants) >= 60 and len({(m.file, m.old) for m in mutants}) >= 60
    assert {m.file.split("/")[1] for m in mutants} >= {
        "smc", "terms", "taps", "tokens", "sequences", "policy", "report", "commands"
    }  # fmt: skip
    for test in {test for mutant in mutants for test in mutant.tests}:
        path, _, name = test.partition("::")
        assert (ROOT / path).exists(), test
        assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), test


@of_source
@pytest.mark.parametrize("old", ["no such text", "import"])
def test_an_edit_that_fits_nowhere_or_twice_is_refused(old, tmp_path):
    (tmp_path / "list.toml").write_text(ENTRY.format(old=old))
    with pytest.raises(ValueError, match=r"must hold .* once, it does \d+ times"):
        read_mutants(tmp_path / "list.toml")


@pytest.mark.parametrize(
    ("code", "verdict"),
    [(0, "SURVIVED"), (1, "killed"), (None, "killed"), (2, "ERROR"), (4, "ERROR"), (5, "ERROR")],
)
def test_only_a_failed_test_counts_as_noticing(code, verdict, capsys):
    outcome = Outcome(Mutant("a.py", "x", "y", "why", ()), code, 1.0, "output")
    assert outcome.verdict == verdict
    assert run.report(outcome, "killed") == (verdict == "killed")
    assert ("output" in capsys.readouterr().out) == (verdict != "killed")


@of_source
def test_a_tree_is_copied_and_edited_apart():
    (mutant, *_) = read_mutants()
    with run.edited_tree(mutant) as root:
        text = (root / mutant.file).read_text(encoding="utf-8")
        assert mutant.new in text and mutant.new not in (ROOT / mutant.file).read_text()
        assert (root / "fkdiff" / "rewards" / "pixels.py").is_file()
    assert not root.exists()
