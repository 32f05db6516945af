"""Clauses: exact laws of numbers and places, gradients that make and move, calibration."""

import itertools

import pytest
import torch
from torch import Tensor

from fkdiff.zoo.answer_card import fitted_scale, is_true
from fkdiff.zoo.answerer import Answerer, AnswerNet
from fkdiff.zoo.clauses import CLASSES, TINTS, Answers, clauses, number_law, probabilities
from fkdiff.zoo.parse import parse


def seen(*objects: tuple[str, int, int], tint: str = "own", big: float = 0.5) -> Answers:
    """Answers of a picture on red with objects at cells (x, y), all but certain."""
    classes = torch.full((1, len(CLASSES), 64), 1e-5)
    classes[:, 0] = 1
    for name, x, y in objects:
        classes[0, 0, 8 * y + x] = 1e-3
        classes[0, CLASSES.index(name), 8 * y + x] = 1
    tints = torch.full((1, len(TINTS), 64), 1e-3)
    tints[:, TINTS.index(tint)] = 1
    grounds = torch.full((1, 10), 1e-3)
    grounds[:, 3] = 1
    kinds, colours = (part / part.sum(1, keepdim=True) for part in (classes, tints))
    return Answers(kinds, colours, torch.full((1, 64), big), grounds / grounds.sum())


def likely(answers: Answers, text: str) -> dict[str, float]:
    scene = parse(text)
    found = probabilities(answers, scene)[0].tolist()
    return {clause.kind: p for clause, p in zip(clauses(scene), found, strict=True)}


