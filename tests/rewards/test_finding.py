"""Rewards by name, by place and by formula, and one clear line where that fails."""

import importlib.metadata
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from fkdiff.rewards import Brightness
from fkdiff.terms.reward import RewardError, available, evaluate, load_reward

PIXELS = "fkdiff.rewards.pixels"
FILE = """
import torch
from dataclasses import dataclass

def redness(images):
    return images[:, 0].mean(dim=(1, 2))

def settings(prompts=None):
    return "not a reward"

@dataclass
class Tinted:
    "A class that needs no arguments."
    shade: float = 0.5

    def __call__(self, images, prompts):
        return [self.shade * len(prompt) for prompt in prompts]

class Needy:
    def __init__(self, colour):
        self.colour = colour

    def __call__(self, images):
        return images

_hidden = redness
constant = 3.5
"""


class Point(importlib.metadata.EntryPoint):
    """An entry point of a package that isn't there."""

    def _for(self, dist):
        vars(self).update(dist=dist)
        return self


def point(name, value, package="fkdiff", version="0.1"):
    dist = SimpleNamespace(name=package, version=version)
    return Point(name, value, "fkdiff.rewards")._for(dist)


@pytest.fixture
def installed(monkeypatch):
    points = [
        point("brightness", f"{PIXELS}:Brightness"),
        point("jpeg-size", f"{PIXELS}:JPEGSize"),
        point("bright", f"{__name__}:bright"),
        point("made", f"{__name__}:make"),
        point("tinted", f"{__name__}:tinted"),
        point("broken", "no_such_package.rewards:Reward [clip]", "acme"),
        point("twice", f"{PIXELS}:Brightness", "acme"),
        point("twice", f"{PIXELS}:JPEGSize", "other"),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: list(points))
    return points


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_reward.py"
    path.write_text(FILE)
    return path


IMAGES = torch.rand(3, 3, 6, 6)
bright = Brightness(mean=0.5)


def make():
    return Brightness(sd=0.1)


def tinted(images, prompts):
    return [float(len(prompt)) for prompt in prompts]


def shaded(shade="dark"):
    return Brightness(mean=float(shade == "light"))


def test_entry_points_may_be_rewards_classes_factories_and_functions(installed):
    assert repr(load_reward("brightness")) == "Brightness()"
    assert load_reward("bright") is bright
    assert load_reward(" made ").sd == 0.1
    reward = load_reward("tinted")
    assert (reward.name, repr(reward)) == ("tinted", "load_reward('tinted')")
    assert evaluate(reward, IMAGES, {"prompts": ["a", "bb", ""]}).tolist() == [1, 2, 0]


def test_a_factory_takes_the_string_after_its_name(installed):
    installed.append(point("shaded", f"{__name__}:shaded"))
    assert load_reward("shaded:light").mean == 1.0
    assert load_reward("shaded:a/b:c-d").mean == 0.0
    assert load_reward("2 * shaded:light - shaded").name == "2 * brightness - brightness"
    with pytest.raises(RewardError, match="'jpeg-size:high' can't be made .TypeError"):
        load_reward("jpeg-size:high")


def test_listing_names_packages_and_imports_nothing(installed):
    entries = available()
    assert [entry.name for entry in entries[:3]] == ["bright", "brightness", "broken"]
    broken = entries[2]
    assert (broken.distribution, broken.extras) == ("acme", ("clip",))
    assert broken.package == "acme[clip]"
    assert [e.distribution for e in entries if e.name == "twice"] == ["acme", "other"]


def test_a_broken_plugin_fails_alone_and_says_what_to_install(installed):
    with pytest.raises(RewardError, match=r"of acme.*No module.*pip install 'acme\[clip\]'"):
        load_reward("broken")


def test_a_name_announced_twice_names_both(installed):
    with pytest.raises(RewardError, match=r"by acme \(.*Brightness\) and other \(.*JPEG"):
        load_reward("twice")


