"""The checks that users run on rewards and terms of their own let the right ones through only."""

import re
from pathlib import Path

import pytest
import torch

from fkdiff import Tilt, as_reward
from fkdiff.rewards import Brightness, OpenCLIP
from fkdiff.terms.term import Term
from fkdiff.testing import check_reward, check_term

PIXELS = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TEXTS = ["a cat on a red background", "a dog on a red background"] * 2


def test_rewards_of_ours_pass():
    for reward in (
        Brightness(),
        OpenCLIP("emoji-clip"),
        2 * Brightness() + OpenCLIP("emoji-clip"),
    ):
        check_reward(reward, PIXELS, prompts=TEXTS)
    check_reward(as_reward(lambda texts: [len(t) for t in texts], inputs="text"), TEXTS[:2])


def crossing(x):
    return x.mean((1, 2, 3)) - x.mean()


def numb(x):
    return x.mean((1, 2, 3)).detach()


def leaking(x):
    means = x.mean((1, 2, 3))
    return means + (means.roll(1) - means.roll(1).detach())


@pytest.mark.parametrize(
    ("reward", "problem"),
    [
        (crossing, "scored apart"),
        (lambda x: x.mean((1, 2, 3)) * torch.arange(1, len(x) + 1), "scored apart"),
        (lambda x: torch.rand(len(x)), "the same at every call"),
        (as_reward(numb, differentiable=True), "no gradient"),
        (as_reward(leaking, differentiable=True), "0 in others"),
    ],
)
def test_what_is_no_reward_is_named(reward, problem):
    with pytest.raises(AssertionError, match=problem):
        check_reward(reward, PIXELS)


class Walked(Term):
    """exp of a fifth of what the estimates add up to: what is remembered is in the state."""

    target = "law of the chain times exp(sum of x0 on the way / 5)"

    def start(self, rows):
        return {"sum": torch.zeros(rows, dtype=torch.float64)}

    def log_twist(self, step, state):
        total = state["sum"] + step.x0.sum(1).double()
        return total.reshape(step.prompts, step.particles) / 5, {"sum": total}


class Forgetful(Walked):
    """What it remembers stays in the slots."""

    def __init__(self):
        self.sums = {}

    def log_twist(self, step, state):
        before = self.sums.get(step.index - 1, torch.zeros(len(step.x)).double())
        self.sums[step.index] = before + step.x0.sum(1).double()
        return self.sums[step.index].reshape(step.prompts, step.particles) / 5, state


def test_terms_are_told_by_what_resampling_does_to_them():
    far = as_reward(lambda x: x.abs().sum(1), name="far", inputs="latents")
    for term in (Tilt(far), Walked()):
        check_term(term, clouds=1000)
    with pytest.raises(AssertionError, match="must be in its state"):
        check_term(Forgetful(), clouds=1000)
    with pytest.raises(AssertionError, match="nothing was resampled"):
        check_term(Tilt(far, scale=0))


@pytest.mark.parametrize("page", ["add-a-reward", "add-a-term"])
def test_the_pages_do_what_they_say(page, capsys):
    text = (Path(__file__).parents[1] / "docs" / "how-to" / f"{page}.md").read_text("utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    names = {}
    exec(compile(code, page, "exec"), names)
    printed = capsys.readouterr().out
    if page == "add-a-term":
        assert "Near: standard errors" in printed and "Closest: standard errors" in printed
        result = names["result"]
        squares = result.latents.square().mean(-1)
        assert abs(float(result.mean(squares)) - 1 / 3) < 0.1 < abs(float(squares.mean()) - 1 / 3)
    else:
        assert "red: apart" in printed and "gradient across rows" in printed
        assert "exp(2 * (red + 0.2 * brightness" in names["out"].steering.target
