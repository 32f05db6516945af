"""The smaller commands, and what the first one imports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from fkdiff import bench, zoo
from fkdiff.commands import doctor, lists
from fkdiff.report import save
from fkdiff.report.png import encode_png
from tests.report.clouds import invented

COMMANDS = (
    "app",
    "generate",
    "rgba",
    "paste",
    "show",
    "rewards",
    "zoo",
    "policy",
    "bench",
    "doctor",
)


LIGHT = {
    "annotated_doc", "attr", "click", "markdown_it", "mdurl", "pygments", "rich", "shellingham",
    "typer",
}  # fmt: skip
"""What typer is made of; anything else that `--help` imported would make it slow."""


def test_help_is_light():
    """Not timed, as a machine may be busy: what it imports decides how quick it is."""
    code = (
        "import sys; before = set(sys.modules); import fkdiff.cli as c; c.main(['--help']); "
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    found = set(done.stdout.splitlines()[-1].split()) - sys.stdlib_module_names
    assert "typer" in found and found - LIGHT == {"fkdiff"}, found - LIGHT


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_teaches_by_example(fkdiff, command):
    code, out, _ = fkdiff(command, "--help")
    assert code == 0 and "Example: fkdiff" in out


def test_without_words_there_is_help(fkdiff):
    code, out, _ = fkdiff()
    assert code == 0 and all(command in out for command in COMMANDS)


def test_show_reads_back_what_a_run_wrote(fkdiff, tmp_path):
    save(invented(particles=2), tmp_path, command="fkdiff generate 'a cat' --seed 7")
    picture = tmp_path / "images" / "0000.png"
    code, out, _ = fkdiff("show", picture)
    assert code == 0
    assert "a cat and a pizza on a blue background" in out
    assert "fkdiff generate 'a cat' --seed 7" in out
    about = json.loads(fkdiff("show", picture, "--json")[1])
    assert about["seed"] == 7 and about["call"]["guidance_scale"] == 4.0


def test_show_lets_no_file_steer_the_terminal(fkdiff, tmp_path):
    about = {"prompt": "\x1b[2J[bold]a cat[/bold]", "python": "pass\x07"}
    (tmp_path / "p.png").write_bytes(encode_png(Image.new("RGB", (2, 2)), about))
    _, out, _ = fkdiff("show", tmp_path / "p.png")
    assert "\x1b" not in out and "\x07" not in out and "[bold]a cat[/bold]" in out


def test_show_refuses_what_it_cannot_read(fkdiff, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (2, 2)).save(tmp_path / "bare.png")
    cases = {"gone.png": "doesn't exist", "text.png": "no PNG", "bare.png": "carries no settings"}
    for name, says in cases.items():
        code, out, error = fkdiff("show", tmp_path / name)
        assert (code, out) == (2, "") and says in error and error.count("\n") == 1


def test_rewards_are_listed(fkdiff):
    code, out, _ = fkdiff("rewards")
    assert code == 0 and "brightness" in out and "pixels" in out


def test_zoo_lists_the_cards(fkdiff, bundled):
    code, out, _ = fkdiff("zoo")
    assert code == 0 and "emoji" in out and "Apache-2.0" in out and zoo.digest("emoji") in out
    code, out, _ = fkdiff("zoo", "emoji")
    assert code == 0 and "two objects: 0.5" in out and "guidance_scale 2" in out
    code, out, error = fkdiff("zoo", "emojis")
    assert (code, out) == (2, "") and "got 'emojis'" in error and error.count("\n") == 1


def test_doctor_tells_versions_and_no_paths(fkdiff):
    code, out, _ = fkdiff("doctor")
    assert code == 0 and "torch" in out and "threads" in out and "nothing is broken" in out
    assert all(zoo.digest(name) in out for name in zoo.MODELS)
    assert sys.prefix not in out and str(Path.home()) not in out


def test_doctor_tells_broken_from_absent(fkdiff, monkeypatch, tmp_path):
    monkeypatch.setattr(lists, "reward_rows", list)  # another test asks for them
    known = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "0.1" if name == "peft" else known(name))
    code, out, _ = fkdiff("doctor")
    assert code == 0 and "pip install 'fkdiff[lora]' brings peft" in " ".join(out.split())
    weights = tmp_path / "emoji" / "unet" / "a.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_text("version https://git-lfs.github.com/spec/v1")
    (tmp_path / "emoji" / "card.json").write_text('{"kind": "pipeline", "summary": ""}')
    monkeypatch.setattr(zoo, "_HERE", tmp_path)
    zoo._read_card.cache_clear()
    code, out, _ = fkdiff("doctor")
    zoo._read_card.cache_clear()
    assert code == 1 and "a.safetensors is missing or damaged" in out and "broken" in out


def test_bench_lists_its_names(fkdiff):
    code, out, _ = fkdiff("bench")
    assert code == 0 and all(name in out for name in bench.BENCHES)


def test_bench_prints_a_table_and_writes_json(fkdiff, tmp_path, monkeypatch):
    class Stand:
        @staticmethod
        def run(quick, seed):
            return {"ratio": {"ssp": {"1000x64": 0.91234}}, "quick": quick}

    monkeypatch.setattr(bench, "import_module", lambda name: Stand)
    file = tmp_path / "b.json"
    code, out, _ = fkdiff("bench", "memory", "--quick", "--seed", 4, "--json", file)
    assert code == 0 and "ratio.ssp.1000x64" in out and "0.9123" in out
    written = json.loads(file.read_text())
    assert written["ratio"]["ssp"]["1000x64"] == 0.91234 and written["quick"] is True
    about = written["provenance"]
    assert about["seed"] == 4 and about["bench"] == "memory"
    assert {"python", "torch", "diffusers", "fkdiff", "threads", "commit"} <= set(about)


def test_bench_refuses_an_unknown_name(fkdiff):
    code, _, error = fkdiff("bench", "speed")
    assert code == 2 and "overhead" in error and error.count("\n") == 1


def test_bench_says_which_weights_it_lacks(fkdiff, monkeypatch, tmp_path):
    def absent():
        return load_file(tmp_path / "model.safetensors")

    monkeypatch.setattr("fkdiff.zoo.judge.load_judge", absent)
    code, out, error = fkdiff("bench", "fk", "--quick", "--resume", tmp_path / "rows.jsonl")
    assert (code, out) == (2, "") and "python -m fkdiff.zoo.train" in error
    assert not list(tmp_path.iterdir())
    code, _, error = fkdiff("bench", "memory", "--resume", tmp_path / "rows.jsonl")
    assert code == 2 and "--resume can't be used with memory" in error
