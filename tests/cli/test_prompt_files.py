"""Files of prompts: read as their formats say, run no code of their own, keep what is drawn."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fkdiff.cli import main
from fkdiff.commands.prompt_file import read_prompts
from fkdiff.commands.prompt_lines import read_rows
from fkdiff.commands.request import Request
from fkdiff.commands.stops import Stop

COMMON = Request((), model="own/model", reward="brightness", seed=5)
SMALL = ("--height", 32, "--width", 32, "--steps", 2, "--particles", 2)

READ = {
    "a quoted line break": ("a.csv", 'prompt,seed\n"a cat\nand a dog",7\nkey,\n', None),
    "line ends of Windows": ("a.csv", 'prompt\r\n"a cat\r\nand a dog"\r\nkey\r\n', None),
    "doubled quotes": ("a.csv", 'prompt\n"a ""cat"""\n', ['a "cat"']),
    "columns in any order": ("a.csv", "seed, prompt\n1,a cat\n", ["a cat"]),
    "short rows and empty ones": ("a.csv", "prompt,seed\na cat\n\nkey\n", ["a cat", "key"]),
    "a line separator": ("a.txt", "a cat\u2028on a mat\nkey\n", ["a cat\u2028on a mat", "key"]),
    "a form feed": ("a.txt", "a\x0ccat\nkey", ["a\x0ccat", "key"]),
    "a next line": ("a.jsonl", '{"prompt": "a\x85cat"}\n', ["a\x85cat"]),
    "other breaks": ("a.csv", "prompt\na\x0b\x1c\u2029cat\n", ["a\x0b\x1c\u2029cat"]),
    "a byte-order mark": ("a.txt", "\ufeffa cat\n", ["a cat"]),
    "one before a header": ("a.csv", "\ufeffprompt\na cat\n", ["a cat"]),
    "one before an object": ("a.jsonl", '\ufeff{"prompt": "a cat"}', ["a cat"]),
    "carriage returns": ("a.txt", "a cat\r\nkey\rdog", ["a cat", "key", "dog"]),
    "an ending in capitals": ("a.TXT", "a cat\n", ["a cat"]),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_prompts_are_read_whole(tmp_path, case):
    name, text, prompts = READ[case]
    (tmp_path / name).write_bytes(text.encode())
    found = [request.prompts[0] for request in read_prompts(tmp_path / name, COMMON)]
    ends = "\r\n" if "Windows" in case else "\n"
    assert found == (prompts or [f"a cat{ends}and a dog", "key"])


