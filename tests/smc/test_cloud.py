"""The cloud: carried weights, triggers per prompt, lineage, messages."""

import math
from typing import Any

import pytest
import torch

from fkdiff.smc import Cloud, Resample, WeightsError, bisect_scale, conditional_ess, ess

WHOLE: dict[str, Any] = {"window": (0, 1)}


def make(prompts: int = 1, particles: int = 4, **settings) -> Cloud:
    generators = [torch.Generator().manual_seed(p) for p in range(prompts)]
    return Cloud(prompts, particles, Resample(**settings) if settings else None, generators)


def test_weights_are_carried_in_log_space():
    cloud = make(particles=2)
    cloud.reweight(torch.tensor([[1000.0, -1000.0]]))
    cloud.reweight(torch.tensor([[1000.0, 4000.0]]))
    assert cloud.log_w.dtype == torch.float64
    assert cloud.log_w.tolist() == [[2000.0, 3000.0]]
    assert cloud.log_z.item() == 3000 - math.log(2)
    assert cloud.ess.item() == 1


def test_full_resampling_leaves_the_mean_weight():
    cloud = make(ess=1.0, **WHOLE)
    cloud.reweight(torch.tensor([[0.0, 1.0, 2.0, -torch.inf]]))
    log_z = cloud.log_z.clone()
    cloud.resample(0, 10)
    assert (cloud.log_w == cloud.log_w[0, 0]).all()
    assert torch.allclose(cloud.log_z, log_z, rtol=0, atol=1e-15)
    assert cloud.resample(1, 10) is None  # equal weights never resample


def test_entropic_keeps_residual_weights():
    cloud = make(particles=3, ess=1.0, entropic=True, **WHOLE)
    log_w = torch.tensor([[0.0, 1.0, 3.0]]).double()
    cloud.reweight(log_w)
    tau = cloud.ess.item() / 3 / (1 - 0.25)
    rows = cloud.resample(0, 4)
    rows = torch.arange(3) if rows is None else rows
    assert tau < 1
    exact = (1 - tau) * log_w[0, rows] + (tau * log_w).logsumexp(1) - math.log(3)
    assert torch.allclose(cloud.log_w[0], exact)
    cloud.reweight(log_w)
    cloud.resample(3, 4)  # the end: tau is 1
    assert (cloud.log_w == cloud.log_w[0, 0]).all()


def test_partial_moves_only_the_lightest_and_the_heaviest():
    cloud = make(particles=8, ess=1.0, partial=0.5, **WHOLE)
    log_w = torch.tensor([[0.1, 5.0, 0.2, -8.0, 0.3, 4.0, -9.0, 0.4]]).double()
    cloud.reweight(log_w)
    rows = cloud.resample(0, 10)
    kept, moved = [0, 2, 4, 7], [1, 3, 5, 6]
    assert rows is not None and rows[kept].tolist() == kept
    assert set(rows[moved].tolist()) <= {1, 5}
    assert torch.equal(cloud.log_w[0, kept], log_w[0, kept])
    exact = log_w[0, moved].logsumexp(0) - math.log(4)
    assert torch.allclose(cloud.log_w[0, moved], exact.expand(4))


