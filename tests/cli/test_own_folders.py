"""Only a run's own folder is replaced: what a user keeps is neither overwritten nor deleted."""

import json
import os
import threading

import pytest
from PIL import Image

from fkdiff.folders import claimed, is_run
from fkdiff.report import save
from fkdiff.taps.snapshots import Snapshots
from tests.report.clouds import invented

SMALL = ("--height", 32, "--width", 32, "--steps", 2, "--particles", 2)
MINE = b"mine, and nobody else's"

# What a user may keep in a folder, by names that a run uses too.
KEPT = {
    "pictures": ("images/0007.png", "images/0042.png"),
    "a result": ("result.json",),
    "a report": ("report.html", "index.html"),
    "a sweep": ("sweep.json", "slider.png", "grid.png"),
    "an evaluation": ("evaluation.json", "episode.gif"),
    "tensors": ("result.safetensors",),
    "states": ("snapshot.safetensors", "letter.txt"),
    "a letter": ("letter.txt",),
    "lines": ("00000-a-cat/letter.txt", "together-00000/letter.txt"),
    "a model": ("model_index.json", "card.json", "training/state.txt"),
}


@pytest.fixture
def commands(model, here):
    """Commands that write into a folder, by name."""
    (here / "list.txt").write_text("a cat\n")
    (here / "data.fasta").write_text(">a\nACGT\n")
    base = ("--model", model, "--reward", "brightness", *SMALL)
    sweep = ("--model", model, "--steps", 1, "--w", "0")
    cut = ("--model", model, "--out", "cut.png", "--height", 32, "--width", 32)
    return {
        "generate": ("generate", "a cat", *base, "--out"),
        "lines": ("generate", "--prompts", "list.txt", *base, "--out"),
        "sweep": ("sweep", "a cat", *sweep, "--out"),
        "rgba": ("rgba", "a cat", *cut, "--report"),
        "train": ("sequence", "train", "data.fasta", "--alphabet", "dna", "--out"),
    }


def keep(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(MINE)
    return contents(folder)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("command", ["generate", "lines", "sweep", "rgba", "train"])
def test_a_folder_of_the_user_s_is_refused_as_it_is(fkdiff, here, commands, command, kind):
    before = keep(here / "mine", KEPT[kind])
    code, out, error = fkdiff(*commands[command], "mine")
    assert (code, out) == (2, "") and "holds files that are no run of fkdiff" in error
    assert error.count("\n") == 1 and contents(here / "mine") == before


@pytest.mark.parametrize("kind", KEPT)
def test_a_result_saves_itself_nowhere_else(tmp_path, kind):
    before = keep(tmp_path / "mine", KEPT[kind])
    with pytest.raises(OSError, match="holds files that are no run of fkdiff"):
        invented(particles=2).save(tmp_path / "mine")
    assert contents(tmp_path / "mine") == before


@pytest.mark.parametrize("command", ["generate", "lines", "sweep", "rgba", "train"])
def test_an_empty_path_is_refused(fkdiff, here, commands, command):
    before = sorted(here.rglob("*"))
    for empty in ("", " "):
        code, out, error = fkdiff(*commands[command], empty)
        assert (code, out) == (2, "") and "must name a file or folder" in error
    assert sorted(here.rglob("*")) == before
    with pytest.raises(OSError, match="got an empty path"):
        invented(particles=1).save("")
    with pytest.raises(ValueError, match="keep must name a folder"):
        Snapshots("")


def test_a_run_is_replaced_and_what_was_put_beside_it_stays(fkdiff, here, commands):
    words = (*commands["generate"], "run")
    assert fkdiff(*words)[0] == 0
    extra = keep(here / "run" / "images", ("mine.png",)) | keep(here / "run", ("letter.txt",))
    assert fkdiff(*words, "--particles", 1)[0] == 0
    names = [path.name for path in sorted((here / "run" / "images").iterdir())]
    assert names == ["0000.png", "mine.png"]
    assert (here / "run" / "letter.txt").read_bytes() == MINE and extra
    (here / "run" / "images" / "0001.png").write_bytes(MINE)  # not this run's any more
    code, _, error = fkdiff(*words, "--particles", 2)
    assert code == 2 and "holds pictures that its run didn't write (0001.png)" in error
    assert (here / "run" / "images" / "0001.png").read_bytes() == MINE


@pytest.mark.parametrize(
    "name",
    ["snapshot.safetensors", ".snapshot.safetensors.k3_x09ab.part", "snapshot.0123456789ab.trace"],
)
def test_what_a_first_save_leaves_is_a_run_s(tmp_path, name):
    """Whenever it is killed: before the state, before the trace beside it has its name."""
    keep(tmp_path, (name,))
    assert is_run(tmp_path)
    keep(tmp_path, ("letter.txt",))
    assert not is_run(tmp_path)


@pytest.mark.parametrize("name", ["snapshot.trace", "snapshot.txt", ".snapshot.part"])
def test_what_is_named_like_a_state_is_no_run_s(tmp_path, name):
    keep(tmp_path, (name,))
    assert not is_run(tmp_path)


def test_links_are_not_followed_out_of_a_run(fkdiff, here, commands):
    words = (*commands["generate"], "run")
    before = keep(here / "elsewhere", ("0000.png", "0007.png", "report.html"))
    assert fkdiff(*words)[0] == 0
    for path in sorted((here / "run" / "images").iterdir()):
        path.unlink()
    (here / "run" / "images").rmdir()
    (here / "run" / "images").symlink_to(here / "elsewhere")
    code, _, error = fkdiff(*words)
    assert code == 2 and "is a link that leads out of the run" in error
    (here / "run" / "images").unlink()
    (here / "run" / "report.html").unlink()
    (here / "run" / "report.html").symlink_to(here / "elsewhere" / "report.html")
    assert fkdiff(*words)[0] == 0
    (here / "link").symlink_to(here / "elsewhere")
    code, _, error = fkdiff(*commands["generate"], "link")
    assert code == 2 and "no run of fkdiff" in error
    assert contents(here / "elsewhere") == before


def test_a_run_of_an_earlier_version_is_known_by_its_result(tmp_path):
    save(invented(particles=3), tmp_path / "run")
    assert not (tmp_path / "run" / ".fkdiff").exists()
    save(invented(particles=1), tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "images").iterdir()] == ["0000.png"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "result.json").write_text('{"accuracy": 0.9}')
    assert is_run(tmp_path / "run") and not is_run(tmp_path / "other")