def test_modules_and_files(installed, file):
    assert load_reward(f"{PIXELS}:Brightness").name == "brightness"
    assert load_reward("fkdiff.rewards:JPEGSize").quality == 75
    redness = load_reward(f"{file}:redness")
    assert redness.name == "redness"
    assert repr(redness) == f"load_reward({f'{file}:redness'!r})"
    assert torch.allclose(evaluate(redness, IMAGES), IMAGES[:, 0].double().mean(dim=(1, 2)))
    odd = file.rename(file.parent / "my - reward 2*.py")
    assert load_reward(f"{odd}:redness").name == "redness"
    file = odd.rename(file)
    tinted = load_reward(f"{file}:Tinted")
    assert evaluate(tinted, IMAGES, {"prompts": ["a"] * 3}).tolist() == [0.5] * 3
    assert load_reward(f"0.5*{file}:redness + brightness").name == "0.5 * redness + brightness"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "{file}:greenness",
            "has no reward 'greenness'; it has redness, settings, Tinted, Needy$",
        ),
        ("{file}", "needs a function, written file.py:fn; it has redness, settings, Tinted"),
        ("{file}:constant", "is 3.5, not a reward"),
        ("{file}:settings", "is 'not a reward', not a reward"),
        ("{file}:Needy", "can't be made .TypeError.*a factory needs defaults"),
        ("nowhere.py:fn", "reward file 'nowhere.py' doesn't exist"),
        (
            "no_such_module:fn",
            "module 'no_such_module' of reward 'no_such_module:fn' can't be imp",
        ),
        ("fkdiff.rewards.pixels:Redness", "has no reward 'Redness'; it has .*Brightness"),
        ("brightnes", "^unknown reward 'brightnes'; did you mean brightness"),
        ("2 * jpg-size", "^unknown reward 'jpg-size'; did you mean jpeg-size"),
        ("xyzzy", "^unknown reward 'xyzzy'; known: bright, brightness, broken, jpeg-size"),
        ("", "can't be read .*; write names"),
        ("3", "names no reward; it is the number 3"),
        ("1 - 3 * 2", "it is the number -5"),
        ("brightness +", "can't be read .*; write names"),
        ("brightness brightness", "can't be read .*; write names"),
        ("minimum(brightness", "can't be read .*; write names"),
        ("minimum", "can't be read .*; write names"),
        ("minimum(brightness)", "can't be made: minimum needs two or more"),
        ("brightness(1)", "can't be read .*; write names"),
        ("brightness, brightness", "can't be read .*; write names"),
        ("brightness ** 2", "can't be read .*; write names"),
        ("brightness / 2", "has '/' in it"),
        ("brightness[0]", r"has '\[' in it"),
        ("'brightness'", 'has "\'" in it'),
        ("__import__('os')", "unknown reward '__import__'"),
        ("brightness.__class__", "unknown reward 'brightness.__class__'"),
        ("(lambda: 1)()", "unknown reward 'lambda'"),
        ("minimum.__globals__", "unknown reward 'minimum.__globals__'"),
    ],
)
def test_errors_are_one_clear_line(installed, file, spec, message):
    with pytest.raises(RewardError, match=message) as caught:
        load_reward(spec.format(file=file))
    assert "\n" not in str(caught.value)


def test_errors_inside_a_file_name_the_line(installed, tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("def fn(images):\n    return images +\n")
    with pytest.raises(RewardError, match=r"bad\.py' has a syntax error: bad\.py, line 2"):
        load_reward(f"{path}:fn")
    assert not list(tmp_path.glob("__pycache__"))
    path.write_text("import no_such_package\n")
    with pytest.raises(RewardError, match=r"failed when run: ModuleNotFoundError: No module"):
        load_reward(f"{path}:fn")
    assert not [name for name in sys.modules if name.startswith("fkdiff_reward_bad")]


@pytest.mark.parametrize(
    ("formula", "name"),
    [
        ("bright-jpeg-size", "brightness - jpeg-size"),
        ("0.5*brightness + 2e-1 * jpeg-size", "0.5 * brightness + 0.2 * jpeg-size"),
        ("-minimum(brightness, 1 - bright)", "-minimum(brightness, 1 - brightness)"),
        ("(brightness + .5) * 2.", "(brightness + 0.5) * 2.0"),
        ("brightness - (bright - jpeg-size)", "brightness - (brightness - jpeg-size)"),
    ],
)
def test_formulas(installed, formula, name):
    assert load_reward(formula).name == name


def test_a_name_is_loaded_once_in_a_formula(installed):
    assert len(load_reward("jpeg-size + 2 * jpeg-size").leaves) == 1


def test_dashes_belong_to_the_longest_known_name(installed):
    assert load_reward("bright-brightness").name == "brightness - brightness"
    installed.append(point("bright-brightness", f"{PIXELS}:JPEGSize"))
    assert load_reward("bright-brightness").name == "jpeg-size"


def test_listing_imports_neither_torch_nor_model_libraries():
    code = """
import sys, types
import fkdiff.rewards
from pathlib import Path
# The package around the module is stood in for: what it exports isn't under test.
package = types.ModuleType("fkdiff.terms")
package.__path__ = [str(Path(sys.modules["fkdiff"].__file__).parent / "terms")]
sys.modules["fkdiff.terms"] = package
from fkdiff.terms.reward_finding import available
available(), dir(fkdiff.rewards)
heavy = {"torch", "torchvision", "open_clip", "transformers", "diffusers"} & {*sys.modules}
sys.exit(f"imported {sorted(heavy)}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
