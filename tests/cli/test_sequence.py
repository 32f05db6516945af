"""`fkdiff sequence` from a FASTA file to designs, and what it refuses."""

import csv
import json
from pathlib import Path

import pytest

from fkdiff.sequences.alphabet import Alphabet
from fkdiff.sequences.fasta import read_fasta

DATA = "".join(
    f">s{i} class={name}\n{letters}{'ACGT'[i % 4]}\n"
    for i in range(12)
    for name, letters in (("tata", "TATAAATA"), ("gc", "GCGCGGCC"))
)
MOTIF = ">MA0108 TBP\nA [0 9 0 9]\nC [0 0 0 0]\nG [0 0 0 0]\nT [9 0 9 0]\n"
SMALL = ("--alphabet", "dna", "--width", "16", "--layers", "1", "--batch", "8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data, motifs and a flow trained in two goes."""
    from fkdiff.cli import main

    home = tmp_path_factory.mktemp("flows")
    (home / "data.fasta").write_text(DATA)
    (home / "tbp.jaspar").write_text(MOTIF)
    words = ["sequence", "train", str(home / "data.fasta"), *SMALL, "--out", str(home / "flow")]
    assert main([*words, "--steps", "4"]) == 0
    assert main([*words, "--steps", "6", "--resume"]) == 0
    return home


def test_train_leaves_a_pipeline_with_its_loss_curve(folder):
    flow = folder / "flow"
    assert (flow / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (flow / "model_index.json").is_file()
    assert {f.stem for f in (flow / "guides").glob("*")} == {"tata", "gc"}
    about = json.loads((flow / "card.json").read_text())
    assert about["steps"] == 6 and about["classes"] == {"gc": 12, "tata": 12}


def test_generate_writes_designs_with_their_properties(folder, fkdiff, monkeypatch):
    monkeypatch.chdir(folder)
    code, out, err = fkdiff(
        "sequence", "generate", "--model", "flow", "--guide", "tata", "--jaspar", "tbp.jaspar",
        "--reward", "TBP - 0.5 * gc", "--length", 8, "--n", 3, "--particles", 4, "--steps", 5,
        "--out", "d.fasta", "--class", "tata", "--guidance", 300,
    )  # fmt: skip
    assert code == 0, err
    records = read_fasta("d.fasta", Alphabet.named("dna"))
    assert [len(r.sequence) for r in records] == [8] * 3
    rows = list(csv.DictReader(Path("d.csv").read_text().splitlines()))
    assert {"TBP", "gc", "tata", "reward", "duplicate", "known", "nearest"} <= set(rows[0])
    told = json.loads(Path("d.json").read_text())
    assert "TBP - 0.5 * gc" in told["target"]
    assert set(told["summary"]) == {"designs", "plain", "guided alone"}
    assert "nats a path from the unguided law" in out
    # A Kullback-Leibler divergence, of 3 paths: seen only where the guide is strong.
    assert told["nats"]["nats of guidance"] > 0
    assert Path("d.png").read_bytes()[:4] == b"\x89PNG"
    first = Path("d.fasta").read_text()
    assert fkdiff(
        "sequence", "generate", "--model", "flow", "--guide", "tata", "--jaspar", "tbp.jaspar",
        "--reward", "TBP - 0.5 * gc", "--length", 8, "--n", 3, "--particles", 4, "--steps", 5,
        "--out", "e.fasta", "--class", "tata", "--guidance", 300, "--no-compare",
    )[0] == 0  # fmt: skip
    assert Path("e.fasta").read_text() == first


@pytest.mark.parametrize(
    "words, told",
    [
        (("--length", 0), "length must be in [1, 9], got 0"),
        (("--length", 40), "length must be in [1, 9]"),
        (("--n", 0), "--n must be at least 1"),
        (("--draws", 0), "--draws must be at least 1"),
        (("--guide", "tat"), "did you mean tata?"),
        (("--reward", "absent"), "guides of this model: gc, tata"),
        (("--reward", "brightness"), "not sequences"),
        (("--class", "x"), "class must be one of gc, tata"),
        (("--jaspar", "data.fasta"), "--jaspar: data.fasta"),
        (("--model", "peptide"), "did you mean peptides?"),
        (("--scale", "nan"), "--scale must be a finite number"),
        (("--out", "absent/d.fasta"), "its folder doesn't exist"),
        (("--model", "other"), "not a GumbelFlowPipeline"),
    ],
)
def test_generate_refuses_before_anything_is_written(folder, fkdiff, monkeypatch, words, told):
    monkeypatch.chdir(folder)
    (folder / "other").mkdir(exist_ok=True)
    (folder / "other" / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    before = sorted(folder.rglob("*"))
    base = {"--model": "flow", "--out": "refused.fasta", "--steps": 2}
    base |= dict(zip(words[::2], words[1::2], strict=True))
    code, _, err = fkdiff("sequence", "generate", *(w for item in base.items() for w in item))
    assert code == 2 and told in err, err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "text, words, told",
    [
        (">a\nACGX\n", (), "bad.fasta, line 2, column 4: 'X' is no letter of ACGT"),
        ("", (), "holds no sequences"),
        (DATA, ("--steps", 0), "--steps must be at least 1"),
        (DATA, ("--alphabet", "dnaa"), "--alphabet: alphabet must be one of"),
        (DATA, ("--schedule", "linear"), "--schedule must be one of consistent, paper"),
        (DATA, ("--width", 6), "--width must be a positive multiple of 4"),
        (DATA, ("--resume",), "holds no training to go on with"),
        (None, (), "can't be read"),
    ],
)
def test_train_refuses_before_anything_is_written(tmp_path, fkdiff, text, words, told):
    file = tmp_path / "bad.fasta"
    if text is not None:
        file.write_text(text)
    base = ("sequence", "train", file, "--alphabet", "dna", "--out", tmp_path / "out")
    code, _, err = fkdiff(*base, *words)
    assert code == 2 and told in err, err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["train", "generate"])
def test_help_teaches_by_example(fkdiff, command):
    code, out, _ = fkdiff("sequence", command, "--help")
    assert code == 0 and "Example: fkdiff sequence" in out
