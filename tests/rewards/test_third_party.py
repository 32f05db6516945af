"""A real package of somebody else, installed by pip, is found by the names that it announces."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fkdiff.terms.reward import RewardError, available, evaluate, load_reward

FIXTURE = Path(__file__).parent.parent / "fixtures" / "third_party_reward"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder into which pip has installed the package, offline."""
    folder = tmp_path_factory.mktemp("third-party")
    source = shutil.copytree(FIXTURE, folder / "source")  # building writes beside the code
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
        + ["--no-index", "--no-compile", "--target", folder / "site", source],
        check=True,
        capture_output=True,
    )
    return folder / "site"


def test_its_rewards_are_found_by_name(site, monkeypatch):
    assert "acme-redness" not in [entry.name for entry in available()]
    with pytest.raises(RewardError, match="unknown reward 'acme-redness'"):
        load_reward("acme-redness")
    monkeypatch.syspath_prepend(str(site))
    entries = {entry.name: entry for entry in available()}
    entry = entries["acme-redness"]
    assert (entry.distribution, entry.version) == ("acme-rewards", "1.2")
    assert "brightness" in entries
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    gap = (images[..., :4].mean(dim=(1, 2, 3)) - images[..., 4:].mean(dim=(1, 2, 3))).abs()
    reward = load_reward("2 * acme-gap - acme-redness")
    expected = 2 * gap - images[:, 0].mean(dim=(1, 2))
    assert torch.allclose(evaluate(reward, images), expected.double())
    assert (load_reward("acme-gap").mean, load_reward("acme-gap").sd) == (0.25, 0.1)
    with pytest.raises(RewardError, match=r"of acme-rewards can't .*'acme-rewards\[lost\]'"):
        load_reward("acme-lost")
