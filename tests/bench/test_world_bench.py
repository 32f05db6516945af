"""`bench world`: exact averages over subsets, and its fields on a stand-in model."""

from itertools import combinations

import numpy as np
import pytest

from fkdiff.bench import world

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_best_of_n_is_the_average_over_all_subsets(n: int) -> None:
    scores, verdicts = RNG.normal(size=(3, 7)), (RNG.random((3, 7)) < 0.4).astype(float)
    scores[1, :3] = scores[1, 0]  # a tie is as good as drawn by lot
    exact = []
    for row, verdict in zip(scores, verdicts, strict=True):
        for chosen in combinations(range(7), n):
            some = list(chosen)
            exact.append(verdict[some][row[some] == row[some].max()].mean())
    assert world.best_of(scores, verdicts, n) == pytest.approx(np.mean(exact), abs=0.02)
    untied = scores + 1e-9 * RNG.normal(size=scores.shape)
    exact = [
        verdict[list(c)][row[list(c)].argmax()]
        for row, verdict in zip(untied, verdicts, strict=True)
        for c in combinations(range(7), n)
    ]
    assert world.best_of(untied, verdicts, n) == pytest.approx(np.mean(exact))


def test_the_judge_keeps_all_of_its_gain_and_noise_none() -> None:
    verdicts = (RNG.random((400, 16)) < 0.4).astype(float)
    assert world.share_kept(verdicts, verdicts, 4) == pytest.approx(1)
    assert abs(world.share_kept(RNG.normal(size=verdicts.shape), verdicts, 4)) < 0.15
    assert world.within(verdicts, verdicts) == pytest.approx(1)


def test_fields() -> None:
    def part() -> dict:
        levels = {str(level): RNG.normal(size=6).tolist() for level in (30, 50, 70, 100)}
        return {"passed": [True, False] * 3, "values": {"clip": levels, "vqa": levels}}

    prompts = [
        "a red background",
        "a cat and an owl on a red background",
        "two cats on a red background",
    ]
    found = world.agreement(prompts, [part() for _ in prompts], ["clip", "vqa"])
    assert found["pass_rate"].keys() == {"one", "pair", "hard"}
    assert found["kept"]["vqa"].keys() == {"2", "4"}
    assert found["seen"]["clip"].keys() == {"30", "50", "70"}
    assert found["corr"]["vqa"]["judge"].keys() == {"mean", "se"}
