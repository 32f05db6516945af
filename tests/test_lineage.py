"""Who descends from whom: followed slot by slot, with several prompts and several resamplings."""

from dataclasses import replace

import pytest
import torch

from fkdiff import Grid, Resample, Tilt, as_reward, sample
from fkdiff.report.facts import ranked
from fkdiff.report.lineage import _generations, events
from tests.report.clouds import invented

PROMPTS, PARTICLES = 3, 5
FIRST = [[0, 0, 1, 2, 2], [1, 1, 1, 4, 3], [4, 3, 2, 1, 0]]
SECOND = [[3, 3, 0, 4, 1], [2, 4, 4, 0, 1], [1, 1, 0, 2, 4]]


def rows_of(parents):
    """Parents by slot and prompt as rows of the whole batch."""
    starts = torch.arange(len(parents))[:, None] * PARTICLES
    return (torch.tensor(parents) + starts).flatten()


def followed(rows, row):
    """The row that one descends from, back through each resampling in turn."""
    for parents in reversed([r for r in rows if r is not None]):
        row = int(parents[row])
    return row


@pytest.fixture
def result():
    made = invented(prompts=("a", "b", "c"), particles=PARTICLES, steps=4)
    made.rows = [rows_of(FIRST), None, rows_of(SECOND), None]
    return made


def test_ancestors_are_parents_of_parents(result):
    found = result.ancestors()
    exact = [followed(result.rows, row) % PARTICLES for row in range(PROMPTS * PARTICLES)]
    assert found.flatten().tolist() == exact
    # The order matters here: the other composition gives other ancestors.
    swapped = rows_of(SECOND)[rows_of(FIRST)] % PARTICLES
    assert found.flatten().tolist() != swapped.tolist()


@pytest.mark.parametrize("prompt", range(PROMPTS))
def test_each_prompt_has_its_own_lineage(result, prompt):
    expected = [(1, FIRST[prompt]), (3, SECOND[prompt])]
    assert [(time, parents.tolist()) for time, parents in events(result, prompt)] == expected
    part = result.split()[prompt]
    alone = [(time, parents.tolist()) for time, parents in events(part, 0)]
    assert alone == expected
    assert part.ancestors()[0].tolist() == result.ancestors()[prompt].tolist()


@pytest.mark.parametrize("prompt", range(PROMPTS))
def test_the_lines_that_stand_out_are_the_survivors(result, prompt):
    """Before the first resampling exactly the ancestors of the final cloud are alive."""
    best = int(result.order[prompt, 0])
    lines = _generations(events(result, prompt), PARTICLES, best)
    ancestors = result.ancestors()[prompt].tolist()
    alive = (lines["all"][0] | lines["best"][0]).nonzero()[0].tolist()
    assert alive == sorted(set(ancestors))
    assert lines["best"][0].nonzero()[0].tolist() == [ancestors[best]]
    assert sorted((lines["dead"][0]).nonzero()[0].tolist() + alive) == list(range(PARTICLES))


class Origin:
    """A term without weight whose state is where each particle began."""

    needs, target, steers = frozenset(), "the law itself", False

    def __init__(self):
        self.seen = []

    def start(self, rows):
        return {"origin": torch.arange(rows)}

    def log_twist(self, step, state):
        self.seen.append(state["origin"])
        return torch.zeros_like(step.log_w), state


def test_states_of_terms_move_with_their_particles():
    """What a term carries arrives with the descendants, after each of several resamplings."""
    origin = Origin()
    tilt = Tilt(as_reward(lambda x: 3 * x[:, 0], name="first", inputs="latents"))
    result = sample(
        lambda x, alpha, sigma: -x / (alpha**2 + sigma**2),
        Grid.vp(8, prediction="score"),
        *(tilt, origin),
        shape=(2,),
        prompts=PROMPTS,
        particles=PARTICLES,
        resample=Resample("multinomial", ess=0.9, window=(0, 1)),
        seed=2,
    )
    size = PROMPTS * PARTICLES
    assert sum(rows is not None for rows in result.rows[:-1]) >= 3
    for done, carried in enumerate(origin.seen):
        exact = [followed(result.rows[:done], row) for row in range(size)]
        assert carried.tolist() == exact
    assert origin.seen[-1].tolist() != list(range(size))


def test_the_report_tells_each_picture_of_its_own_ancestor(result):
    chosen = [[4, 0], [1, 2], [3, 1]]
    rows = ranked(replace(result, selected=torch.tensor(chosen)))
    assert [row["prompt"] for row in rows] == [p for p in range(PROMPTS) for _ in range(PARTICLES)]
    for row in rows:
        assert row["ancestor"] == int(result.ancestors()[row["prompt"], row["slot"]])
        assert row["returned"] == (row["slot"] in chosen[row["prompt"]])
        assert row["weight"] == float(result.weights[row["prompt"], row["slot"]])
    assert len({tuple(result.ancestors()[p].tolist()) for p in range(PROMPTS)}) == PROMPTS


def test_means_are_weighted(result):
    values = torch.arange(2.0 * PROMPTS * PARTICLES).reshape(PROMPTS, PARTICLES, 2)
    for prompt, (found, log_w) in enumerate(zip(result.mean(values), result.log_w, strict=True)):
        w = (log_w - log_w.max()).exp()
        exact = (w[:, None] * values[prompt]).sum(0) / w.sum()
        torch.testing.assert_close(found, exact.float())
        assert not torch.allclose(found, values[prompt].mean(0))
