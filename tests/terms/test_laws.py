"""Laws are stated by what terms do, and what a term needs is there or refused before the run."""

from dataclasses import dataclass, field

import pytest
import torch

from fkdiff import (
    Anneal,
    Correct,
    DiscreteCorrect,
    Grid,
    MaskedPath,
    RLGuidance,
    Tilt,
    as_reward,
    sample,
    sample_tokens,
    steer,
)
from fkdiff.policy import ChunkSampler, SteeredPolicy
from fkdiff.sequences.guidance import StraightThrough
from fkdiff.sequences.sampling import sample_sequences
from fkdiff.terms import Term
from fkdiff.terms.consistency import check_needs, stated_target
from fkdiff.terms.regions import Regions
from fkdiff.terms.term import Weightless, law_of
from tests.policy import toy
from tests.sequences.toy import PATH, net
from tests.taps.setups import CALL, shared


def value(x):
    flat = x.double().flatten(1)
    return flat @ torch.linspace(-1, 1, flat.shape[1], dtype=torch.float64)


def twist(step):
    return value(step.x0).cpu().reshape(step.prompts, step.particles)


class Leaning(Weightless):
    """A term of a user's that overrides all that `Weightless` says of weights."""

    steers, target = True, "law of the chain times exp(value)"

    def log_twist(self, step, state):
        return twist(step), state


class Short(Term):
    """No more than a target and a log-twist."""

    target = "law of the chain times exp(value)"

    def log_twist(self, step, state):
        return twist(step), state


@dataclass(frozen=True)
class Told(Term):
    """Its target is a field without a default."""

    target: str
    seen: list = field(default_factory=list)

    def log_twist(self, step, state):
        return twist(step), state


class Plain:
    """Inherits nothing and has all members."""

    needs, target, steers = frozenset({"x0"}), "law of the chain times exp(value)", True

    def start(self, rows):
        return {}

    def log_twist(self, step, state):
        return twist(step), state


MINE = [Leaning(), Short(), Told("law of the chain times exp(value)"), Plain()]
NAMES = [type(term).__name__ for term in MINE]


def of_pipeline(*terms, **more):
    tiny = shared("sd")
    out = steer(tiny.pipe, *terms, particles=3, seed=1, **more)(**{**CALL, **tiny.call})
    return out.steering


def of_latents(*terms, **more):
    path = Grid.vp(8, prediction="score")
    return sample(lambda x, a, s: -x, path, *terms, shape=(3,), particles=4, seed=0, **more)


def of_tokens(*terms, **more):
    def logits(tokens, alpha):
        return torch.zeros(*tokens.shape, 3)

    template = torch.full((1, 4), -1)
    return sample_tokens(
        logits, MaskedPath(5, mask=3), *terms, template=template, particles=4, seed=0, **more
    )


def of_sequences(*terms, **more):
    return sample_sequences(net, PATH, *terms, lengths=[2], steps=6, particles=4, seed=0, **more)


def of_policy(*terms, **more):
    levels = toy.ddpm()
    sampler = ChunkSampler(toy.Gaussian(levels, 0.3), levels, (2, 1), cold_evaluations=6)
    policy = SteeredPolicy(sampler, *terms, particles=4, **more)
    return policy.decide(torch.full((1, 1), 0.5)).steering[0]


RUNS = [
    (of_pipeline, "latents"),
    (of_latents, "latents"),
    (of_tokens, "tokens"),
    (of_sequences, "simplex"),
    (of_policy, "latents"),
]


@pytest.mark.parametrize("term", MINE, ids=NAMES)
@pytest.mark.parametrize(("run", "inputs"), RUNS)
def test_a_term_of_one_s_own_weighs_and_says_so(run, inputs, term):
    """It gets the cloud, the law and the choice that `Tilt` gets."""
    tilt = Tilt(as_reward(value, name="value", inputs=inputs))
    expected, found = run(tilt), run(term)
    torch.testing.assert_close(found.log_w, expected.log_w, rtol=1e-12, atol=1e-12)
    assert float(found.log_z.abs().sum()) > 0
    assert torch.equal(found.latents, expected.latents)
    assert torch.equal(found.selected, expected.selected)
    assert "law of the chain times exp(value)" in found.target
    assert "chain that is run" not in found.target


def test_a_weight_that_isn_t_steered_by_is_still_stated():
    class Late(Weightless):
        target = "law of the chain times exp(late)"

        def log_twist(self, step, state):
            return (twist(step) if step.final else torch.zeros_like(step.log_w)), state

    result = of_latents(Late())
    assert result.target == Late.target and result.settings["select"] == "best"
    assert float(result.log_w.std()) > 0


class Halved(Tilt):
    """Inherits a target that it doesn't reach."""

    def log_twist(self, step, state):
        found, state = super().log_twist(step, state)
        return found / 2, state


class Heated(Anneal):
    """A term of the pool with a weight beside."""

    def log_twist(self, step, state):
        return twist(step), state


