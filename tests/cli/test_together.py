"""`fkdiff generate --prompts`: lines drawn at once are saved as if each had been drawn alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fkdiff.cli import main
from fkdiff.commands import drawing, together
from fkdiff.commands.request import Request
from fkdiff.taps.snapshot_file import read_tree
from tests.cli.test_resume import BREAKS, WHOLE, quicken

LINES = [{"prompt": "a cat"}, {"prompt": "a dog", "seed": 7}, {"prompt": "a key"},
         {"prompt": "a cat", "steps": 3}]  # fmt: skip
NAMES = ["00000-a-cat", "00001-a-dog", "00002-a-key", "00003-a-cat"]


@pytest.fixture(scope="module")
def loaded(model):
    return drawing.load_pipeline(Request(("a cat",), model=str(model)))


@pytest.fixture(autouse=True)
def quick(loaded, monkeypatch):
    quicken(monkeypatch, loaded)


@pytest.fixture
def sizes(monkeypatch):
    """Prompts of each run, as it begins."""
    seen, steered = [], drawing._steered
    monkeypatch.setattr(
        drawing, "_steered", lambda job: seen.append(len(job.request.prompts)) or steered(job)
    )
    return seen


def words(model, out, *more):
    small = ("--height", 32, "--width", 32, "--steps", 2, "--particles", 2, "--micro-batch", 2)
    asked = ("generate", "--prompts", "list.jsonl", "--model", model, "--ess", 1)
    steered = ("--window", "0,1", "--reward", "mine.py:score", *small, "--out", out, *more)
    return [str(word) for word in (*asked, *steered)]


def put(here, code):
    """Write the lines and the reward's code."""
    (here / "list.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    (here / "mine.py").write_text(code)


@pytest.fixture
def run(fkdiff, here, model, sizes):
    """The command on the lines; takes the reward's code, the folder and more words."""

    def command(code, out, *more):
        put(here, code)
        sizes.clear()
        return fkdiff(*words(model, out, *more))

    return command


@pytest.fixture(scope="module")
def whole(loaded, model, tmp_path_factory):
    """Folder of the lines drawn one at a time."""
    here = tmp_path_factory.mktemp("whole")
    put(here, WHOLE)
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch, loaded)
        patch.chdir(here)
        assert main(words(model, "runs", "--batch", 1)) == 0
    return here / "runs"


def kept(folder):
    """What is in a run's folder, but for what it cost and where it is."""
    about = json.loads((folder / "result.json").read_text())
    others = about["settings"].pop("together", "")
    told = {k: v for k, v in about.items() if k not in ("cost", "command", "python")}
    names = sorted(path.name for path in folder.rglob("*"))
    return load_file(folder / "result.safetensors"), told, names, others


def same(one, other):
    """Whether two folders hold the same runs, in their places."""
    for name in NAMES:
        (a, about, names, _), (b, other_about, other_names, _) = (
            kept(one / name),
            kept(other / name),
        )
        assert a.keys() == b.keys()
        if not all(a[key].equal(b[key]) for key in a) or about != other_about:
            return False
        assert names == other_names
    return True


def test_lines_at_once_are_those_drawn_alone(run, whole, here, sizes):
    code, _, error = run(WHOLE, "runs", "--batch", 3, "--plain")
    assert code == 0, error
    assert sizes == [3, 1]
    for name in NAMES:  # the plain run beside it is of the same prompt
        page = (here / "runs" / name / "report.html").read_text()
        assert "Plain: the pipeline as it is" in page
        (here / "runs" / name / "beside.png").unlink()
    assert same(whole, here / "runs")
    assert [kept(here / "runs" / name)[3][:18] for name in NAMES] == ["drawn with 2 other"] * 3 + [
        ""
    ]
    assert "<b>4</b> of 4" in (here / "runs" / "index.html").read_text()
    assert not list(here.rglob("together-*")) and not list(here.rglob("snapshot*"))
    assert run(WHOLE, "runs", "--batch", 2, "--plain")[0] == 0 and sizes == []
    # Results in each other's folders would be noticed.
    (here / "runs" / NAMES[0]).rename(here / "runs" / "aside")
    (here / "runs" / NAMES[2]).rename(here / "runs" / NAMES[0])
    (here / "runs" / "aside").rename(here / "runs" / NAMES[2])
    assert not same(whole, here / "runs")


BAD = """
def score(pixels, prompts):
    values = 50 * pixels.mean((1, 2, 3))
    return values * float("nan") if "a dog" in prompts else values
"""


@pytest.mark.parametrize("fault", ["NaN", "an error of another kind"])
def test_a_bad_line_loses_no_other(run, whole, here, sizes, monkeypatch, fault):
    if fault == "NaN":
        code, _, error = run(BAD, "runs", "--batch", 3)
    else:
        steered = drawing._steered

        def failing(job):
            if "a dog" in job.request.prompts:
                raise ArithmeticError("no weight left: NaN")
            return steered(job)

        with monkeypatch.context() as patch:
            patch.setattr(drawing, "_steered", failing)
            code, _, error = run(WHOLE, "runs", "--batch", 3)
    assert code == 1 and "1 of 4 prompts failed" in error and "'a dog'" in error and "NaN" in error
    assert "3 prompts at once failed" in error
    done = [(here / "runs" / name / "line.json").exists() for name in NAMES]
    assert done == [True, False, True, True]
    assert run(WHOLE, "runs", "--batch", 3)[0] == 0
    assert sizes == [1]
    assert same(whole, here / "runs")


