"""The tasks, the bundled policy on them, and the recipe's parts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fkdiff import zoo
from fkdiff.policy import Calibration, Levels, WarmStartPolicyPipeline
from fkdiff.policy.methods import METHODS, make_method
from fkdiff.policy.rollouts import Rollouts
from fkdiff.policy.tasks import OBSERVATION_SIZE, TASKS, TaskEpisode, check_task

pytest.importorskip("metaworld", reason="needs the extra: pip install 'fkdiff[policy]'")
pytest.importorskip("mujoco", reason="needs the extra: pip install 'fkdiff[policy]'")
FOLDER = Path(zoo.__file__).parent / "metaworld"
SEEDS = [1000, 1001]


@pytest.fixture(scope="module")
def bundled() -> WarmStartPolicyPipeline:
    return WarmStartPolicyPipeline.from_pretrained(FOLDER)


def controller(pipeline: WarmStartPolicyPipeline, name: str):
    levels = replace(Levels.of(pipeline.scheduler), eta=0.0)
    shape, calibration = pipeline.sampler.shape, pipeline.calibration
    return make_method(name, pipeline.denoiser, levels, shape, calibration)


@pytest.mark.parametrize("task", TASKS)
def test_an_episode_depends_on_its_seed_alone(task):
    env = TaskEpisode(task)
    first, other, again = (env.reset(seed) for seed in (5, 6, 5))
    assert first.shape == (OBSERVATION_SIZE,) and np.isfinite(first).all()
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.abs(first[36:39]).sum() > 0  # the goal is observed
    assert first[39:].tolist() == [float(name == task) for name in TASKS]


def test_global_random_numbers_are_left_alone():
    state = np.random.get_state()[1].copy()
    TaskEpisode("push-v3").reset(3)
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("task", ["push-v3", "drawer-open-v3"])
def test_a_push_moves_the_object(task):
    env = TaskEpisode(task)
    env.reset(5)
    before, _ = env.step(np.zeros(4))
    env.push(np.random.default_rng(0))
    after, _ = env.step(np.zeros(4))
    assert 0.02 < np.linalg.norm(after[4:7] - before[4:7]) < 0.08
    assert np.linalg.norm(after[:3] - before[:3]) < 0.01


def test_windows_stop_at_disturbances_and_starts_are_disjoint():
    from fkdiff.zoo.demonstrations import TRAIN_SEEDS, check_disjoint, gather, layouts

    data = gather(episodes=1)
    assert data.chunks.shape[1:] == (16, 4) and len(data.layouts) == len(TASKS)
    assert float(data.chunks.abs().max()) <= 1.0
    held_out = torch.cat([layouts(task, range(1000, 1003)) for task in TASKS])
    assert check_disjoint(data.layouts, held_out) > 1e-4
    trained = layouts("push-v3", range(TRAIN_SEEDS, TRAIN_SEEDS + 3))
    with pytest.raises(ValueError, match="no demonstration did"):
        check_disjoint(torch.cat([data.layouts, trained]), trained)


def test_unknown_tasks_are_refused():
    with pytest.raises(ValueError, match="task must be one of pick-place-v3"):
        check_task("reach-v9")
    with pytest.raises(ValueError, match="method must be one of"):
        make_method("ddim7", lambda x, t, o: x, Levels((0,), (0.9,), (0.4,)), (4, 2))


def test_bundled_policy_is_warm_and_calibrated(bundled):
    sampler = bundled.sampler
    assert 1 <= sampler.start < 100 and len(sampler.warm_plan) == 1
    for executed in (1, 4, 8):
        name = "calibration.json" if executed == 1 else f"calibration_{executed}.json"
        assert Calibration.load(FOLDER / name).executed == executed


def test_one_evaluation_does_the_task_and_the_held_chunk_does_not(bundled):
    rollouts = Rollouts("drawer-open-v3", batch=2)
    rows = {}
    for name in ("rti_auto", "hold"):
        episodes = list(rollouts.run(controller(bundled, name), SEEDS))
        assert sorted(e.seed for e in episodes) == SEEDS
        rows[name] = episodes
    assert all(e.success for e in rows["rti_auto"])
    assert not any(e.success for e in rows["hold"])
    spent = sum(e.evaluations for e in rows["rti_auto"]) / sum(
        e.decisions for e in rows["rti_auto"]
    )
    assert spent < 2.5


def test_pushed_episodes_repeat_and_others_end_earlier(bundled):
    rollouts = Rollouts("push-v3", batch=2)
    runs = [
        {e.seed: e.steps for e in rollouts.run(controller(bundled, "rti_auto"), SEEDS, push=push)}
        for push in (True, True, False)
    ]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_decides_and_forgets(bundled, name):
    method = controller(bundled, name)
    seen = torch.zeros(2, OBSERVATION_SIZE)
    first = method.decide(seen, [3, 8])
    second = method.decide(seen, [3, 8])
    assert first.actions.shape == second.actions.shape == (2, 16, 4)
    assert first.cold.all()
    method.reset([8])
    third = method.decide(seen, [3, 8])
    assert third.cold[1]
    if name in ("rti_paper", "rti_auto", "hold"):
        assert not third.cold[0] and int(third.evaluations[0]) <= 3
