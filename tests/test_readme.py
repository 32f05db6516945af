"""What the README names exists: files, commands, Python that parses."""

import ast
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fkdiff.cli import app

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", TEXT))))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
def test_python_blocks_parse(block):
    ast.parse(block)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`fkdiff ([a-z]+)", TEXT))))
def test_commands_exist(command):
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(tests/[\w/.]+)`", TEXT))))
def test_tests_named_exist(path):
    assert (ROOT / path).exists()