def test_an_interrupted_group_goes_on_at_its_last_step(run, whole, here, sizes):
    stops = BREAKS.replace("== 4", "== 5").format(fault="raise KeyboardInterrupt")
    code, _, error = run(stops, "runs", "--batch", 3)  # two calls a step: three micro-batches
    assert code == 130 and "the same command goes on with it" in error
    assert (here / "runs" / "together-00000" / "snapshot.safetensors").exists()
    assert not list(here.glob("runs/*/line.json"))
    notes = read_tree(here / "runs/together-00000/snapshot.safetensors")[1]["note"]["requests"]
    tuples = [{k: tuple(v) if isinstance(v, list) else v for k, v in n.items()} for n in notes]
    asked = [
        together.Line(Request(**n), here / name) for n, name in zip(tuples, NAMES, strict=False)
    ]
    (group,) = together.kept_groups(asked[::-1], here / "runs")
    assert group.lines == tuple(asked)
    other = replace(asked[1], request=replace(asked[1].request, seed=8))
    assert together.kept_groups([asked[0], other, asked[2]], here / "runs") == []
    (here / "calls").write_text(".....")
    assert run(stops, "runs", "--batch", 1)[0] == 0
    assert sizes == [3, 1]
    # The trial, the second step of the three prompts, and three steps of the last line.
    assert (here / "calls").read_text() == "....." + "x" * (1 + 3 + 3)
    assert same(whole, here / "runs")
    assert not list(here.rglob("together-*"))


def test_half_as_many_where_memory_runs_out(run, whole, here, sizes, loaded, monkeypatch):
    usual = type(loaded).encode_prompt

    def hungry(self, prompt, *args, **kwargs):
        if isinstance(prompt, list) and len(prompt) > 1:
            raise MemoryError
        return usual(self, prompt, *args, **kwargs)

    monkeypatch.setattr(type(loaded), "encode_prompt", hungry)
    code, _, error = run(WHOLE, "runs", "--batch", 4)
    assert code == 0 and "3 prompts at once failed (out of memory" in error
    assert sizes == [3, 1, 1, 1, 1]
    assert same(whole, here / "runs")


def test_a_full_disk_keeps_the_group_s_states(run, whole, here, sizes, monkeypatch):
    def full(request, *_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fkdiff.result.Result.save", full)
        code, _, error = run(WHOLE, "runs", "--batch", 3)
    assert code == 1 and "4 of 4 prompts failed" in error and "No space left" in error
    assert sizes == [3, 1]
    assert run(WHOLE, "runs", "--batch", 3)[0] == 0
    assert same(whole, here / "runs") and not list(here.rglob("together-*"))


def lines(prompts, **settings):
    return [
        together.Line(Request((f"prompt {i}",), seed=i, **settings), Path(f"runs/{i:05d}-prompt"))
        for i in range(prompts)
    ]


def drawn(room, prompts, particles=4, **settings):
    """How many lines each group has, if each goes well."""
    found = []
    for group in together.groups(lines(prompts, particles=particles), Path("runs"), room):
        found.append(len(group.lines))
        room.learn(len(group.lines), settings, particles)
    return found


def test_room(monkeypatch):
    monkeypatch.setattr(together, "_memory", lambda: (10 * 2**30, 24 * 2**30))
    assert drawn(together.Room(None, None), 24) == [1, 2, 4, 8, 8, 1]
    assert drawn(together.Room(None, None), 6, particles=16) == [1, 2, 2, 1]
    assert drawn(together.Room(None, None), 3, particles=64) == [1, 1, 1]
    assert drawn(together.Room(None, memory=19), 3) == [1, 1, 1]
    assert drawn(together.Room(None, memory=20), 3) == [1, 2]
    assert drawn(together.Room(5, memory=1), 12) == [5, 5, 2]
    short = {"out_of_memory": "went on with micro_batch=9", "micro_batch": 9}
    assert drawn(together.Room(5, None), 12, **short) == [5, 2, 2, 2, 1]
    monkeypatch.setattr(together, "_memory", lambda: (10 * 2**30, 19 * 2**30))
    assert drawn(together.Room(None, None), 3) == [1, 1, 1]


def test_what_is_taken_and_free_is_told():
    taken, limit = together._memory()
    assert 2**20 < taken < limit


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("a cat", "--batch", 2), "--batch goes with a file of prompts"),
        (("a cat", "--memory", 2), "--memory goes with a file of prompts"),
        (("--prompts", "list.txt", "--batch", 0), "--batch must be at least 1, got 0"),
        (("--prompts", "list.txt", "--memory", 0), "--memory must be a positive number of GB"),
    ],
)
def test_options_out_of_place_are_refused(fkdiff, here, model, words, told):
    (here / "list.txt").write_text("a cat\n")
    code, _, error = fkdiff("generate", *words, "--model", model, "--reward", "brightness")
    assert code == 2 and told in error and not (here / "runs").exists()


def test_states_are_found_by_the_lines_that_they_draw(here, monkeypatch):
    asked = lines(3)
    monkeypatch.setattr(together, "unfinished_together", lambda requests, states: [0, 0])
    (here / "together-00000").mkdir()
    assert together.kept_groups(asked, here) == []  # a line twice: of two equal ones in the file
    monkeypatch.setattr(together, "unfinished_together", lambda requests, states: [2, 1])
    (group,) = together.kept_groups(asked, here)
    assert group.go_on and group.lines == (asked[2], asked[1])
