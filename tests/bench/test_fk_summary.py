"""The FK bench's arithmetic on rows whose answers are known, without a model."""

from itertools import combinations

import numpy as np
import pytest

from fkdiff.bench.fk_plot import draw_scaling
from fkdiff.bench.fk_summary import best_of, interval, scaling, summarise

RNG = np.random.default_rng(0)


def cloud(passed, reward, chosen=0, seconds=1.0):
    n = len(reward)
    return {
        "passed": list(passed),
        "reward": list(reward),
        "calibrated": list(reward),
        "monitor": {"brightness": [0.5] * n},
        "chosen": chosen,
        "nfe": 60 * n,
        "seconds": seconds * n,
        "diversity": 1.0,
        "ancestors": 2,
    }


def draws(rate, n, pull):
    """Samples of a pass rate, and a reward that knows the verdict but for unit noise."""
    passed = RNG.random(n) < rate
    return cloud(passed, pull * passed + RNG.normal(size=n))


def steered(rate, n, pull, seconds=1.5):
    run = draws(rate, n, pull)
    return run | {"chosen": int(np.argmax(run["reward"])), "seconds": seconds * n}


def made(prompts=300, seeds=2, fk=0.6):
    """Rows whose rates are known: plain 0.3 (solver ode) and 0.2, steered `fk`."""
    return [
        {
            "prompt": f"{i}",
            "runs": {
                "ode": draws(0.3, 10, 2),
                "sde": draws(0.2, 10, 2),
                "fk4": steered(fk, 4, 0),
                "fk8": steered(fk, 8, 0),
                "shuffled": steered(0.2, 4, 0),
                "constant": steered(0.2, 4, 0),
            },
        }
        for i in range(prompts)
        for _ in range(seeds)
    ]


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_best_of_is_the_mean_over_all_choices(n):
    rewards = RNG.normal(size=7)
    counts = np.zeros(7)
    for chosen in combinations(range(7), n):
        counts[max(chosen, key=lambda i: rewards[i])] += 1
    np.testing.assert_allclose(best_of(rewards, n), counts / counts.sum(), atol=1e-12)


def test_best_of_refuses_more_than_there_are():
    with pytest.raises(ValueError, match="n must be from 1 to the 3 samples, got 4"):
        best_of([1, 2, 3], 4)


def test_an_interval_holds_the_truth_as_often_as_it_says():
    held = []
    for seed in range(300):
        low, high = interval(np.random.default_rng(seed).normal(0.4, 1, 80), seed, draws=400)
        held.append(low <= 0.4 <= high)
    assert abs(np.mean(held) - 0.95) < 4.5 * np.sqrt(0.95 * 0.05 / 300) + 0.01


def test_rates_and_paired_differences_are_found():
    told = summarise(made(), scale=1.0, seed=0)
    rates, ci = told["pass_rate"], told["ci"]
    assert set(rates) == {
        *("plain", "bon4", "bon8", "importance", "fk4", "fk8", "shuffled", "constant")
    }
    assert told["solver"]["plain"] == "ode"
    assert told["by_solver"]["plain.sde"] == pytest.approx(0.2, abs=0.03)
    for arm, truth in {"plain": 0.3, "fk4": 0.6, "fk8": 0.6, "shuffled": 0.2}.items():
        assert rates[arm] == pytest.approx(truth, abs=0.09)
    assert rates["plain"] < rates["bon4"] < rates["bon8"]  # the reward knows the verdict
    low, high = ci["fk4_minus_plain"]
    assert 0 < low < rates["fk4"] - rates["plain"] < high < low + 0.2
    assert told["prompts"] == 300 and told["rows"] == 600


def test_a_difference_that_isn_t_there_is_not_found():
    low, high = summarise(made(fk=0.3), scale=1.0, seed=0)["ci"]["fk4_minus_plain"]
    assert low < 0 < high


def test_a_shuffled_prompt_order_changes_no_paired_interval_s_width_much():
    """Pairing matters: prompts differ more than arms do."""
    hard = np.repeat([0.0, 1.0], 50)
    gain = hard + 0.05
    paired = interval(gain - hard, seed=0)
    apart = interval(gain, seed=0)
    assert paired[1] - paired[0] < 1e-9 < 0.1 < apart[1] - apart[0]


def test_costs_are_those_of_the_samples_that_an_arm_needs():
    told = summarise(made(prompts=4, seeds=1), scale=1.0, seed=0)
    assert told["nfe"] == {
        "plain": 60,
        "bon4": 240,
        "bon8": 480,
        "importance": 480,
        "fk4": 240,
        "fk8": 480,
        "shuffled": 240,
        "constant": 240,
    }
    assert told["seconds"]["fk4"] == pytest.approx(6.0)
    assert told["equal_seconds"]["fk4"]["bon"] == 6
    assert told["equal_seconds"]["fk8"] == pytest.approx(
        {"bon": 10, "would_fit": 12, "pass_rate": told["equal_seconds"]["fk8"]["pass_rate"]}
    )


def test_importance_sampling_weighs_by_the_calibrated_reward():
    rows = made(prompts=1, seeds=1)
    run = rows[0]["runs"]["sde"]
    run["passed"], run["calibrated"] = [1, 0, 0, 0, 0, 0, 0, 0, 1, 1], [2.0] + [0.0] * 9
    weights = np.exp(3 * np.asarray(run["calibrated"][:8]))
    expected = weights[0] / weights.sum()
    assert summarise(rows, 3.0, 0)["pass_rate"]["importance"] == pytest.approx(expected)


def test_the_scaling_plot_is_drawn(tmp_path):
    rows = [
        {
            "prompt": f"{i}",
            "runs": {
                "ode": draws(0.3, 4, 2),
                "sde": draws(0.2, 4, 2),
                **{f"fk{n}": steered(0.5, n, 2) for n in (1, 2, 4)},
            },
        }
        for i in range(40)
    ]
    told = scaling(rows, seed=0)
    assert list(told["fk"]) == list(told["bon"]) == ["1", "2", "4"]
    assert told["bon"]["1"][0] < told["bon"]["4"][0]
    assert all(low <= rate <= high for by in told.values() for rate, low, high in by.values())
    draw_scaling(told, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 5000
