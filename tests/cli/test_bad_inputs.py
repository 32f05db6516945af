"""What can't be done is told in one line with exit code 2, before anything is written."""

import json
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fkdiff.report.png import encode_png

try:
    import metaworld  # noqa: F401
except ImportError:
    metaworld = None

GENERATE = ("generate", "a cat", "--model", "MODEL", "--reward", "brightness", "--out", "new/run")
SEQUENCE = ("sequence", "generate", "--out", "designs.fasta")
TRAIN = ("sequence", "train", "bad.fasta", "--alphabet", "dna", "--out", "new")
SWEEP = ("sweep", "a cat", "--model", "MODEL", "--out", "new")
RGBA = ("rgba", "a cat", "--model", "MODEL", "--out", "cut.png", "--report", "new")
EVAL, CALIBRATE = ("policy", "eval", "--out", "new"), ("policy", "calibrate", "--out", "c.json")

CASES = [
    (("paint",), "No such command 'paint'"),
    (("generate",), "PROMPT must be given, or a file of them"),
    ((*GENERATE, ""), "PROMPT must not be empty"),
    ((*GENERATE, "--particles", "0"), "--particles must be at least 1, got 0"),
    ((*GENERATE, "--particles", "1e3"), "'--particles'"),
    ((*GENERATE, "--particle", "3"), "No such option: --particle"),
    ((*GENERATE, "--steps", "0"), "--steps must be at least 1, got 0"),
    ((*GENERATE, "--seed", "-1"), "--seed must be at least 0, got -1"),
    ((*GENERATE, "--images", "9"), "--images must be at most --particles, got 9 of 4"),
    ((*GENERATE, "--height", "4"), "--height must be at least 8, got 4"),
    ((*GENERATE, "--scale", "nan"), "--scale must be a finite number, got nan"),
    ((*GENERATE, "--guidance", "-inf"), "--guidance must be a finite number, got -inf"),
    ((*GENERATE, "--ess", "nan"), "--ess must be in [0, 1], got nan"),
    ((*GENERATE, "--window", "0.9,0.2"), "--window must be two fractions"),
    ((*GENERATE, "--model", "./nowhere/at/all"), "no bundled model, no folder and no Hub id"),
    ((*GENERATE, "--out", "mine.py"), "must be a folder"),
    ((*GENERATE, "--window", "0.5"), "--window must be two fractions"),
    ((*GENERATE, "--window", "nan,1"), "--window must be two fractions"),
    ((*GENERATE, "--potential", "mean"), "--potential must be one of difference, max"),
    ((*GENERATE, "--select", "worst"), "--select must be one of best, sample, all"),
    ((*GENERATE, "--resample", "fair"), "--resample: scheme must be one of"),
    ((*GENERATE, "--every", "0"), "--every must be at least 1, got 0"),
    ((*GENERATE, "--micro-batch", "0"), "--micro-batch must be at least 1, got 0"),
    ((*GENERATE, "--model", "emojis"), "did you mean emoji?"),
    ((*GENERATE, "--model", "."), "it has no model_index.json"),
    ((*GENERATE, "--model", "broken"), "--model broken can't be loaded"),
    ((*GENERATE, "--device", "warp"), "--device warp can't be used"),
    ((*GENERATE, "--reward", "brightnes"), "did you mean brightness?"),
    ((*GENERATE, "--reward", "brightness +"), "brightness +"),
    ((*GENERATE, "--reward", "brightness / 0"), "0"),
    ((*GENERATE, "--reward", "__import__('os')"), "unknown reward '__import__'"),
    ((*GENERATE, "--reward", "gone.py:f"), "reward file 'gone.py' doesn't exist"),
    ((*GENERATE, "--reward", "mine.py:dark"), "has no reward 'dark'; it has bright"),
    ((*GENERATE, "--reward", "syntax.py:f"), "has a syntax error: syntax.py, line 1"),
    ((*GENERATE, "--reward", "no.module:f"), "module 'no.module' of reward"),
    ((*GENERATE, "--reward", "openclip:no/weights"), "OpenCLIP knows no model 'no/weights'"),
    ((*GENERATE, "--reward", "loudness"), "yields pixels, but the reward 'loudness' reads audio"),
    ((*GENERATE, "--reward", "uncropped"), "add the term Cutout()"),
    ((*GENERATE, "--monitor", "nothing"), "unknown reward 'nothing'"),
    ((*GENERATE, "--out", "mine.py/run"), "must be a folder"),
    ((*GENERATE, "--anneal", "0"), "--anneal must be"),
    ((*GENERATE, "--anneal", "nan"), "--anneal must be"),
    ((*GENERATE, "--expert", "emoji-rl"), "--expert must be NAME=NUMBER, got 'emoji-rl'"),
    ((*GENERATE, "--expert", "emoji-rl=inf"), "--expert"),
    ((*GENERATE, "--expert", "gone=1"), "--expert gone is no folder and no Hub id of a LoRA"),
    ((*GENERATE, "--product", "a dog=-3", "--correct"), "leave a positive sum of exponents"),
    ((*GENERATE, "--product", "a dog=much"), "--product"),
    ((*GENERATE, "--reward-timeout", "0"), "--reward-timeout must be a positive number"),
    ((*GENERATE, "--reward-timeout", "nan"), "--reward-timeout must be a positive number"),
    ((*GENERATE, "--save-every", "-1"), "--save-every must be at least 0, got -1"),
    (("generate", "--resume", "gone"), "--resume gone holds no unfinished run"),
    (("generate", "--prompts", "gone.txt"), "--prompts gone.txt can't be read"),
    ((*SEQUENCE, "--length", "0"), "length must be in [1,"),
    ((*SEQUENCE, "--n", "0"), "--n must be at least 1"),
    ((*SEQUENCE, "--draws", "0"), "--draws must be at least 1"),
    ((*SEQUENCE, "--guide", "ampp"), "did you mean amp?"),
    ((*SEQUENCE, "--reward", "brightness"), "not sequences"),
    ((*SEQUENCE, "--model", "peptide"), "did you mean peptides?"),
    ((*SEQUENCE, "--prompt", "a"), "--prompt belongs to --masked"),
    ((*SEQUENCE, "--masked", "--guide", "amp"), "--guide belongs to flows"),
    ((*SEQUENCE, "--masked", "--model", "gone"), "--model gone"),
    (TRAIN, "bad.fasta, line 2, column 4: 'X' is no letter of ACGT"),
    ((*TRAIN[:2], "empty.fasta", *TRAIN[3:]), "holds no sequences"),
    ((*TRAIN, "--alphabet", "dnaa"), "--alphabet: alphabet must be one of"),
    ((*TRAIN, "--lr", "nan"), "--lr must be"),
    ((*SWEEP, "--w", "0,x"), "--w must be finite numbers between commas"),
    ((*SWEEP, "--guidance", "inf"), "--guidance must be finite numbers between commas"),
    ((*SWEEP, "--expert", "gone"), "--expert gone is no folder and no Hub id"),
    ((*SWEEP, "--correct"), "--correct must have --particles 2 or more"),
    ((*RGBA, "--box", "0,0,1"), "--box must be"),
    ((*RGBA, "--feather", "-1"), "feather must be"),
    ((*RGBA, "--method", "magic"), "--method must be one of"),
    ((*RGBA, "--images", "0"), "--images must be at least 1"),
    ((*RGBA, "--reward", "brightnes"), "did you mean brightness?"),
    (("paste", "p.png", "p.png", "--at", "middle"), "--at must be X,Y, got 'middle'"),
    (("paste", "p.png", "c.png", "--scale", "0"), "scale must be"),
    (("paste", "p.png", "mine.py"), "mine.py can't be read as a picture"),
    (("paste", "p.png", "p.png", "--out", "text.doc"), "--out must end like a picture"),
    (("show", "gone.png"), "gone.png doesn't exist"),
    (("show", "."), "can't be read"),
    (("show", "mine.py"), "mine.py is no PNG picture"),
    (("show", "p.png"), "p.png carries no settings of fkdiff"),
    (("bench", "speed"), "NAME must be one of overhead"),
    (("bench", "memory", "--json", "gone/b.json"), "its folder doesn't exist"),
    (("bench", "memory", "--resume", "rows"), "--resume can't be used with memory"),
    (("bench", "fk", "--seed", "x"), "'--seed'"),
    (("zoo", "emojy"), "NAME must be a bundled model, got 'emojy'"),
    (("rewards", "--long"), "No such option: --long"),
    (("doctor", "now"), "unexpected extra argument"),
    (("policy", "train"), "No such command 'train'"),
]
NEED_METAWORLD = [
    ((*EVAL, "--model", "emoji"), "--model emoji is a pipeline, it decides no actions"),
    ((*EVAL, "--method", "ddim7"), "--method must be one of ddpm100"),
    ((*CALIBRATE, "--tolerance", "0"), "--tolerance must be positive"),
]
CASES += NEED_METAWORLD if metaworld is not None else []


