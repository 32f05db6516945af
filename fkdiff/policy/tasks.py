"""Meta-World tasks as a policy meets them: seeded episodes, flat observations, pushed objects.

Meta-World and MuJoCo are the extra `policy`; nothing here imports them before a task is made.
"""

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ACTION_SIZE", "OBSERVATION_SIZE", "TASKS", "MissingExtra", "TaskEpisode", "check_task"]

Array = npt.NDArray[np.float64]

TASKS = ("pick-place-v3", "push-v3", "drawer-open-v3", "assembly-v3")
"""The tasks of the bundled policy, in the order of its one-hot code."""

STATE_SIZE = 39
OBSERVATION_SIZE = STATE_SIZE + len(TASKS)
ACTION_SIZE = 4

# Before the hand closes on the object: later, the scripted experts fail in eleven of twelve,
# so that no demonstration shows how to recover.
PUSH_STEPS = (5, 16)
PUSH_METRES = (0.03, 0.06)
_OBJECT = 9  # first position coordinate after the arm and the two fingers


class MissingExtra(ImportError):
    """Meta-World isn't installed."""


def check_task(task: str) -> str:
    """The task's name, if there is such a task.

    Raises:
        ValueError: If there isn't.

    Example:
        >>> check_task("reach-v9")
        Traceback (most recent call last):
        ValueError: task must be one of pick-place-v3, ..., got 'reach-v9'
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    return task


class TaskEpisode:
    """One environment of a task; `reset(seed)` starts an episode that depends on the seed alone.

    An observation is Meta-World's state (39 numbers: hand, gripper and object now and one step
    before, goal) followed by a one-hot code of the task. An action is (x, y, z, gripper), each
    clipped to [-1, 1].

    Arguments:
        task: One of `TASKS`.
        render: Draw frames for `frame`, where MuJoCo can.

    Raises:
        ValueError: If the task is unknown.
        MissingExtra: If Meta-World isn't installed.
    """

    def __init__(self, task: str, render: bool = False) -> None:
        self.task = check_task(task)
        try:
            from metaworld.env_dict import ALL_V3_ENVIRONMENTS
            from metaworld.policies import ENV_POLICY_MAP
        except ImportError as error:
            raise MissingExtra(
                f"tasks need Meta-World and MuJoCo ({error}); try: pip install 'fkdiff[policy]'"
            ) from error
        drawn: dict[str, Any] = {"render_mode": "rgb_array", "camera_name": "corner2"}
        self._env: Any = ALL_V3_ENVIRONMENTS[task](**(drawn if render else {}))
        self._expert: Any = ENV_POLICY_MAP[task]()
        self._observe_goals()
        self._code = np.eye(len(TASKS))[TASKS.index(task)]
        self._state = np.zeros(STATE_SIZE)

    def _observe_goals(self) -> None:
        # As Meta-World's own goal-observable classes do it, but with a fresh layout a seed.
        self._env._partially_observable = False
        self._env.__dict__.pop("sawyer_observation_space", None)  # cached with the goal blanked
        self._env._freeze_rand_vec = False
        self._env.seeded_rand_vec = True
        self._env._set_task_called = True

    def reset(self, seed: int) -> Array:
        """Start an episode; returns the observation, shape (OBSERVATION_SIZE,)."""
        with _own_seed():
            self._env.seed(seed)
            self._state, _ = self._env.reset()
        return self.observation

    @property
    def observation(self) -> Array:
        """What the policy sees, shape (OBSERVATION_SIZE,)."""
        return np.concatenate([self._state, self._code])

    @property
    def layout(self) -> Array:
        """Where object and goal are, shape (6,): tells one episode's start from another's."""
        return np.concatenate([self._state[4:7], self._state[-3:]])

    def step(self, action: npt.ArrayLike) -> tuple[Array, bool]:
        """Take one action of shape (4,); returns the next observation and whether it succeeded."""
        clipped = np.clip(np.asarray(action, dtype=np.float32), -1.0, 1.0)
        self._state, _, _, _, info = self._env.step(clipped)
        return self.observation, bool(info["success"])

    def expert_action(self) -> Array:
        """What Meta-World's scripted expert does now, shape (4,), clipped to [-1, 1]."""
        return np.clip(self._expert.get_action(self._state), -1.0, 1.0).astype(np.float64)

    def push(self, rng: np.random.Generator) -> None:
        """Move the object 3 to 6 cm in a random direction (a drawer: open it by as much)."""
        positions, velocities = self._env.data.qpos.copy(), self._env.data.qvel.copy()
        distance, angle = rng.uniform(*PUSH_METRES), rng.uniform(0, 2 * np.pi)
        if self.task == "drawer-open-v3":
            positions[_OBJECT] -= distance
        else:
            positions[_OBJECT : _OBJECT + 2] += distance * np.array([np.cos(angle), np.sin(angle)])
        velocities[_OBJECT:] = 0
        self._env.set_state(positions, velocities)

    def frame(self) -> npt.NDArray[np.uint8]:
        """A picture of the scene, shape (height, width, 3)."""
        return np.ascontiguousarray(self._env.render()[::-1])

    def close(self) -> None:
        """Free the renderer, if there is one."""
        self._env.close()


@contextlib.contextmanager
def _own_seed() -> Any:
    """Gymnasium and Meta-World may touch NumPy's global state; the caller's is put back."""
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)