def test_the_law_of_a_number_is_that_of_independent_coins() -> None:
    p = torch.rand(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = torch.zeros(9, dtype=torch.float64)
    for coins in itertools.product((0, 1), repeat=8):
        heads = torch.tensor(coins)
        exact[heads.sum()] += torch.where(heads == 1, p, 1 - p).prod()
    torch.testing.assert_close(number_law(p, 8), exact)
    torch.testing.assert_close(number_law(p, 3), exact[:4])


@pytest.mark.parametrize(
    ("text", "answers", "clause"),
    [
        ("two cats on a red background", seen(("cat", 1, 1), ("cat", 6, 6)), "count"),
        (
            "a cat above an owl on a red background",
            seen(("cat", 3, 1), ("owl", 3, 6)),
            "side",
        ),
        (
            "a cat between an owl and a bee on a red background",
            seen(("cat", 3, 3), ("owl", 0, 3), ("bee", 6, 3)),
            "between",
        ),
        ("a blue car on a red background", seen(("car", 3, 3), tint="blue"), "colour"),
        ("a big cat on a red background", seen(("cat", 3, 3), big=0.98), "size"),
        (
            "a key and a car of the same colour on a red background",
            seen(("key", 1, 1), ("car", 6, 6), tint="blue"),
            "same",
        ),
    ],
)
def test_what_is_seen_is_likely_and_something_else_is_not(
    text: str, answers: Answers, clause: str
) -> None:
    found = likely(answers, text)
    assert min(found.values()) > 0.9, found
    other = seen(("dog", 3, 6), ("owl", 3, 1), ("cat", 0, 6), tint="green", big=0.02)
    assert likely(other, text)["nothing else"] < 0.1
    opposite = {
        "count": "three cats on a red background",
        "side": "a cat below an owl on a red background",
        "between": "an owl between a cat and a bee on a red background",
        "colour": "a pink car on a red background",
        "size": "a small cat on a red background",
    }
    if clause in opposite:
        assert likely(answers, opposite[clause])[clause] < 0.1
    else:  # a key is yellow and a car is red of themselves
        assert likely(seen(("key", 1, 1), ("car", 6, 6)), text)["same"] < 0.1


def test_the_gradient_makes_what_is_missing_and_moves_what_is_misplaced() -> None:
    logits = torch.zeros(1, len(CLASSES), 64)
    logits[:, 0] = 9
    logits[0, CLASSES.index("cat"), 20] = 6  # hardly there: probability .05
    logits.requires_grad_(True)

    def of(raw: Tensor, text: str) -> Tensor:
        base = seen()
        answers = Answers(raw.softmax(1), base.tints, base.big, base.grounds)
        return probabilities(answers, parse(text)).log()[0]

    (slope,) = torch.autograd.grad(of(logits, "a cat on a red background")[1], logits)
    assert int(slope[0, CLASSES.index("cat")].argmax()) == 20
    assert float(slope[0, CLASSES.index("cat"), 20]) > 0.5  # not the vanishing one of p itself
    raw = logits.detach().clone()
    raw[0, CLASSES.index("owl"), 8 * 3 + 3] = 12  # the cat at row 2 and column 4 is right of it
    raw.requires_grad_(True)
    side = of(raw, "a cat to the left of an owl on a red background")[-1]
    (slope,) = torch.autograd.grad(side, raw)
    cat = slope[0, CLASSES.index("cat")].view(8, 8)
    assert float(cat[3, 0]) > 0 > float(cat[2, 4])


def test_calibration_finds_the_slope_and_the_shift_of_simulated_answers() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(20_000, generator=generator, dtype=torch.float64)
    chance = (0.6 * logits - 0.4).sigmoid()
    true = (torch.rand(20_000, generator=generator, dtype=torch.float64) < chance).double()
    slope, shift = fitted_scale(logits, true)
    p = chance * (1 - chance)
    x = torch.stack([logits, torch.ones_like(logits)], 1)
    error = torch.linalg.inv((x.T * p) @ x).diagonal().sqrt()
    assert abs(slope - 0.6) < 4.5 * error[0] and abs(shift + 0.4) < 4.5 * error[1]
    assert abs(slope - 1.0) > 4.5 * error[0]


def test_truth_of_clauses() -> None:
    scene = parse("a cat above an owl on a red background")
    assert all(is_true(clause, scene) for clause in clauses(scene))
    more = clauses(parse("a cat, an owl and a bee on a red background"))
    assert [is_true(c, scene) for c in more] == [True, True, True, False, True]


def test_the_reward_is_between_the_product_and_the_least_of_the_clauses() -> None:
    answerer, text = Answerer(AnswerNet(), {}), "a cat above an owl on a red background"
    for answers in (seen(("cat", 3, 1), ("owl", 3, 6)), seen(("cat", 3, 1)), seen(("owl", 1, 3))):
        p = probabilities(answers, parse(text)).clamp(1e-6, 1 - 1e-6)
        q = answerer.values(answers, text).exp() * (1 + 1e-4) - 1e-4
        torch.testing.assert_close(1 / q, 1 + (1 / p - 1).sum(1), rtol=1e-3, atol=0)
        assert float(p.prod(1)) < float(q) + 1e-7 < float(p.min(1).values) + 1e-6


def test_one_wrong_clause_is_not_made_up_for_by_right_ones() -> None:
    """The mean of log-probabilities puts a scene wrong in one thing over one slightly vague."""
    net = AnswerNet()
    answerer = Answerer(net, {"count": (1.0, 9.0)})
    text = "a cat above an owl on a red background"
    wrong = seen(("cat", 3, 6), ("owl", 3, 1))
    right = seen(("cat", 3, 1), ("owl", 3, 6))
    vague = Answers(
        0.7 * right.classes + 0.3 / len(CLASSES), right.tints, right.big, right.grounds
    )
    assert answerer.values(right, text) > answerer.values(vague, text)
    forgiving = answerer.log_probabilities(vague, text)
    assert float(answerer.values(wrong, text)) < -3
    # The shift belongs to probabilities on renders; the reward doesn't forgive by it.
    plain = Answerer(net, {})
    mild = Answers(
        0.99 * right.classes + 0.01 * right.classes.mean(1, keepdim=True),
        right.tints,
        right.big,
        right.grounds,
    )
    for seen_so in (vague, mild):
        assert float(answerer.values(seen_so, text)) == float(plain.values(seen_so, text))
    assert float(plain.values(mild, text)) > -2  # where a forgiven clause would show
    assert float(forgiving.sum()) > float(plain.log_probabilities(vague, text).sum())


def test_an_untrained_network_rates_pictures_row_by_row_and_has_a_gradient() -> None:
    torch.manual_seed(0)
    answerer = Answerer(AnswerNet(), {"count": (0.5, 0.1)}).eval()
    x = torch.rand(2, 3, 64, 64, requires_grad=True)
    texts = ["a cat on a red background", "two owls and a bee on a blue background"]
    both = answerer(x, texts)
    alone = torch.cat([answerer(x[i : i + 1], texts[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(both, alone)
    assert (both < 0).all()
    both.sum().backward()
    assert x.grad is not None and float(x.grad.abs().max()) > 0
