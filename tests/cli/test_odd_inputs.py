"""Odd inputs over all commands, refused in one line before anything is written.

Beside `test_bad_inputs.py`: numbers beyond all bounds, damaged models, pictures and tables, paths
that are none, and texts that can't be written down.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fkdiff.sequences.alphabet import Alphabet
from fkdiff.sequences.fasta import FastaError
from fkdiff.sequences.tables import read_sequences

SIZE = ("--height", "32", "--width", "32", "--steps", "2")
GENERATE = ("generate", "a cat", "--model", "tiny", "--reward", "brightness", *SIZE)
DESIGN = ("sequence", "generate", "--n", "1", "--steps", "1", "--length", "5", "--out", "d.fasta")
TRAIN = ("sequence", "train", "ok.fasta", "--alphabet", "dna", "--out", "flow", "--steps", "1")
SWEEP = ("sweep", "a cat", "--model", "tiny", "--steps", "1", "--out", "new")
RGBA = ("rgba", "a cat", "--model", "tiny", *SIZE, "--out", "cutout.png", "--report", "new")
PASTE = ("paste", "p.png", "c.png")
VAST, LONG = "9" * 30, "x" * 300

# Options of a command, each of them odd, and what is said of it.
ODD = {
    GENERATE: [
        ("--monitor none", "--monitor must name a reward, got 'none'"),
        ("--monitor ''", "--monitor must name a reward"),
        (f"--particles {2**63}", "--particles must be at most 4096"),
        ("--particles 1000000000", "--particles must be at most 4096"),
        (f"--particles {VAST}", "got a number of 30 digits"),
        ("--steps 1000000000", "--steps must be at most 10000"),
        (f"--every {2**63}", "--every must be at most"),
        (f"--micro-batch {2**63}", "--micro-batch must be at most"),
        (f"--seed {2**64}", "--seed must be at most"),
        (f"--save-every {VAST}", "--save-every must be at most"),
        ("--height 1000000000 --width 1000000000", "--height must be at most"),
        ("--images 1000000", "--images must be at most"),
        ("--anneal 1e300", "--anneal must be at most 1000"),
        ("--anneal -1e400", "--anneal must be positive"),
        ("--scale 1e300", "--scale must be between"),
        ("--scale 1e400", "--scale must be a finite number"),
        ("--guidance -1e300", "--guidance must be between"),
        ("--ess 1e300", "--ess must be in [0, 1]"),
        ("--window 1e400,1", "--window must be two fractions"),
        ("--window ''", "--window must be two fractions"),
        ("--reward-timeout 1e300", "--reward-timeout must be between"),
        ("--group-timeout 0", "--group-timeout must be a positive number"),
        ("--group-timeout nan", "--group-timeout must be a positive number"),
        ("--memory 1", "--memory goes with a file of prompts"),
        ("--expert emoji-rl=1e300", "--expert must be at most 1000 in size"),
        ("--expert emoji-rl=1", "it was trained for another model"),
        ("--expert =1", "--expert must be NAME=NUMBER"),
        ("--product dog=-1e300", "--product must be at most 1000 in size"),
        ("--product m_list=1", "m_list can't be loaded"),
        ("--device meta", "--device meta can't be used"),
        ("--device ''", "can't be used"),
        ("--device cuda:99", "--device cuda:99 can't be used"),
        ("--device cuda", "--device cuda can't be used"),
        ("--device vulkan", "it must be one of cpu"),
        ("--model m_list", "must be an object that states _class_name"),
        ("--model m_text", "must be an object that states _class_name"),
        ("--model m_nameless", "must be an object that states _class_name"),
        ("--model m_number", "must be an object that states _class_name"),
        ("--model m_unknown", "NoSuchPipeline"),
        ("--model m_null", "model_index.json is damaged"),
        ("--model m_deep", "model_index.json is damaged"),
        ("--model m_digits", "model_index.json is damaged"),
        ("--model m_without", "m_without can't be loaded"),
        ("--model m_no_tokenizer", "m_no_tokenizer can't be loaded"),
        ("--model m_foreign", "m_foreign can't be loaded"),
        ("--model m_cut", "m_cut can't be loaded"),
        ("--model m_config", "m_config can't be loaded"),
        ("--model ''", "isn't a diffusers pipeline"),
        ("--model p.png", "isn't a diffusers pipeline"),
        ("--model ~nobody-here", "no folder and no Hub id"),
        (f"--model {LONG}", "no folder and no Hub id"),
        ("--reward odd.py:zero", "sd must be positive and finite, got 0.0"),
        ("--reward odd.py:nan", "sd must be positive and finite, got nan"),
        ("--reward odd.py:number", "not a reward"),
        ("--reward odd.py:nothing", "not a reward"),
        ("--reward odd.py:", "needs a function"),
        ("--reward null.py:f", "has a syntax error"),
        ("--reward fails.py:f", "failed when run"),
        ("--reward ''", "--reward must name a reward"),
        ("--reward :", "has ':' in it"),
        ("--reward 3", "names no reward"),
        ("--reward minimum()", "needs two or more"),
        ("--reward 1e400*brightness", "must be finite"),
        (f"--reward brightness*{'9' * 400}", "can't be made"),
        (f"--reward {'9' * 5000}*brightness", "can't be"),
        (f"--reward {'(' * 300}brightness{')' * 300}", "can't be read"),
        (f"--reward brightness{'+brightness' * 3000}", "nested too deeply or too long"),
        (f"--reward {'-' * 2000}brightness", "nested too deeply or too long"),
        (f"--reward {LONG}:f", "can't be imported"),
        ("--reward per-frame:none", "unknown reward 'none'"),
        ("--reward brightness\0", "in it"),
        ("--reward \ud800", "in it"),
        ("--negative-prompt \ud800", "can be written as UTF-8"),
        ("--out p.png", "must be a folder"),
        ("--out p.png/x", "must be a folder"),
        (f"--out {LONG}", "must have names of at most 255 bytes"),
        ("--out a\0b", "must name a file or folder"),
        ("--out ''", "must name a file or folder"),
        ("--out dup", "holds files that are no run of fkdiff"),
        ("--out .", "holds files that are no run of fkdiff"),
        ("--out /proc/1/x", "can't write into"),
        ("--resume new", "--resume takes the options of the run"),
        ("--prompts dup", "and not both"),
    ],
    ("generate",): [
        ("--resume ''", "must name a file or folder"),
        ("--resume p.png", "holds no unfinished run"),
        ("--resume dup", "holds no unfinished run"),
        ("--prompts dup", "must be a .txt, .csv or .jsonl file"),
        (f"--prompts {LONG}.txt", "must have names of at most 255 bytes"),
        ("--prompts p.png", "must be a .txt, .csv or .jsonl file"),
    ],
    ("generate", "\ud800", "--model", "tiny", "--reward", "none"): [("", "written as UTF-8")],
    PASTE: [
        ("--at inf,0", "at must be numbers of at most 1000"),
        ("--at nan,0", "at must be numbers of at most 1000"),
        ("--at 1e308,0", "at must be numbers of at most 1000"),
        ("--at -1e400,1", "at must be numbers of at most 1000"),
        ("--at 1", "--at must be X,Y"),
        ("--at 1,2,3", "--at must be X,Y"),
        ("--at ''", "--at must be X,Y"),
        ("--scale nan", "scale must be positive"),
        ("--scale inf", "scale must be positive"),
        ("--scale -1e-300", "scale must be positive"),
        ("--out x.psd", "must end like a picture that can be written"),
        ("--out x.fits", "must end like a picture that can be written"),
        ("--out x.mp4", "must end like a picture that can be written"),
        ("--out x.hdf5", "must end like a picture that can be written"),
        ("--out x.wmf", "can't be written"),
        ("--out x", "must end like a picture that can be written"),
        ("--out dup/mine.png", "is there, and fkdiff didn't write it"),
        ("--out gone/y.png", "its folder doesn't exist"),
    ],
    ("paste", "p.png"): [
        ("cut.png", "can't be read as a picture"),
        ("fake.jpg", "can't be read as a picture"),
        ("fake.gif", "can't be read as a picture"),
        ("grey.tiff", "must have an alpha channel"),
        ("vast.ppm", "can't be read as a picture"),
        ("dup", "can't be read as a picture"),
        ("grey16.png", "must have an alpha channel"),
    ],
    ("show",): [
        ("cut.png", "no PNG picture"),
        ("dup", "can't be read"),
        (LONG, "must have names of at most 255 bytes"),
        ("''", "must name a file or folder"),
    ],
    DESIGN: [
        ("--n 1000000000", "--n must be at most"),
        ("--n 100000 --particles 4000", "--n times --particles must be at most"),
        (f"--length {2**63}", "length must be in [1,"),
        (f"--particles {2**63}", "--particles must be at most"),
        ("--steps 1000000000", "--steps must be at most"),
        ("--draws 1000000000", "--draws must be at most"),
        ("--seed -1", "--seed must be at least 0"),
        (f"--seed {2**70}", "--seed must be at most"),
        ("--guide amp --guidance 1e300", "--guidance must be between"),
        ("--reward amp --scale 1e300", "--scale must be between"),
        ("--class \ud800", "--class"),
        ("--guide ''", "--guide"),
        ("--reward odd.py:zero", "sd must be positive"),
        ("--model m_list", "must be an object that states _class_name"),
        ("--model tiny", "is a StableDiffusionPipeline, not a GumbelFlowPipeline"),
        ("--model m_flow", "m_flow can't be loaded"),
        ("--jaspar dup", "must be a file"),
        ("--jaspar odd.jaspar", "holds no counts"),
        ("--jaspar null.py", "null bytes"),
        ("--out dup", "is a folder"),
        ("--out x.csv", "must not end in .csv"),
        (f"--out {LONG}", "must have names of at most 255 bytes"),
        ("--masked --model m_list", "must be an object that states _class_name"),
        ("--masked --model tiny", "can't be loaded as a masked language model"),
        ("--masked --temperature nan", "--temperature must be a finite number"),
    ],
    TRAIN: [
        ("--steps 1000000000000", "--steps must be at most"),
        ("--batch 1000000000", "--batch must be at most"),
        ("--layers 1000000000", "--layers must be at most"),
        ("--width 1000000000", "--width must be at most"),
        ("--width 6", "--width must be a positive multiple of 4"),
        ("--lr 1e300", "--lr must be in (0, 1)"),
        (f"--seed {2**70}", "--seed must be at most"),
        ("--held-out nan", "--held-out must be in"),
        ("--alphabet dup", "--alphabet"),
        ("--alphabet ''", "--alphabet"),
        (f"--alphabet {LONG}", "--alphabet"),
        ("--out p.png", "must be a folder"),
        ("--out dup", "holds files that are no run of fkdiff"),
    ],
    ("sequence", "train", "--alphabet", "dna", "--out", "flow", "--steps", "1"): [
        ("long.fasta", "must have at most 10000 letters, a has 1000000"),
        ("wide.fasta --batch 200", "--batch must be at most 111"),
        ("x.fasta", "'X' is no letter of ACGT"),
        ("x.csv", "x.csv, line 3, column 4: 'X' is no letter of ACGT"),
        ("all_x.fasta --skip-invalid", "holds no sequences"),
        ("columns.csv", "must have a column 'sequence'"),
        ("quote.csv", "can't be read"),
        ("null.py", "null bytes"),
        ("cut.png", "UTF-8"),
        ("dup", "must be a file"),
    ],
    SWEEP: [
        ("--w 1e300", "--w must be at most 32 numbers"),
        (f"--w {','.join('1' * 1000)}", "--w must be at most 32 numbers"),
        ("--w ''", "--w must be finite numbers"),
        (f"--seed {2**64}", "--seed must be at most"),
        ("--reward odd.py:zero", "sd must be positive"),
        ("--model m_list", "must be an object that states _class_name"),
        ("--out dup", "holds files that are no run of fkdiff"),
    ],
    RGBA: [
        ("--images 1000000000", "--images must be at most"),
        ("--particles 0", "--particles must be at least 1"),
        ("--box nan,0,1,1", "box must"),
        ("--box inf,0,1,1", "box must"),
        ("--box 0,0,0,0", "box must"),
        ("--feather nan", "feather must be"),
        ("--feather 1e300", "feather must be"),
        ("--method vitmatte:/no", "is no folder and no Hub id"),
        ("--out dup", "--out must be a .png"),
        ("--out gone/x.png", "its folder doesn't exist"),
        ("--out dup/mine.png", "is there, and fkdiff didn't write it"),
        ("--report dup", "--report: dup holds files that are no run of fkdiff"),
        ("--model m_no_tokenizer", "m_no_tokenizer can't be loaded"),
    ],
    ("bench",): [
        (f"overhead --seed {2**70}", "--seed must be in"),
        ("fk --resume p.png", "isn't one; name another file"),
        ("fk --resume odd.json", "isn't one; name another file"),
        ("fk --resume dup", "is a folder"),
        ("memory --json dup", "is a folder"),
        ("memory --json odd.json", "is there, and fkdiff didn't write it"),
    ],
    ("zoo",): [("\ud800", "NAME must be a bundled model"), ("''", "NAME must be a bundled model")],
}  # fmt: skip
CASES = [(words, more, told) for words, cases in ODD.items() for more, told in cases]

REWARDS = """
class Odd:
    name, inputs, mean, sd, differentiable = "odd", "pixels", 0.0, 0.0, False

    def __call__(self, pixels, **context):
        return pixels.mean((1, 2, 3))

