"""`fkdiff rewards` and `fkdiff doctor` say what each reward needs, and what is usable here."""

import huggingface_hub.constants
import pytest

from fkdiff.commands import doctor, lists
from fkdiff.rewards import Classifier
from fkdiff.terms.reward import RewardError, load_reward


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return {row["name"]: row for row in lists.reward_rows()}


def test_every_reward_says_what_it_scores_and_needs(rows):
    told = {
        name: (row["scores"], row["gradients"], row["weights"], row["state"], row["usable"])
        for name, row in rows.items()
    }
    later = "not here yet; fetched at first use"
    assert told["brightness"] == ("pixels", "yes", "", "ready", True)
    assert told["jpeg-size"] == ("pixels", "no", "", "ready", True)
    assert told["emoji-clip"] == ("pixels", "yes", "bundled", "ready", True)
    assert told["emoji-vqa"] == ("pixels", "yes", "bundled", "ready", True)
    assert told["loudness"] == ("audio", "yes", "", "ready", True)
    assert told["hpsv2"] == (
        *("pixels", "yes", "Hub xswu/HPSv2", f"{later} (Hub xswu/HPSv2)", False),
    )
    assert told["per-frame"] == (
        ("video", "as its reward", "as named", "write per-frame:REWARD", True)
    )
    assert told["classifier"][2:] == ("as named", "write classifier:MODEL:LABEL", True)
    assert told["vqa"][:2] == ("pixels", "no")
    assert rows["safety"]["package"] == "fkdiff[nsfw]"


def test_a_missing_extra_is_told_with_its_remedy(monkeypatch):
    monkeypatch.setattr(lists, "_installed", lambda name: name != "onnxruntime")
    (row,) = (row for row in lists.reward_rows() if row["name"] == "safety")
    assert row["state"] == "needs onnxruntime; try: pip install 'fkdiff[nsfw]'"
    assert not row["usable"]


def test_doctor_marks_what_is_usable(rows):
    marks = {finding.name: finding.mark for finding in doctor._rewards()}
    assert (marks["emoji-clip"], marks["vqa"], marks["pickscore"]) == ("ok", "ok", "–")


def test_names_take_their_argument():
    assert repr(load_reward("0.5 * per-frame:brightness")) == "0.5 * PerFrame(Brightness())"
    assert repr(load_reward("classifier:google/vit-base-patch16-224:281")) == (
        "Classifier(model='google/vit-base-patch16-224', label=281)"
    )
    with pytest.raises(RewardError, match=r"a classifier needs a label: Classifier\('resnet'"):
        Classifier("resnet")