def test_what_a_killed_save_left_is_the_run_s_own(tmp_path, monkeypatch):
    save(invented(particles=1), tmp_path / "run")
    monkeypatch.setattr("fkdiff.report.run.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(invented(particles=3), tmp_path / "run")
    monkeypatch.undo()
    assert len(list((tmp_path / "run" / "images").iterdir())) == 3
    save(invented(particles=2), tmp_path / "run")
    assert len(list((tmp_path / "run" / "images").iterdir())) == 2


WRITERS = {
    "designs.fasta": ("sequence", "generate", "--n", 1, "--steps", 1, "--out", "designs.fasta"),
    "designs.csv": ("sequence", "generate", "--n", 1, "--steps", 1, "--out", "designs.fasta"),
    "designs.png": ("sequence", "generate", "--n", 1, "--steps", 1, "--out", "designs.fasta"),
    "cat.png": ("rgba", "a cat", "--model", "MODEL", "--out", "cat.png"),
    "cat-2.png": ("rgba", "a cat", "--model", "MODEL", "--images", 2, "--out", "cat.png"),
    "pasted.png": ("paste", "a.png", "b.png"),
    "new.jpg": ("paste", "a.png", "b.png", "--out", "new.jpg"),
    "bench.json": ("bench", "resampling", "--json", "bench.json"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_of_the_user_s_is_not_overwritten(fkdiff, here, model, name):
    Image.new("RGB", (4, 4)).save(here / "a.png")
    Image.new("RGBA", (4, 4)).save(here / "b.png")
    before = keep(here, (name,))
    code, _, error = fkdiff(*(model if word == "MODEL" else word for word in WRITERS[name]))
    assert code == 2 and f"{name} is there, and fkdiff didn't write it" in error
    assert contents(here) == before


def test_a_file_that_fkdiff_wrote_is_replaced(fkdiff, here):
    Image.new("RGB", (4, 4)).save(here / "a.png")
    Image.new("RGBA", (4, 4)).save(here / "b.png")
    assert [fkdiff("paste", "a.png", "b.png")[0] for _ in range(2)] == [0, 0]


def test_two_runs_into_one_folder_are_one_too_many(fkdiff, here, commands, tmp_path):
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with claimed(here / "run"):
            entered.set()
            leave.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    entered.wait(60)
    for command in ("generate", "lines", "sweep", "rgba", "train"):
        code, _, error = fkdiff(*commands[command], "run")
        assert code == 2 and "another run is writing into" in error, command
    with pytest.raises(BlockingIOError, match="another run is writing"):
        invented(particles=1).save(here / "run")
    leave.set()
    other.join()
    assert not (here / "run").exists()  # nothing was made in it
    assert fkdiff(*commands["generate"], "run")[0] == 0


ROAMING = """
import os, tempfile

def roaming(pixels):
    os.chdir(tempfile.mkdtemp())
    return pixels.mean((1, 2, 3))
"""


@pytest.mark.parametrize("command", ["generate", "lines"])
def test_a_reward_that_changes_the_working_folder_moves_nothing(fkdiff, here, commands, command):
    (here / "roaming.py").write_text(ROAMING + "\nos.chdir(tempfile.gettempdir())\n")
    words = ["roaming.py:roaming" if w == "brightness" else w for w in commands[command]]
    code, _, error = fkdiff(*words, "run", "--window", "0,1", "--ess", 1, "--plain")
    assert code == 0, error
    assert os.getcwd() == str(here)
    run = here / "run" / ("00000-a-cat" if command == "lines" else "")
    assert (run / "report.html").exists() and not list(run.glob("snapshot*"))
    assert fkdiff(*commands["generate"], "still", "--window", "0,1", "--ess", 1)[0] == 0
    names = [
        {p.name for p in folder.iterdir()} - {"beside.png"} for folder in (run, here / "still")
    ]
    assert names[0] - {"line.json"} == names[1]


@pytest.mark.parametrize("file", ["images/0000.png", "result.json", "report.html", "metrics.json"])
def test_a_full_disk_names_the_file(fkdiff, here, commands, monkeypatch, file):
    usual = os.replace

    def replaced(self, target):
        if str(target).endswith(file):
            raise OSError(28, os.strerror(28))
        return usual(self, target)

    monkeypatch.setattr("pathlib.Path.replace", replaced)
    code, _, error = fkdiff(*commands["generate"], "run")
    last = error.splitlines()[-1]
    assert code == 1 and f"can't write run/{file}: No space left on device; free some" in last


def test_a_result_of_another_writer_is_no_mark(tmp_path):
    """Whatever stands in a file of that name, and however it is damaged."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for text in ("", "{", "[]", '"fkdiff"', "1e999", '{"fkdiff": 1}', "[" * 10**5, "\0\xff"):
        (folder / "result.json").write_text(text)
        assert not is_run(folder), text[:20]
    (folder / "result.json").write_text(json.dumps({"fkdiff": "1", "log_z": [], "particles": 3}))
    assert is_run(folder)
