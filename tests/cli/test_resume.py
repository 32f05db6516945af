"""`fkdiff generate --resume`: whatever ended a run, it goes on and ends as if nothing had."""

import json
import os
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from fkdiff.cli import main
from fkdiff.commands import drawing
from fkdiff.commands.request import Request
from fkdiff.taps.snapshot_file import read_tree, write_tree

SMALL = ("--height", 32, "--width", 32, "--steps", 4, "--particles", 3, "--window", "0,1")
WHOLE = """
def score(pixels):
    return 50 * pixels.mean((1, 2, 3))
"""
BREAKS = """
import os, signal, time
import torch
from pathlib import Path

def score(pixels):
    with open("calls", "a") as file:
        file.write("x")
    values = 50 * pixels.mean((1, 2, 3))
    if len(Path("calls").read_text()) == 4:  # the trial before the run is one of them
        {fault}
    return values
"""
FAULTS = {
    "raises": ("raise RuntimeError('broken')", 1, "RuntimeError: broken"),
    "NaN": ("return values * float('nan')", 1, "NaN"),
    "shape": ("return torch.zeros(len(pixels), 2)", 1, "shape"),
    "hangs": ("time.sleep(30)", 1, "took more than 1 s"),
    "Ctrl-C": ("raise KeyboardInterrupt", 130, "interrupted"),
    "memory": ("raise MemoryError", 1, "out of memory"),
}


@pytest.fixture(scope="session")
def loaded(model):
    """The pipeline, loaded once for all the runs of this file."""
    return drawing.load_pipeline(Request(("a cat",), model=str(model)))


def quicken(patch, pipe):
    """Let runs load nothing and draw no plot: neither is kept in a snapshot."""
    patch.setattr(drawing, "load_pipeline", lambda request: pipe)
    patch.setattr("fkdiff.report.page.course_svg", lambda *_: "<svg></svg>")


@pytest.fixture(autouse=True)
def quick(loaded, monkeypatch):
    quicken(monkeypatch, loaded)


def words(model, out, *more):
    base = ("generate", "a cat", "--model", model, "--reward", "mine.py:score", "--ess", 1)
    return [str(word) for word in (*base, *more, *SMALL, "--out", out)]


@pytest.fixture
def generate(fkdiff, here, model):
    """The command with the reward of `mine.py`; takes the code, the folder and more words."""

    def run(code, out, *more):
        (here / "mine.py").write_text(code)
        return fkdiff(*words(model, out, *more))

    return run


@pytest.fixture(scope="session")
def whole(loaded, model, tmp_path_factory):
    """Folder of the run that nothing interrupted."""
    here = tmp_path_factory.mktemp("whole")
    (here / "mine.py").write_text(WHOLE)
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch, loaded)
        patch.chdir(here)
        assert main(words(model, "run")) == 0
    return here / "run"