def test_prompts_fire_on_their_own():
    cloud = make(prompts=3, particles=4, ess=0.5, **WHOLE)
    d = torch.tensor([[0.0, 0.0, 0.0, 0.1], [9.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    cloud.reweight(d)
    rows = cloud.resample(2, 10)
    assert rows is not None
    assert rows.tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 8, 9, 10, 11]
    assert torch.equal(cloud.log_w[[0, 2]], d[[0, 2]].double())


def test_a_prompt_does_not_depend_on_the_others():
    d = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    together = make(prompts=3, particles=16, ess=1.0, **WHOLE)
    together.reweight(d)
    rows = together.resample(0, 2)
    alone = Cloud(1, 16, together.settings, [torch.Generator().manual_seed(2)])
    alone.reweight(d[2:])
    alone_rows = alone.resample(0, 2)
    assert rows is not None and alone_rows is not None
    assert torch.equal(alone_rows, rows[32:] - 32)
    assert torch.equal(alone.log_w[0], together.log_w[2])


def test_large_weights_whose_sum_overflows_are_kept():
    """Their sum is infinite, and none of them is."""
    cloud = make(particles=4, ess=0.5, **WHOLE)
    d = torch.tensor([[1e308, 1e308, 1e308, -1e308]], dtype=torch.float64)
    cloud.reweight(d)
    assert torch.equal(cloud.log_w, d)
    with pytest.raises(WeightsError, match="increment is inf"):
        cloud.reweight(torch.tensor([[0.0, torch.inf, -torch.inf, 0.0]]))


def test_one_particle_never_resamples():
    cloud = make(particles=1, ess=1.0, **WHOLE)
    cloud.reweight(torch.tensor([[-3.0]]))
    assert cloud.resample(0, 1) is None
    assert cloud.log_z.item() == -3


def test_a_resampling_that_moves_nothing_still_counts():
    cloud = make(particles=2, ess=1.0, **WHOLE)
    cloud.reweight(torch.tensor([[0.0, 1e-3]]))
    assert cloud.resample(0, 1) is None
    assert (cloud.log_w == cloud.log_w[0, 0]).all()


def test_dead_particles_stay_dead():
    cloud = make(particles=3)
    cloud.reweight(torch.tensor([[0.0, -torch.inf, 1.0]]))
    cloud.reweight(torch.tensor([[1.0, torch.nan, 1.0]]))  # -inf less -inf: nobody looks
    assert cloud.log_w.tolist() == [[1.0, -torch.inf, 2.0]]


def test_bad_increments_change_nothing():
    cloud = make(prompts=2, particles=3)
    bad = torch.zeros(2, 3)
    bad[1, [0, 2]] = torch.nan
    with pytest.raises(ValueError, match=r"is nan for prompt 1, particles \[0, 2\]; rewards must"):
        cloud.reweight(bad)
    bad[1] = torch.inf
    with pytest.raises(ValueError, match=r"is inf for prompt 1, particles \[0, 1, 2\]"):
        cloud.reweight(bad)
    bad[1] = -torch.inf
    with pytest.raises(ValueError, match="all particles of prompt 1 have weight zero; use more"):
        cloud.reweight(bad)
    with pytest.raises(ValueError, match=r"shape \(2, 3\), got \(6,\); use d.reshape"):
        cloud.reweight(torch.zeros(6))
    assert not cloud.log_w.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ess": 1.5}, "ess must be in [0, 1], got 1.5; use 0.5 to resample below half"),
        ({"conditional_ess": -1}, "conditional_ess must be in [0, 1], got -1; use 0.5"),
        ({"scheme": "foo"}, "scheme must be one of multinomial, stratified, systematic"),
        ({"window": (0.9, 0.2)}, "window must be two fractions of the run"),
        ({"window": (0, 1, 2)}, "got (0, 1, 2); use (0, 1) for the whole run"),
        ({"every": 0}, "every must be at least 1, got 0; use None"),
        ({"steps": (-1,)}, "steps must be transitions counted from 0, got (-1,); use"),
        ({"partial": 0.0}, "partial must be in (0, 1], got 0.0; use None"),
        ({"ess": math.nan}, "ess must be in [0, 1], got nan"),
    ],
)
def test_settings_are_checked(arguments, message):
    with pytest.raises(ValueError) as error:
        Resample(**arguments)
    assert message in str(error.value)


def test_cloud_arguments_are_checked():
    with pytest.raises(ValueError, match="particles must be at least 1, got 0; use 1"):
        Cloud(1, 0, None, [torch.Generator()])
    with pytest.raises(ValueError, match=r"generators must be one per prompt \(2\), got 1"):
        Cloud(2, 4, None, [torch.Generator()])


@pytest.mark.parametrize(
    ("settings", "fired"),
    [
        ({}, range(1, 9)),
        ({"window": (0.3, 0.3)}, [2]),
        ({"every": 3, **WHOLE}, [2, 5, 8]),
        ({"steps": [0, 9], **WHOLE}, [0, 9]),
        ({"steps": [0, 4]}, [4]),
        ({"ess": 0}, []),
        ({"every": 2, "steps": [0, 1, 3], **WHOLE}, [1, 3]),
    ],
)
def test_transitions_that_may_fire(settings, fired):
    resample = Resample(**settings)
    assert [index for index in range(10) if resample.may_fire(index, 10)] == list(fired)