REFUSED = {
    "an unclosed quote": (
        "a.csv",
        'prompt\nkey\n"a cat\na dog\n',
        "line 3 can't be read: a quote",
    ),
    "a letter after a quote": ("a.csv", 'prompt\n"a"b\n', "line 2 can't be read"),
    "a column twice": ("a.csv", "prompt,prompt\na,b\n", "names the column 'prompt' twice"),
    "a key twice": ("a.jsonl", '{"prompt": "a", "prompt": "b"}', "line 1 names 'prompt' twice"),
    "a vast number": ("a.jsonl", '{"prompt": "a", "seed": 1e400}', "seed must be a whole number"),
    "a vast scale": ("a.jsonl", '{"prompt": "a", "scale": 1e400}', "must be a finite number"),
    "no number": ("a.jsonl", '{"prompt": "a", "scale": NaN}', "must be a finite number"),
    "many digits": ("a.jsonl", '{"prompt": "a", "seed": ' + "9" * 5000 + "}", "too many digits"),
    "digits": ("a.jsonl", '{"prompt": "a", "seed": ' + "9" * 400 + "}", "a number of 400 digits"),
    "a scale of digits": ("a.jsonl", '{"prompt": "a", "scale": 1' + "0" * 400 + "}", "a number"),
    "digits in a cell": ("a.csv", "prompt,seed\na," + "9" * 5000, "seed must be a whole number"),
    "nested": ("a.jsonl", "[" * 100000, "nested too deeply"),
    "half a letter": ("a.jsonl", '{"prompt": "\\ud800"}', "can be written as UTF-8"),
    "null bytes": ("a.txt", "a\0cat", "holds null bytes"),
    "another encoding": ("a.txt", "caf\xe9".encode("latin-1"), "must be UTF-8 text"),
    "UTF-16": ("a.txt", "a cat".encode("utf-16"), "must be UTF-8 text"),
    "a picture": ("a.csv", b"\x89PNG\r\n\x1a\n\0\0", "must be UTF-8 text"),
    "evil code": ("a.jsonl", '{"prompt": "a", "reward": "evil.py:f"}', "runs code"),
    "evil formula": ("a.csv", "prompt,reward\na,brightness + evil.py:f", "'evil.py:f' runs code"),
    "evil module": ("a.jsonl", '{"prompt": "a", "reward": "os:getcwd"}', "runs code"),
    "evil argument": ("a.jsonl", '{"prompt": "a", "reward": "per-frame:evil.py:f"}', "runs code"),
    "half a size": ("a.jsonl", '{"prompt": "a", "height": 64}', "must be given with --width"),
    "too many": ("a.jsonl", '{"prompt": "a", "particles": 9223372036854775808}', "at most 4096"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_with_its_line(tmp_path, case):
    name, content, words = REFUSED[case]
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Stop) as stop:
        read_prompts(tmp_path / name, COMMON)
    assert stop.value.code == 2 and words in str(stop.value)
    assert len(str(stop.value)) < 600


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, fkdiff, kind):
    place = tmp_path / "a.txt"
    {
        "folder": place.mkdir,
        "pipe": lambda: os.mkfifo(place),
        "device": lambda: place.symlink_to("/dev/zero"),
    }[kind]()
    with pytest.raises(Stop, match="must be a file"):
        read_prompts(place, COMMON)
    code, _, error = fkdiff("generate", "--prompts", place)
    assert code == 2 and error.count("\n") == 1


def test_code_that_the_command_line_names_may_be_named_by_a_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "reward": "2 * mine.py:f + brightness"}')
    for common in ({"reward": "mine.py:f"}, {"reward": "brightness", "monitor": ("mine.py:f",)}):
        found = read_prompts(tmp_path / "a.jsonl", Request((), model="own/model", **common))
        assert found[0].reward == "2 * mine.py:f + brightness"


EVIL = "from pathlib import Path\nPath('ran').touch()\n\ndef f(pixels):\n    return pixels\n"


def test_no_code_of_a_line_is_run(fkdiff, here, model):
    (here / "evil.py").write_text(EVIL)
    (here / "a.jsonl").write_text('{"prompt": "a cat", "reward": "evil.py:f"}')
    words = ("--prompts", "a.jsonl", "--model", model, "--reward", "brightness", *SMALL)
    code, _, error = fkdiff("generate", *words, "--out", "out")
    assert code == 2 and "the command line must name too" in error
    assert not (here / "ran").exists() and not (here / "out").exists()


