"""Experts are told apart by what they are, not by their names."""

import functools

import pytest
import torch

from fkdiff import MaskedPath, Product, RLGuidance, UniformPath, sample_tokens
from fkdiff.terms.pool import labels
from fkdiff.terms.step import Expert
from tests.exact import assert_mean

ROWS = 4000
BASE = torch.tensor([0.5, 0.3, 0.2])
ONE = torch.tensor([0.2, 0.2, 0.6])
TWO = torch.tensor([0.8, 0.1, 0.1])


def expert(p):
    """A factory: all its functions have one name."""

    def logits(tokens, alpha):
        return p.log().expand(*tokens.shape, 3)

    return logits


def partial(p):
    return functools.partial(lambda p, tokens, alpha: p.log().expand(*tokens.shape, 3), p)


class Network(torch.nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, tokens, alpha):
        return self.p.log().expand(*tokens.shape, 3)


TERMS = {
    "product": (lambda a, b: [Product(a), Product(b)], (1, 1, 1)),
    "ratio": (lambda a, b: [Product(a, 1.0, "cond"), Product(b, 0.5)], (0, 1, 0.5)),
    "guidance": (lambda a, b: [RLGuidance({a: 1.0, b: 2.0}, 0.5)], (-0.5, 0.5, 1)),
    "named": (lambda a, b: [Product("logits"), Product(b)], (1, 1, 1)),
}


@pytest.mark.parametrize("kind", TERMS)
@pytest.mark.parametrize("make", [expert, partial, Network])
@pytest.mark.parametrize("path", [MaskedPath(2, mask=3), UniformPath(24)])
def test_two_experts_of_one_name_sample_their_product(path, make, kind):
    terms, powers = TERMS[kind]
    given = {"cond": make(BASE), "logits": make(ONE)}
    result = sample_tokens(
        given,
        path,
        *terms(make(ONE), make(TWO)),
        template=torch.full((ROWS, 1), -1),
        particles=1,
        resample=None,
        seed=3,
    )
    law = sum(b * p.double().log() for b, p in zip(powers, (BASE, ONE, TWO), strict=True))
    law = law.softmax(0)
    tokens = torch.nn.functional.one_hot(result.latents[:, 0, 0], 3).double()
    if isinstance(path, UniformPath):  # what its steps leave of the start is no more than 1%
        assert float((tokens.mean(0) - law).abs().max()) < 0.05
        return
    for i in range(3):
        assert_mean(tokens[:, i], law[i])
    wrong = (BASE.double().log() + 2 * ONE.double().log()).softmax(0)
    with pytest.raises(AssertionError, match="z"):
        assert_mean(tokens[:, 0], wrong[0])


def test_the_stated_law_keeps_experts_of_one_name_apart():
    one, two = expert(ONE), expert(TWO)
    assert RLGuidance({one: 0.5, two: 1.0}, 2).target == "base^-2 logits^1 logits (2)^2"
    assert RLGuidance({"base": 0.5, "x": 1.0}).target == "base^-0.5 base (2)^0.5 x^1"
    pool = [Expert("cond", 1.0, torch.zeros(1))]
    split = RLGuidance({one: 0.5, two: 1.0}).experts(pool, lambda source, branch: torch.zeros(1))
    assert [e.name for e in split] == ["cond", "logits/cond", "logits (2)/cond"]
    for product in (Product(one, 1.0), Product(two, 1.0), Product("cond", 1.0)):
        pool = product.experts(pool, lambda source, branch: torch.zeros(1))
    assert [e.name for e in pool] == ["cond", "logits", "logits (2)", "cond (2)"]


def test_labels_are_all_different():
    made = labels(["a", "a", len, len, "a (2)"], taken=["len"])
    assert made == ["a", "a (2)", "len (2)", "len (3)", "a (2) (2)"]