def same(one, other):
    """Whether two folders hold the same run: every tensor, picture and number but the times."""
    tensors = [load_file(folder / "result.safetensors") for folder in (one, other)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(value.equal(tensors[1][name]) for name, value in tensors[0].items())
    kept = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    for about in kept:
        about["cost"]["seconds"] = about["cost"]["peak_memory_mb"] = None
        about["command"], about["python"] = "", ""
    assert kept[0] == kept[1]
    assert (one / "metrics.json").read_bytes() == (other / "metrics.json").read_bytes()
    names = [sorted(p.relative_to(folder) for p in folder.rglob("*")) for folder in (one, other)]
    assert names[0] == names[1]
    return True


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_goes_on_once_its_reward_is_mended(generate, fkdiff, here, whole, fault):
    line, code, told = FAULTS[fault]
    lasting = BREAKS.replace("== 4", ">= 4") if fault == "memory" else BREAKS
    reward = lasting.format(fault=line)
    start = time.monotonic()
    limit = ("--reward-timeout", 1) if fault == "hangs" else ()
    found, _, error = generate(reward, "run", *limit)
    assert time.monotonic() - start < 20
    last = error.splitlines()[-1]
    assert found == code and told in last
    assert "go on with: fkdiff generate --resume run --reward mine.py:score" in last
    partial = json.loads((here / "run" / "result.json").read_text())
    assert partial["complete"] is False
    (here / "mine.py").write_text(WHOLE)
    found, _, error = fkdiff("generate", "--resume", "run", "--reward", "mine.py:score")
    assert found == 0, error
    assert same(whole, here / "run")
    found, out, _ = fkdiff("generate", "--resume", "run")
    assert found == 0 and "Finished already. Report: run/report.html" in out


def test_a_killed_run_goes_on_at_its_last_step(generate, fkdiff, here, whole, model):
    """SIGKILL leaves no time for anything."""
    child = os.fork()
    if not child:
        kill = "os.kill(os.getpid(), signal.SIGKILL)"
        generate(BREAKS.format(fault=kill), "run", "--plain")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    (here / "mine.py").write_text(WHOLE)
    tree, about = read_tree(here / "run" / "snapshot.safetensors")
    assert tree["moves"] == 2 and about["note"]["request"]["prompts"] == ["a cat"]
    assert not (here / "run" / "report.html").exists()
    code, _, error = fkdiff("generate", "--resume", "run", "--reward", "mine.py:score")
    assert code == 0, error
    page = here / "run" / "report.html"
    assert "Plain: the pipeline as it is" in page.read_text()
    a, b = (load_file(folder / "result.safetensors") for folder in (whole, here / "run"))
    assert all(a[key].equal(b[key]) for key in a)


def test_a_kill_while_a_file_is_written_harms_none(generate, fkdiff, here, whole, monkeypatch):
    child = os.fork()
    if not child:
        replaced = os.replace
        count = []

        def killed(source, target):
            count.append(target)
            if len(count) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            replaced(source, target)

        monkeypatch.setattr(os, "replace", killed)
        generate(WHOLE, "run")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert read_tree(here / "run" / "snapshot.safetensors")[0]["moves"] == 2
    assert len(list((here / "run").glob(".*.part"))) == 1
    (here / "mine.py").write_text(WHOLE)
    assert fkdiff("generate", "--resume", "run", "--reward", "mine.py:score")[0] == 0
    assert same(whole, here / "run")


def test_plain_pictures_go_on_too(generate, fkdiff, here, monkeypatch):
    reward = BREAKS.format(fault="raise KeyboardInterrupt").replace("== 4", "== 6")
    code, _, error = generate(reward, "run", "--plain")
    assert code == 130 and "the steered pictures are in run/report.html; go on with" in error
    assert {path.name for path in (here / "run").glob("*.safetensors")} == {
        "result.safetensors", "snapshot.safetensors", "snapshot-plain.safetensors"
    }  # fmt: skip
    (here / "mine.py").write_text(WHOLE)
    assert fkdiff("generate", "--resume", "run", "--reward", "mine.py:score")[0] == 0
    assert "Plain: the pipeline as it is" in (here / "run" / "report.html").read_text()
    assert not list((here / "run").glob("snapshot*"))


def full_disk(monkeypatch, after, error=28):
    """Let every file after some fail as on a full disk, half written."""
    usual, written = os.fsync, []

    def fsync(number):
        written.append(number)
        if len(written) > after:
            os.ftruncate(number, 10)
            raise OSError(error, os.strerror(error))
        usual(number)

    monkeypatch.setattr("fkdiff.files.os.fsync", fsync)


@pytest.mark.parametrize("after", (0, 2, 3, 5, 6, 7, 8))
def test_a_full_disk_is_told_and_loses_nothing(generate, fkdiff, here, whole, monkeypatch, after):
    full_disk(monkeypatch, after)
    code, _, error = generate(WHOLE, "run")
    last = error.splitlines()[-1]
    assert code == 1 and "No space left on device; free some space" in last
    monkeypatch.undo()
    monkeypatch.chdir(here)
    for path in (here / "run").rglob("*.*"):
        assert path.stat().st_size > 10 and not path.name.endswith(".part")
    if after:
        assert "go on with: fkdiff generate --resume run" in last
        assert fkdiff("generate", "--resume", "run", "--reward", "mine.py:score")[0] == 0
        assert same(whole, here / "run")
    else:
        assert not (here / "run" / "snapshot.safetensors").exists()


def test_prompts_of_a_file_go_on_within_a_line(fkdiff, here, model):
    common = words(model, "")[2:-2]
    (here / "list.txt").write_text("a cat\na dog\n")

    def run(code, out):
        (here / "mine.py").write_text(code)
        return fkdiff("generate", "--prompts", "list.txt", *common, "--out", out)

    assert run(WHOLE, "whole")[0] == 0
    late = BREAKS.replace("== 4", "== 8").format(fault="raise RuntimeError")
    assert run(late, "runs")[0] == 1
    (here / "calls").unlink()
    assert run(BREAKS.format(fault="pass"), "runs")[0] == 0
    assert (here / "calls").read_text() == "xxx"  # the trial, the third and the fourth step
    for name in ("00000-a-cat", "00001-a-dog"):
        assert same(here / "whole" / name, here / "runs" / name)
    assert not list(here.rglob("snapshot*"))


@pytest.fixture(scope="session")
def half(loaded, model, tmp_path_factory):
    """Folder in which a run broke at its third step."""
    here = tmp_path_factory.mktemp("half")
    (here / "mine.py").write_text(BREAKS.format(fault="raise RuntimeError"))
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch, loaded)
        patch.chdir(here)
        assert main(words(model, "run")) == 1
    return here