zero, nan, number, nothing = Odd(), Odd(), 3, None
nan.sd = float("nan")
"""


@pytest.fixture(scope="module")
def odd(model, tmp_path_factory):
    """A folder of odd things."""
    here = tmp_path_factory.mktemp("odd")
    index = json.loads((model / "model_index.json").read_text())
    lost = {k: v for k, v in index.items() if k != "tokenizer"}
    for name, text in {
        "m_list": "[]", "m_text": '"x"', "m_nameless": "{}", "m_number": '{"_class_name": 3}',
        "m_unknown": '{"_class_name": "NoSuchPipeline"}', "m_null": "\0", "m_deep": "[" * 10**5,
        "m_digits": '{"_class_name": "A", "x": ' + "9" * 5000 + "}",
        "m_without": json.dumps(lost),
        "m_no_tokenizer": json.dumps({**index, "tokenizer": [None, None]}),
        "m_foreign": json.dumps({**index, "unet": ["os", "system"]}),
        "m_flow": '{"_class_name": "GumbelFlowPipeline", "denoiser": ["os", "system"]}',
    }.items():  # fmt: skip
        copied = name in ("m_without", "m_no_tokenizer", "m_foreign")
        (shutil.copytree(model, here / name) if copied else here / name).mkdir(exist_ok=True)
        (here / name / "model_index.json").write_text(text)
    shutil.copytree(model, here / "tiny")
    for name in ("m_cut", "m_config"):
        shutil.copytree(model, here / name)
    weights = next((here / "m_cut" / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    (here / "m_config" / "unet" / "config.json").write_text("[]")
    texts = {
        "odd.py": REWARDS, "null.py": "f = 1\0", "fails.py": "raise SystemError('no')",
        "ok.fasta": ">a\nACGT\n", "x.fasta": ">a\nACGX\n", "all_x.fasta": ">a\nX\n>b\nX\n",
        "long.fasta": ">a\n" + "A" * 10**6, "wide.fasta": ">a\n" + "A" * 9000,
        "columns.csv": "name,seq\na,A\n", "quote.csv": 'sequence\n"AC\n',
        "x.csv": "sequence\nACGT\nACGX\n", "odd.jaspar": ">a b\nx\n", "odd.json": "[1]",
        "fake.jpg": "junk", "vast.ppm": "P6\n60000 60000\n255\n",
    }  # fmt: skip
    for name, text in texts.items():
        (here / name).write_text(text)
    Image.new("RGB", (4, 4)).save(here / "p.png")
    Image.new("RGBA", (4, 4)).save(here / "c.png")
    Image.fromarray(np.full((4, 4), 30000, np.uint16)).save(here / "grey16.png")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(here / "grey.tiff")
    (here / "cut.png").write_bytes((here / "p.png").read_bytes()[:40] + b"\xff")
    (here / "fake.gif").write_bytes(b"GIF89a")
    (here / "dup").mkdir()
    (here / "dup" / "mine.png").write_text("mine")
    return here


def test_there_are_many():
    assert len(CASES) >= 150
    assert {words[0] for words, *_ in CASES} >= {"generate", "sequence", "sweep", "rgba", "paste"}


@pytest.mark.filterwarnings(
    "ignore:It is deprecated to pass a pretrained model name:FutureWarning"
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(" ".join(case[:2][1:])[:40]))
def test_refused_in_one_line_and_nothing_is_written(fkdiff, odd, monkeypatch, case):
    monkeypatch.chdir(odd)
    words, more, told = case
    before = {path: path.stat().st_mtime_ns for path in sorted(odd.rglob("*"))}
    more = ["" if word == "''" else word for word in more.split(" ") if word]
    code, out, error = fkdiff(*words, *more)
    assert (code, out) == (2, ""), error
    assert told in error, error[:500]
    assert error.startswith("fkdiff: ") and error.count("\n") == 1, error
    assert {path: path.stat().st_mtime_ns for path in sorted(odd.rglob("*"))} == before


DNA = Alphabet.named("dna")


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=60) | st.text(st.sampled_from("ACGTX>\n\r \"',;=class\u2028"), max_size=60)
)
@pytest.mark.parametrize("ending", ["fasta", "csv"])
def test_any_bytes_are_sequences_or_refused(tmp_path_factory, ending, data):
    file = Path(tmp_path_factory.getbasetemp()) / f"any.{ending}"
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    skipped = []
    try:
        strict = read_sequences(file, DNA)
    except FastaError as error:
        strict = None
        assert str(error).startswith((file.name, str(file)))
    try:
        found = read_sequences(file, DNA, skipped)
    except FastaError:
        assert strict is None
    else:
        assert all(set(record.sequence) <= set("ACGT") and record.sequence for record in found)
        assert strict == found if not skipped else strict is None


@settings(max_examples=60, deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["_class_name", "unet", "fkdiff", "log_z", "particles"]), inner, max_size=4
    ),
    max_leaves=6,
))  # fmt: skip
def test_any_json_is_a_model_a_run_or_neither(tmp_path_factory, value):
    from fkdiff.commands.line_folders import result_of
    from fkdiff.commands.model_loading import class_in
    from fkdiff.commands.stops import Stop
    from fkdiff.folders import is_run, pictures_of

    folder = tmp_path_factory.mktemp("any")
    (folder / "model_index.json").write_text(json.dumps(value))
    (folder / "result.json").write_text(json.dumps(value))
    try:
        assert class_in(folder) == value["_class_name"]
    except Stop as stop:
        assert stop.code == 2
    whole = isinstance(value, dict) and {"fkdiff", "log_z", "particles"} <= value.keys()
    assert is_run(folder) == whole
    assert pictures_of(folder) >= 0 and result_of(folder) is None