def test_all_conditions_must_hold():
    log_w = torch.tensor([[0.0, 0.0, 0.1, 0.0], [0.0, 0.0, 5.0, 0.0]])
    assert Resample(ess=0.5, every=1).fires(4, 10, log_w).tolist() == [False, True]
    assert Resample(ess=0.5, every=3).fires(4, 10, log_w).tolist() == [False, False]
    assert Resample(ess=None).fires(4, 10, log_w).tolist() == [True, True]
    both = Resample(ess=0.5, conditional_ess=0.5)
    assert both.fires(4, 10, log_w, torch.tensor([1.0, 3.0])).tolist() == [False, False]
    assert both.fires(4, 10, log_w, torch.tensor([3.0, 1.0])).tolist() == [False, True]
    assert both.fires(4, 10, log_w).tolist() == [False, False]


def test_conditional_trigger_sees_the_last_increment():
    cloud = make(particles=4, ess=None, conditional_ess=0.5, **WHOLE)
    cloud.reweight(torch.tensor([[4.0, 0.0, 0.0, 0.0]]))
    cloud.resample(0, 10)
    first = cloud.log_w.clone()
    assert (first == first[0, 0]).all()
    cloud.reweight(torch.tensor([[0.1, 0.0, 0.0, 0.0]]))
    cloud.resample(1, 10)
    assert not (cloud.log_w == cloud.log_w[0, 0]).all()


def test_effective_sample_sizes():
    log_w = torch.tensor([[0.0, -1.0, 2.0, -torch.inf]], dtype=torch.float64)
    d = torch.tensor([[0.3, -2.0, 1e3, 5e3]], dtype=torch.float64)
    w, g = log_w.softmax(1), (d - 1e3).exp().where(log_w > -torch.inf, 0)
    exact = 4 * (w * g).sum() ** 2 / (w * g**2).sum()
    assert torch.allclose(conditional_ess(log_w, d), exact)
    assert ess(torch.full((2, 7), 1e300, dtype=torch.float64)).tolist() == [7, 7]
    gap = torch.tensor([[0.0, 1e300, 1e300, -1e300]], dtype=torch.float64)
    assert ess(gap).tolist() == [2]
    assert conditional_ess(torch.zeros(1, 4).double(), gap).tolist() == [2]


def test_bisected_scale():
    log_w = torch.zeros(3, 4, dtype=torch.float64)
    direction = torch.tensor([[0, 0, 0, 8.0], [0, 0.1, 0, 0.1], [0, 0, 0, -math.inf]])
    previous = torch.zeros(3, 4)
    scale = bisect_scale(log_w, direction, previous, 0.8)
    kept = conditional_ess(log_w[:1], scale[:1, None] * direction[:1])
    assert 0 < scale[0] < 1 and math.isclose(kept.item(), 3.2, rel_tol=1e-9)
    assert scale[1] == 1  # exactly
    assert scale[2] < 1e-9  # every positive scale kills a quarter of the particles
    low = torch.tensor([0.5, 0.25, 0.125])
    assert bisect_scale(log_w, direction, previous, 0.8, low).tolist() == [0.5, 1, 0.125]
    with pytest.raises(ValueError, match=r"target must be in \(0, 1\], got 0"):
        bisect_scale(log_w, direction, previous, 0)


def test_lineage_by_hand():
    cloud = make(prompts=2, particles=3)
    assert cloud.ancestors().shape == (0, 2, 3)
    cloud.lineage = [
        None,
        torch.tensor([0, 0, 2, 3, 4, 5]),
        torch.tensor([1, 1, 2, 4, 4, 4]),
        torch.tensor([2, 1, 2, 3, 4, 5]),
    ]
    assert cloud.ancestors().tolist() == [
        [[0, 1, 2], [0, 1, 2]],
        [[0, 0, 2], [0, 1, 2]],
        [[0, 0, 2], [1, 1, 1]],
        [[2, 0, 2], [1, 1, 1]],
    ]
    assert cloud.survivors().tolist() == [[3, 3], [2, 3], [2, 1], [2, 1]]
    assert cloud.coalescence(0) is None
    assert cloud.coalescence(1) == 2


def test_lineage_of_a_run():
    cloud = make(prompts=2, particles=4, ess=1.0, **WHOLE)
    values = torch.arange(8)
    noise = torch.Generator().manual_seed(0)
    for index in range(6):
        cloud.reweight(torch.randn(2, 4, generator=noise))
        rows = cloud.resample(index, 6)
        if rows is not None:
            values = values[rows]
    assert len(cloud.lineage) == 6
    assert torch.equal(values.reshape(2, 4) % 4, cloud.ancestors()[-1])
