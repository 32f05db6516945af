"""What README and the site's pages name exists and runs: files, commands, Python."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from typer.main import get_command
from typer.testing import CliRunner

import fkdiff.rewards
from fkdiff.cli import app
from fkdiff.rewards import Brightness, OpenCLIP
from tests.source_tree import of_source
from tests.tiny import build

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}


def found(pattern):
    """Matches of a pattern in each page, as parameters."""
    seen = [(page, m) for page, text in PAGES.items() for m in re.findall(pattern, text, re.S)]
    return pytest.mark.parametrize(("page", "match"), sorted(set(seen)))


@of_source
@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()


@found(r"```python\n(.*?)```")
def test_python_blocks_parse(page, match):
    ast.parse(match)


@found(r"`fkdiff ([a-z]+)")
def test_commands_exist(page, match):
    assert CliRunner().invoke(app, [match, "--help"]).exit_code == 0


@of_source
@found(r"`((?:tests|fkdiff|rewards|pipelines|notebooks)/[\w/.]+)`")
def test_files_named_exist(page, match):
    assert (ROOT / match).exists()


@found(r"```sh\n(.*?)```")
def test_command_lines_are_understood(page, match):
    lines = [line for line in match.splitlines() if line.startswith("fkdiff ")]
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        command, context = get_command(app), None
        while hasattr(command, "commands"):
            command, context = command.commands[words.pop(0)], context
        command.make_context(command.name, words)  # raises at an option that isn't one


def test_readme_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    """The README's Python in one namespace; a tiny pipeline stands in for the Hub's."""
    monkeypatch.chdir(tmp_path)
    pipe = build("sd").pipe
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda name: pipe)

    def reward(name, pretrained=None):
        return OpenCLIP(name) if name == "emoji-clip" else Brightness()

    monkeypatch.setattr(fkdiff.rewards, "OpenCLIP", reward)
    space = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), space)
    told = re.findall(r"(?:mode|log Z) ([\d.]+), exact ([\d.]+)", capsys.readouterr().out)
    assert len(told) == 2
    assert all(abs(float(a) - float(b)) < 0.06 for a, b in told)
    # The numbers printed beside the code are those that it prints.
    beside = re.findall(r"# ([\d.]+), ([\d.]+)\n", README)
    pairs = zip(told, beside, strict=True)
    assert all(abs(float(a[0]) - float(b[0])) < 0.01 and a[1] == b[1] for a, b in pairs)
    assert (tmp_path / "runs" / "stop_sign" / "report.html").is_file()
    assert space["wish"](torch.rand(2, 3, 64, 64), prompts=["a cat", "a dog"]).shape == (2,)