@pytest.fixture
def lines(fkdiff, here, model):
    """Return a function that runs the command: exit code, output, times of the folders."""

    def run(*prompts):
        rows = [p if isinstance(p, dict) else {"prompt": p} for p in prompts]
        (here / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        words = ("--prompts", "a.jsonl", "--model", model, "--reward", "brightness", *SMALL)
        code, out, error = fkdiff("generate", *words, "--out", "out")
        found = {
            path.parent.name: path.stat().st_mtime_ns
            for path in sorted((here / "out").glob("*/result.json"))
        }
        return code, out + error, found

    return run


def test_a_line_put_between_redraws_no_other(lines, here):
    code, told, before = lines("a cat", "a dog")
    assert code == 0, told
    code, told, after = lines("a key", "a cat", {"prompt": "a cat", "seed": 3}, "a dog")
    assert code == 0, told
    assert {name: after[name] for name in before} == before
    names = ["00000-a-cat", "00000-a-key", "00001-a-dog", "00002-a-cat"]
    assert sorted(after) == names
    about = [
        json.loads((here / "out" / name / "result.json").read_text()) for name in sorted(after)
    ]
    assert [each["seed"] for each in about] == [0, 0, 0, 3]
    page = (here / "out" / "index.html").read_text()
    assert "<b>4</b> of 4" in page
    order = [page.index(f'href="{name}/report.html"') for name in (names[1], names[0], names[3])]
    assert order == sorted(order)
    assert lines("a dog", "a cat")[2] == after


def test_equal_lines_are_runs_of_their_own(lines):
    assert sorted(lines("a cat", "a cat")[2]) == ["00000-a-cat", "00001-a-cat"]
    code, _, found = lines("a cat", "a cat", "a cat")
    assert code == 0 and len(found) == 3


@pytest.mark.parametrize("file", ["line.json", "result.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"command": 3}', "\0\0"])
def test_a_damaged_file_is_that_line_s_alone(lines, here, file, text):
    code, told, before = lines("a cat", "a dog")
    assert code == 0, told
    (here / "out" / "00000-a-cat" / file).write_text(text)
    code, told, after = lines("a cat", "a dog")
    assert code == 0, told
    assert after["00001-a-dog"] == before["00001-a-dog"]
    assert after["00000-a-cat"] > before["00000-a-cat"]
    assert "<b>2</b> of 2" in (here / "out" / "index.html").read_text()


MARKUP = ["[/x] a cat", "[bold", "[red]a[/red]", "a $5 cat and a $6 dog_", "{x} %s \\ '\" `"]


def test_prompts_are_printed_as_they_stand(fkdiff, here, model):
    words = ("--model", model, "--reward", "brightness", *SMALL, "--out", "out", "--plain")
    code, out, error = fkdiff("generate", *MARKUP, *words)
    assert code == 0, error
    flat = "".join(out.split())
    assert all("".join(prompt.split()) in flat for prompt in MARKUP)


@pytest.mark.parametrize("text", ["0.5 * brightness" + " + brightness" * 30, "brightness" * 60])
def test_a_long_formula_is_no_file_name(fkdiff, here, model, text):
    words = ("--model", model, *SMALL, "--out", "out", "--no-plain")
    code, _, error = fkdiff("generate", "a cat", "--reward", text, *words)
    assert (code, "unknown reward" in error) == ((2, True) if "+" not in text else (0, False))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
    )
)
def test_any_prompts_come_back_from_a_table(tmp_path_factory, texts):
    import csv

    file = tmp_path_factory.mktemp("tables") / "a.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out, quoting=csv.QUOTE_ALL).writerows([["prompt"], *([text] for text in texts)])
    assert [row["prompt"] for _, row in read_rows(file)] == texts


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(
        st.binary(max_size=80), st.text(max_size=80).map(lambda t: t.encode("utf-8", "ignore"))
    )
)
@pytest.mark.parametrize("ending", ["txt", "csv", "jsonl"])
def test_any_bytes_are_read_or_refused(tmp_path_factory, ending, data):
    file = tmp_path_factory.mktemp("files") / f"a.{ending}"
    file.write_bytes(data)
    try:
        found = read_prompts(file, COMMON)
    except Stop as stop:
        assert stop.code == 2 and "--prompts" in str(stop) or "line" in str(stop)
    else:
        assert all(request.prompts[0].strip() for request in found)


def test_nothing_is_asked_of_a_pipe(tmp_path, capsys):
    os.mkfifo(tmp_path / "p.png")
    for words in (("show",), ("paste", "a.png"), ("sequence", "train")):
        assert main([*words, str(tmp_path / "p.png")]) == 2
        assert "is a pipe or device" in capsys.readouterr().err
