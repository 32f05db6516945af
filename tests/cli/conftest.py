"""A pipeline on disk, stand-in rewards, and a stand-in for the bundled models."""

import json
from contextlib import contextmanager

import pytest

from fkdiff import zoo
from fkdiff.cli import main
from tests.tiny import build

REWARDS = """
import torch

calls = []

def bright(pixels):
    return pixels.mean((1, 2, 3))

def nan_later(pixels):
    calls.append(1)
    values = pixels.mean((1, 2, 3))
    return values if len(calls) < 2 else values * float("nan")

def pair(pixels):
    return torch.zeros(len(pixels), 2)

def interrupted(pixels):
    calls.append(1)
    if len(calls) == 2:
        raise KeyboardInterrupt
    return pixels.mean((1, 2, 3))

def hungry(pixels):
    raise MemoryError

def broken(pixels):
    return 1 / 0
"""


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Folder of a tiny Stable Diffusion, as `save_pretrained` leaves it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build("sd").pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with a file of rewards."""
    (tmp_path / "mine.py").write_text(REWARDS)
    (tmp_path / "syntax.py").write_text("def bright(pixels:\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def stand_in(home, model):
    """The tiny pipeline in the place of `emoji`, with a card of its own."""
    (home / "emoji").symlink_to(model)
    words = ["a", "cat", "and", "pizza", "on", "blue", "background", "key"]
    card = {"kind": "pipeline", "summary": "tiny", "licence": "Apache-2.0", "words": words}
    card |= {"defaults": {"num_inference_steps": 3, "guidance_scale": 2.0}}
    card |= {"quality": {"two objects": 0.5}}
    (model / "card.json").write_text(json.dumps(card))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "_HERE", home)
        zoo._read_card.cache_clear()
        yield "emoji"
    zoo._read_card.cache_clear()


@pytest.fixture
def bundled(model, tmp_path_factory):
    with stand_in(tmp_path_factory.mktemp("zoo"), model) as name:
        yield name


@pytest.fixture
def fkdiff(capsys):
    """The command line: takes its words, gives exit code, output and error output."""

    def run(*words):
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run