@pytest.fixture
def broken(half, here):
    """A run that broke at its third step, here."""
    shutil.copytree(half, here, dirs_exist_ok=True)


REFUSED = {
    "no folder": (["--resume", "nowhere"], "holds no unfinished run"),
    "a file": (["--resume", "mine.py"], "holds no unfinished run"),
    "a prompt": (["a cat", "--resume", "run"], "leave out prompt"),
    "no saving": (["--resume", "run", "--reward", "mine.py:score", "--save-every", "0"],
                  "--save-every must be at least 1 with --resume"),
    "other options": (["--resume", "run", "--seed", "3", "--particles", "4"],
                      "leave out --particles, --seed"),
    "code that isn't named": (["--resume", "run"],
                              "name it too: fkdiff generate --resume run --reward mine.py:score"),
    "another reward": (["--resume", "run", "--reward", "brightness"],
                       "--reward must be the run's own with --resume: --reward mine.py:score"),
    "a monitor": (["--resume", "run", "--reward", "mine.py:score", "--monitor", "brightness"],
                  "--monitor must be the run's own with --resume: none"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_t_go_on_is_refused(fkdiff, broken, case):
    given, told = REFUSED[case]
    code, out, error = fkdiff("generate", *given)
    assert (code, out) == (2, "") and told in error and error.count("\n") == 1, error


NOTES = {
    "no request": {},
    "a list": {"prompts": "a cat"},
    "a number": {"prompts": ["a cat"], "seed": "7"},
    "an option that isn't one": {"prompts": ["a cat"], "shell": "rm"},
    "true": {"prompts": ["a cat"], "steps": True},
}


@pytest.mark.parametrize("case", NOTES)
def test_a_stranger_s_snapshot_is_read_with_care(fkdiff, here, broken, case):
    file = here / "run" / "snapshot.safetensors"
    tree, about = read_tree(file)
    write_tree(file, tree, {**about, "note": {"request": NOTES[case]}})
    code, _, error = fkdiff("generate", "--resume", "run", "--reward", "mine.py:score")
    assert code == 2 and "holds no run of this command" in error and error.count("\n") == 1


def test_a_snapshot_writes_nowhere_but_in_its_folder(fkdiff, here, broken):
    file = here / "run" / "snapshot.safetensors"
    tree, about = read_tree(file)
    about["note"]["request"]["out"] = "../elsewhere"
    write_tree(file, tree, about)
    code, _, error = fkdiff("generate", "--resume", "run", "--reward", "mine.py:score")
    assert code == 2 and "its out is '../elsewhere'" in error
    assert not (here.parent / "elsewhere").exists()


def test_another_model_is_refused(fkdiff, here, broken, model):
    file = here / "run" / "snapshot.safetensors"
    tree, about = read_tree(file)
    about["settings"]["versions"]["torch"] = "1.0"
    write_tree(file, tree, about)
    code, _, error = fkdiff("generate", "--resume", "run", "--reward", "mine.py:score")
    assert code == 2 and "is of another run (versions" in error
    assert file.is_file()


def test_other_weights_of_the_same_name_are_refused(fkdiff, here, broken, loaded):
    weight = next(loaded.text_encoder.parameters())
    before = weight.detach().clone()
    with torch.no_grad():
        weight[-1] += 1
    resume = ("generate", "--resume", "run", "--reward", "mine.py:score")
    code, _, error = fkdiff(*resume)
    with torch.no_grad():
        weight.copy_(before)
    assert code == 2 and "was made with other weights of the model" in error, error
    assert error.count("\n") == 1
    assert (here / "run" / "snapshot.safetensors").is_file()


def test_a_new_run_in_the_folder_of_another_says_so(generate, here, whole, broken):
    code, _, error = generate(WHOLE, "run")
    assert code == 0 and "note: run holds an unfinished run" in error
    assert same(whole, here / "run")


def test_nothing_is_kept_where_nothing_is_asked_for(generate, here):
    code, _, error = generate(BREAKS.format(fault="raise RuntimeError"), "run", "--save-every", 0)
    assert code == 1 and "--resume" not in error
    assert not list(here.rglob("snapshot*"))
