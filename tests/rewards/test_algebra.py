"""Arithmetic of rewards: values, names, calibration, parts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fkdiff.rewards import Brightness, Colourfulness
from fkdiff.terms.reward import Combination, as_reward, evaluate, evaluate_components, minimum

X = torch.tensor([-2.0, 0.5, 3.0])
a = as_reward(lambda x: x, name="a", inputs="latents")
b = as_reward(lambda x: x.square(), name="b", inputs="latents")


@pytest.mark.parametrize(
    ("reward", "name", "value"),
    [
        (a + b, "a + b", X + X**2),
        (2 * a - b, "2 * a - b", 2 * X - X**2),
        (a - (b - a), "a - (b - a)", X - (X**2 - X)),
        (a - b - a, "a - b - a", -(X**2)),
        ((a + 0.5) * b, "(a + 0.5) * b", (X + 0.5) * X**2),
        (-(a + b), "-(a + b)", -(X + X**2)),
        (-a * 2, "-a * 2", -2 * X),
        (1 - a, "1 - a", 1 - X),
        (a / 4, "a / 4", X / 4),
        (a / (b + 1), "a / (b + 1)", X / (X**2 + 1)),
        (a.clip(0, 1), "a.clip(0, 1)", X.clip(0, 1)),
        ((a + b).clip(hi=2), "(a + b).clip(None, 2)", (X + X**2).clip(max=2)),
        (minimum(a, b, 1), "minimum(a, b, 1)", torch.minimum(X, X**2).clip(max=1)),
        (sum([a, b]), "0 + a + b", X + X**2),
        (a.calibrated(1, 2) + b, "a + b", X + X**2),
    ],
)
def test_formulas_read_as_written_and_mean_it(reward, name, value):
    assert reward.name == name
    assert torch.allclose(evaluate(reward, X), value.double())


def test_repr_is_the_python_that_makes_it():
    names = {"Brightness": Brightness, "Colourfulness": Colourfulness, "minimum": minimum}
    c, d = Brightness(), Colourfulness(mean=30.0, sd=12.0)
    for reward in [
        (c - 2 * d).clip(0, None),
        minimum(-c, d).calibrated(0.25, 3.0),
        (c + d).calibrated(1.0, 2.0) * 3,
    ]:
        again = eval(repr(reward), names)  # our own text
        assert repr(again) == repr(reward)
        assert (again.mean, again.sd, again.name) == (reward.mean, reward.sd, reward.name)


def test_functions_are_written_as_their_making():
    def amp(tokens):
        return tokens

    reward = as_reward(amp, inputs="tokens", sd=2.0)
    assert repr(reward).endswith("amp, inputs='tokens', sd=2.0)")
    assert repr(reward).startswith("as_reward(")


def test_calibration_is_stated_not_applied():
    calibrated = a.calibrated(1.5, 0.5)
    assert (calibrated.mean, calibrated.sd, calibrated.name) == (1.5, 0.5, "a")
    assert torch.equal(evaluate(calibrated, X), X.double())
    combined = calibrated + b
    assert (combined.mean, combined.sd) == (0.0, 1.0)
    assert torch.allclose(evaluate(calibrated.standardised(), X), (X.double() - 1.5) / 0.5)


def test_parts_are_named_and_evaluated_once():
    calls = []

    def counted(x):
        calls.append(len(x))
        return x

    shared = as_reward(counted, name="shared", inputs="latents")
    whole = shared * 2 + minimum(shared, b) - shared.clip(0)
    parts = whole.components(X)
    assert list(parts) == ["shared", "b", whole.name]
    assert calls == [3]
    assert torch.equal(whole(X), parts[whole.name])
    assert list(evaluate_components(whole, X)) == list(parts)
    assert calls == [3, 3, 3]


def test_parts_of_equal_names_are_told_apart():
    first, second = (as_reward(fn, "f", "latents") for fn in (torch.neg, torch.abs))
    parts = (first + second).components(X)
    assert list(parts) == ["f", "f (2)", "f + f"]
    assert torch.equal(parts["f (2)"], X.abs())


def test_inputs_must_be_shared_and_both_are_named():
    with pytest.raises(ValueError, match="'a' takes latents and 'brightness' takes pixels"):
        a + Brightness()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: a + len, TypeError, "wrap a plain callable with as_reward"),
        (lambda: a * float("nan"), ValueError, "must be finite, got nan"),
        (lambda: a / 0, ValueError, "can't be divided by 0"),
        (lambda: minimum(a), ValueError, "two or more rewards, got 1"),
        (lambda: minimum(1, 2), ValueError, "got only numbers"),
        (lambda: a.clip(), ValueError, "needs lo, hi or both"),
        (lambda: a.clip(1, 0), ValueError, "lo <= hi, got lo=1, hi=0"),
        (lambda: a.calibrated(0, 0), ValueError, "sd must be positive and finite, got 0"),
        (lambda: a.calibrated(float("inf")), ValueError, "mean must be a finite number"),
    ],
)
def test_errors_say_what_to_do(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_gradients_pass_through_formulas():
    soft = as_reward(lambda x: x.square(), name="soft", inputs="latents", differentiable=True)
    x = X.clone().requires_grad_()
    combined = 2 * soft - soft.clip(0, 1)
    assert combined.differentiable
    evaluate(combined, x).sum().backward()
    assert torch.allclose(x.grad, torch.tensor([-8.0, 1.0, 12.0]))
    assert not (soft + b).differentiable


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.sampled_from([a, b]),
        lambda inner: st.one_of(
            st.tuples(inner, inner).map(lambda pair: pair[0] + pair[1]),
            st.tuples(inner, inner).map(lambda pair: pair[0] - pair[1]),
            st.tuples(inner, inner).map(lambda pair: pair[0] * pair[1]),
            st.tuples(inner, inner).map(lambda pair: minimum(*pair)),
            st.tuples(st.integers(-3, 3), inner).map(lambda pair: pair[0] * pair[1]),
            inner.map(lambda reward: -reward),
        ),
        max_leaves=6,
    )
)
def test_a_name_is_a_formula_of_the_same_value(reward):
    value = evaluate(reward, X)
    names = {"a": X.double(), "b": (X**2).double(), "minimum": torch.minimum}
    assert torch.allclose(value, eval(reward.name, names))  # our own text
    parts = reward.components(X)
    rebuilt = reward.combine({id(leaf): parts[leaf.name] for leaf in reward.leaves})
    assert torch.equal(rebuilt.double(), value)


def test_combinations_are_frozen():
    with pytest.raises(AttributeError):
        (a + b).mean = 3.0
    assert isinstance(a + b, Combination)