@pytest.fixture
def place(here):
    """What the cases name, below an empty working folder."""
    (here / "bad.fasta").write_text(">a\nACGX\n")
    (here / "empty.fasta").write_text("")
    (here / "broken").mkdir()
    (here / "broken" / "model_index.json").write_text("{")
    Image.new("RGB", (4, 4)).save(here / "p.png")
    Image.new("RGBA", (4, 4)).save(here / "c.png")
    return here


def test_there_are_forty_at_least():
    assert len(CASES) - len(NEED_METAWORLD) >= 40
    assert {words[0] for words, _ in CASES} >= {
        "generate", "sequence", "policy", "sweep", "show", "rgba", "bench", "zoo", "rewards"
    }  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case[0])[-60:])
def test_refused_in_one_line(fkdiff, place, model, case):
    words, told = case
    before = sorted(place.rglob("*"))
    code, out, error = fkdiff(*(str(model) if word == "MODEL" else word for word in words))
    assert (code, out) == (2, ""), error
    assert told in error
    assert error.startswith("fkdiff: ") and error.count("\n") == 1, error
    assert "Traceback" not in error
    assert [path for path in sorted(place.rglob("*")) if path.name != "__pycache__"] == before


def chunk(name, text, compressed=False):
    def make(path):
        info = PngInfo()
        info.add_itxt(name, text, zip=compressed)
        Image.new("RGB", (4, 4)).save(path, pnginfo=info)

    return make


