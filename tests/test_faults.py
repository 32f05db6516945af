"""The fault table names tests that are there, and the bench injects what the table tells."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def rows():
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_fault_has_its_test():
    found = rows()
    assert len(found) >= 15 and all(len(row) == 3 and all(row) for row in found)
    for fault, _, named in found:
        place = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", named)
        assert place, fault
        tree = ast.parse((ROOT / place[1]).read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert place[2] in names, named
