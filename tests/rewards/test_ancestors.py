"""No sample is scored twice: copies of an ancestor share its value, and calls are counted."""

import torch

from fkdiff import Tilt, as_reward
from fkdiff.terms.step import Step
from tests.analytic import GAUSSIAN, cloud, resampled


def counted_run():
    """A resampled run, and every row that its reward saw."""
    seen = []

    def fn(x, prompts):
        assert len(prompts) == len(x)
        seen.extend(row.numpy().tobytes() for row in x)
        return x.flatten(1).sum(dim=1)

    tilt = Tilt(as_reward(fn, name="sum", inputs="latents"), scale=3.0)
    # The same reward is also reported: it must not be asked again for that.
    result = cloud("ddim_eta1", GAUSSIAN, tilt, prompts=["a", "b"], monitor=[tilt.reward])
    assert resampled(result)
    return result, seen


def test_each_ancestor_is_scored_once():
    result, seen = counted_run()
    assert len(seen) == len(set(seen))
    assert len(seen) < 2 * 6 * 8  # prompts, particles, steps: copies were spared
    assert result.cost.reward_calls == {"sum": len(seen)}
    after = [None, *result.rows][: len(result.rows)]
    ancestors = [12 if rows is None else len(rows.unique()) for rows in after]
    assert len(seen) == sum(ancestors)


def test_scoring_every_row_would_be_noticed(monkeypatch):
    whole = counted_run()[0]
    everyone = property(lambda step: (torch.arange(12), torch.arange(12)))
    monkeypatch.setattr(Step, "unique", everyone)
    result, seen = counted_run()
    assert len(seen) > len(set(seen))
    assert torch.equal(result.log_w, whole.log_w)  # the same values, only dearer