class Lawful(Weightless):
    """Changes no weight, and says what it stands for."""

    target = "heuristic: mine"


@pytest.mark.parametrize(
    ("terms", "law"),
    [
        ([Halved(as_reward(value, inputs="latents"))], "exp(log-twist of Halved)"),
        ([Heated(1.0)], "times exp(log-twist of Heated)"),
        ([Heated(1.0), Correct()], "times exp(log-twist of Heated)"),
        ([Lawful()], "heuristic: mine"),
        ([Lawful(), Tilt(len)], "heuristic: mine; law of the chain times exp(1 * (len - 0) / 1)"),
        ([Anneal(2.0)], "heuristic: uncorrected pool (CFG, to the power 2)"),
        ([Weightless()], "law of the chain that is run"),
        ([], "law of the chain that is run"),
    ],
)
def test_the_stated_law_is_what_the_terms_do(terms, law):
    found = stated_target(terms)
    assert law in found
    if any(isinstance(term, Halved) for term in terms):
        assert "latents" not in found and "value - 0" not in found
    assert (found == law) == ("Heated" not in law and "Halved" not in law)


def test_a_subclass_that_states_its_own_law_is_believed():
    class Quarter(Halved):
        target = "law of the chain times exp(value / 4)"

    assert law_of(Quarter(len)) == Quarter.target
    assert law_of(Tilt(len)).endswith("(len - 0) / 1)")


@pytest.mark.parametrize(
    ("term", "words"),
    [
        (len, "wrap a reward"),
        (Short, "got the class Short; write Short"),
        (type("Half", (), {"target": "x"})(), "Half, which lacks needs, steers, start, log_twist"),
        (type("Mix", (Weightless,), {"experts": None})(), "must inherit from .*PoolTerm"),
        (3, "int, which lacks"),
    ],
)
@pytest.mark.parametrize("run", [run for run, _ in RUNS])
def test_what_isn_t_a_term_is_refused(run, term, words):
    with pytest.raises(TypeError, match=words):
        run(term)


def needing(*needs):
    return type("Needy", (Term,), {"needs": frozenset(needs), "log_twist": Short.log_twist})()


REFUSED = [
    (of_latents, needing("decode"), "decoded samples, which sample"),
    (of_latents, needing("uncond"), "unconditional prediction"),
    (of_latents, Regions(), "own prompts and networks"),
    (of_latents, DiscreteCorrect(), "tokens that are uncovered"),
    (of_latents, StraightThrough(len), "gradients of a guide"),
    (of_tokens, needing("kernel"), "density of the step"),
    (of_tokens, StraightThrough(len), "gradients of a guide"),
    (of_sequences, needing("scores"), "network's predictions"),
    (of_sequences, Correct(), "network's predictions"),
    (of_policy, RLGuidance("tuned", 2.0), "network's predictions"),
    (of_policy, Correct(), "network's predictions"),
    (of_pipeline, needing("grad"), "gradients of a guide"),
    (of_pipeline, DiscreteCorrect(), "tokens that are uncovered"),
    (of_pipeline, needing("moon"), "needs must be of x0"),
]


@pytest.mark.parametrize(("run", "term", "words"), REFUSED)
def test_what_a_run_lacks_is_refused_before_it(run, term, words):
    with pytest.raises(ValueError, match=words):
        run(term)


def test_needs_that_a_call_decides_are_refused_before_anything_is_weighed():
    tiny, calls = shared("sd"), []

    class Reading(Short):
        needs = frozenset({"kernel", "uncond"})

        def log_twist(self, step, state):
            calls.append((step.kernel is not None, [e.name for e in step.experts]))
            return super().log_twist(step, state)

    call = {**CALL, **tiny.call}
    for settings, guidance, words in (
        ({"resample": None}, 5.0, "set stochastic=True"),
        ({"stochastic": True}, 1.0, "guidance that isn't 1"),
    ):
        steered = steer(tiny.pipe, Reading(), particles=2, seed=0, **settings)
        with pytest.raises(ValueError, match=words):
            steered(**{**call, "guidance_scale": guidance})
        assert steered.partial is None and not calls
    steer(tiny.pipe, Reading(), particles=2, seed=0, stochastic=True)(**call)
    assert calls == [(True, ["uncond", "cond"])] * len(calls) and calls


def test_terms_say_what_they_need_and_runs_have_it():
    check_needs([Short(), Weightless(), Tilt(len)], {"x0", "scores", "decode"}, "a run")
    assert Tilt(as_reward(len, inputs="latents")).needs == {"x0"}


@pytest.mark.parametrize(("run", "inputs"), RUNS)
def test_two_rewards_of_one_name_are_refused_everywhere(run, inputs):
    one, two = (as_reward(lambda x, c=c: c * value(x), inputs=inputs) for c in (1, 2))
    with pytest.raises(ValueError, match="different names, got '<lambda>' twice"):
        run(Tilt(one), Tilt(two))
