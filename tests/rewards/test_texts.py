"""Rewards on texts: against transformers itself, by hand, and through their names."""

import math

import pytest
import torch

from fkdiff.rewards import (
    LogLikelihood,
    MotifPresence,
    Pattern,
    Perplexity,
    ProteinProperty,
    Similarity,
    TextClassifier,
    TextLength,
)
from fkdiff.terms.reward import RewardError, as_reward, load_reward
from tests.tokens.tiny_models import causal, classifier, encoder, saved


def test_pseudo_log_likelihood_masks_one_token_at_a_time(tmp_path):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = saved(tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)("A C D", return_tensors="pt").input_ids
    found = []
    for i in (1, 2, 3):
        masked = ids.clone()
        masked[0, i] = 4
        with torch.no_grad():
            found.append(model(masked).logits[0, i].log_softmax(-1)[ids[0, i]])
    expected = torch.stack(found).mean()
    values = LogLikelihood(folder)(["ACD", "A", ""])
    torch.testing.assert_close(values[0], expected)
    assert values[2] == -math.inf
    torch.testing.assert_close(Perplexity(folder)(["ACD"])[0], -(-expected).exp())
    one_pass = LogLikelihood(folder, passes=1)(["ACD"])
    assert not torch.isclose(one_pass[0], expected)


def test_log_likelihood_of_a_causal_model(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = causal(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor([[0, 1, 2, 3]])
    with torch.no_grad():
        loss = model(ids, labels=ids).loss
    torch.testing.assert_close(LogLikelihood(folder)(["a red cat"])[0], -loss)


def test_classifier_and_similarity(tmp_path):
    reward = TextClassifier(f"{classifier(tmp_path / 'c')}:angry")
    other = TextClassifier(str(tmp_path / "c"), "calm")
    texts = ["a red cat", "dog"]
    total = reward(texts).exp() + other(texts).exp()
    torch.testing.assert_close(total, torch.ones(2))
    torch.testing.assert_close(reward(texts)[1:], reward(texts[1:]))  # padding doesn't count
    with pytest.raises(RewardError, match="has no label"):
        TextClassifier(str(tmp_path / "c"), "bored").prepare()
    near = Similarity(encoder(tmp_path / "e"), "a red cat")
    values = near(["a red cat", "green dog"])
    assert values[0] == pytest.approx(1, abs=1e-5) and values[1] < 1
    by_prompt = Similarity(str(tmp_path / "e"))(["green dog"], prompts=["a red cat"])
    torch.testing.assert_close(by_prompt, values[1:])


def test_rules():
    assert Pattern("^A.C$", must=True)(["AXC", "AC"]).tolist() == [1.0, -math.inf]
    assert TextLength("3", unit="words")(["a b", "a b c"]).tolist() == [-1.0, 0.0]
    assert MotifPresence("R.D")(["RRD", "RAA"]).tolist() == [1.0, 0.5]
    assert load_reward("motif:RGD")(["RGD"]).item() == 1
    assert repr(load_reward("length:8-12")) == "TextLength(bounds='8-12')"
    combined = as_reward(0.5 * Pattern("A") + MotifPresence("AC"))
    assert combined.inputs == "text" and combined(["AC"]).item() == 1.5


def test_protein_properties():
    pytest.importorskip("Bio")
    assert ProteinProperty("hydrophobicity")(["IIII", ""]).tolist() == [4.5, -math.inf]
    points = ProteinProperty("isoelectric-point")(["DDDD", "KKKK"])
    assert points[0] < 5 < 9 < points[1]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Pattern("("), "regular expression"),
        (lambda: TextLength("9-3"), "LOW-HIGH"),
        (lambda: MotifPresence("..."), "must hold letters"),
        (lambda: ProteinProperty("mass"), "quantity must be one of"),
        (lambda: TextClassifier("model"), "needs a label"),
        (lambda: LogLikelihood("m", passes=0), "passes must be at least 1"),
    ],
)
def test_bad_settings(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_a_single_string_is_refused(tmp_path):
    with pytest.raises(RewardError, match="a list of texts"):
        LogLikelihood(saved(tmp_path))("ACD")
