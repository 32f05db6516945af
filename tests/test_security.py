"""No pickle, no code that wasn't named, no way out of the run folder, no network at import."""

import ast
import importlib
import json
import pkgutil
import sys
from pathlib import Path

import pytest
import torch

import fkdiff
from fkdiff.commands.many import _name
from fkdiff.commands.prompt_file import read_prompts
from fkdiff.commands.request import Request
from fkdiff.commands.stops import Stop
from fkdiff.report.index_page import Line, save_index
from fkdiff.terms.reward import RewardError, available, load_reward
from tests.conftest import ATTEMPTS
from tests.source_tree import of_source

ROOT = Path(__file__).parent.parent
CODE = sorted(
    p for folder in ("fkdiff", "rewards", "pipelines") for p in ROOT.glob(f"{folder}/**/*.py")
)
PICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NASTY = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"


def faults(tree):
    """What could run foreign code, or write where a file says, in a module's syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in PICKLING)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLING:
            yield from (a.name for a in node.names if a.name != "UnpicklingError")
        if isinstance(node, ast.Call):
            given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            called = ast.unparse(node.func)
            if called == "torch.load" and given.get("weights_only") is not True:
                yield called
            if called == "torch.save" or given.get("allow_pickle"):
                yield f"{called} with pickle"
            if called in ("eval", "exec", "os.system", "yaml.load"):
                yield called
            if called.rpartition(".")[2] in ("extractall", "extract", "unpack_archive"):
                yield called
            if given.get("shell") or given.get("trust_remote_code"):
                yield f"{called} with shell or remote code"


@of_source
def test_no_pickle_and_no_foreign_code():
    found = {p.relative_to(ROOT).as_posix(): list(faults(ast.parse(p.read_text()))) for p in CODE}
    assert len(found) > 200
    # The one place that runs code is where a user names a file.
    told = {path: calls for path, calls in found.items() if calls}
    assert told == {"fkdiff/terms/reward_finding.py": ["exec"]}


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from dill import loads", "torch.load(f)",
     "torch.load(f, weights_only=False)",
     "np.load(f, allow_pickle=True)", "eval(text)", "tar.extractall(out)", "torch.save(x, f)",
     "subprocess.run(c, shell=True)", "AutoModel.from_pretrained(n, trust_remote_code=True)"],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(code):
    assert len(list(faults(ast.parse(code)))) == 1


def test_no_network_at_import():
    """Sockets are watched since before the first test module was imported."""
    before = len(ATTEMPTS)
    for module in pkgutil.walk_packages(fkdiff.__path__, "fkdiff."):
        importlib.import_module(module.name)
    assert ATTEMPTS[before:] == [] and not any("import" in attempt for attempt in ATTEMPTS)


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A reward file and a plug-in that tell when they are run."""
    (tmp_path / "trap.py").write_text(
        "from pathlib import Path\nPath('sprung').touch()\n"
        "def score(pixels):\n    return pixels.mean((1, 2, 3))\n"
    )
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fkdiff.rewards]\nacme-trap = trap:score\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "sprung"
    sys.modules.pop("trap", None)


def test_rewards_run_only_when_they_are_named(trap):
    assert "acme-trap" in [entry.name for entry in available()]
    load_reward("2 * brightness")
    for near in ("trap", "acme-tra", "trap.py", "brightness + trap"):
        with pytest.raises((RewardError, ValueError)):
            load_reward(near)
        assert near == "trap.py" or not trap.exists()
        trap.unlink(missing_ok=True)
    load_reward("acme-trap")
    assert trap.exists()
    trap.unlink()
    load_reward("trap.py:score")
    assert trap.exists()


@pytest.mark.parametrize("prompt", ["../../etc/passwd", "/etc/x", "..", NASTY, "a\0b", "con" * 99])
def test_no_prompt_leads_out_of_the_folder(prompt):
    name = _name(3, Request((prompt,)))
    assert Path(name).name == name and not name.startswith(".") and len(name) < 60


@pytest.mark.parametrize("setting", ["out", "model", "device", "resume", "prompts", "__class__"])
def test_no_line_of_a_file_sets_where_or_what(tmp_path, setting):
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"prompt": "a cat", setting: "../elsewhere"}))
    with pytest.raises(Stop, match="can't set"):
        read_prompts(file, Request((), model="own/model", reward="brightness"))


def test_markup_stays_text_on_the_index(tmp_path):
    about = {"samples": "images", "ess": [1.0], "log_z": [0.0]}
    about["particles"] = [{"rewards": {NASTY: 1.0}}]
    lines = [Line(NASTY, "00000-script", about), Line(NASTY, "00001-script", None)]
    text = save_index(tmp_path, NASTY, lines).read_text()
    assert "<script" not in text and "<img src=x" not in text and "onerror=alert(1)>" not in text
    assert text.count("&lt;script&gt;") >= 6


def test_tensors_of_a_snapshot_are_no_objects(tmp_path):
    """What torch.save writes is a pickle, and is refused wherever a snapshot is expected."""
    from fkdiff.taps.snapshot_file import SnapshotError, read_tree

    torch.save({"a": torch.zeros(1)}, tmp_path / "snapshot.safetensors")
    with pytest.raises(SnapshotError, match="is damaged"):
        read_tree(tmp_path / "snapshot.safetensors")