def cut(path):
    data = encode_png(Image.new("RGB", (64, 64)), {"prompt": "a cat" * 100})
    path.write_bytes(data[: len(data) - 30])


def vast(path):
    data = bytearray(encode_png(Image.new("RGB", (4, 4)), {"prompt": "a cat"}))
    data[16:24] = (60000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(bytes(data))


HOSTILE = {
    "no JSON": (chunk("fkdiff", "{"), "aren't valid JSON"),
    "a list": (chunk("fkdiff", "[1]"), "aren't valid JSON"),
    "a text": (chunk("fkdiff", '"<script>"'), "aren't valid JSON"),
    "nested": (chunk("fkdiff", "[" * 100000), "aren't valid JSON"),
    "nested objects": (chunk("fkdiff", '{"a":' * 50000 + "1" + "}" * 50000), "aren't valid JSON"),
    "a huge number": (chunk("fkdiff", '{"a": ' + "9" * 10000 + "}"), "aren't valid JSON"),
    "a bomb": (chunk("fkdiff", '{"a": "' + "a" * 10**7 + '"}', compressed=True), "is damaged"),
    "cut off": (cut, ""),
    "vast": (vast, "larger than any picture"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("words", [(), ("--json",)], ids=["told", "json"])
def test_show_refuses_hostile_pictures(fkdiff, tmp_path, case, words):
    make, told = HOSTILE[case]
    make(tmp_path / "p.png")
    code, out, error = fkdiff("show", tmp_path / "p.png", *words)
    assert (code, out) == (2, "") and told in error
    assert error.startswith("fkdiff: ") and error.count("\n") == 1, error


WRONG = [
    {"prompt": ["a"], "seed": {"a": [1, {"b": None}]}, "command": 5, "call": "x", "size": None},
    {"python": [1], "weight": "heavy", "rewards": 3, "": "", "versions": [[]]},
    {"prompt": "<script>alert(1)</script>", "command": "$(reboot)\n\x1b]0;x\x07"},
    {"prompt": "\ud800\u202e", "python": "\udfff"},
    {"a": float("nan"), "b": 1e400},
    {},
]


@pytest.mark.parametrize("about", WRONG, ids=range(len(WRONG)))
def test_show_tells_whatever_it_finds(fkdiff, tmp_path, about):
    chunk("fkdiff", json.dumps(about))(tmp_path / "p.png")
    code, out, error = fkdiff("show", tmp_path / "p.png")
    assert (code, error) == (0, "")
    assert "\x1b" not in out and "\x07" not in out and "\u202e" not in out
    out.encode()
    assert fkdiff("show", tmp_path / "p.png", "--json")[0] == 0
