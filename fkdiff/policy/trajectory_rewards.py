"""Rewards of chunks of actions that move a point: smoothness, goals, obstacles.

Each reads chunks (n, H, D) and, where it needs to know where the point starts, the observations
that they were decided for. Positions follow from actions as velocities: p + speed * cumsum(a).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fkdiff.terms.reward import Composable, as_reward

__all__ = ["goal_distance", "obstacle_distance", "smoothness", "trajectory"]

Position = Callable[[Tensor], Tensor]


def trajectory(actions: Tensor, start: Tensor, speed: float, dims: Sequence[int]) -> Tensor:
    """Positions after each action, shape (n, H, len(dims)).

    Arguments:
        actions: Chunks, shape (n, H, D).
        start: Positions before the first action, shape (n, len(dims)).
        speed: Way that an action of 1 moves.
        dims: Dimensions of the action that move.

    Example:
        >>> trajectory(torch.ones(1, 3, 2), torch.zeros(1, 1), 0.1, [0]).flatten().tolist()
        [0.10..., 0.20..., 0.30...]
    """
    return start[:, None] + speed * actions[..., list(dims)].cumsum(1)


def smoothness() -> Composable:
    """Minus the mean square second difference of the actions; 0 for a straight line.

    Example:
        >>> zigzag = torch.tensor([0.0, 1.0, 0.0])[None, :, None]
        >>> float(smoothness()(zigzag))
        -4.0
    """

    def smooth(actions: Tensor) -> Tensor:
        return -actions.diff(n=2, dim=1).square().mean((1, 2))

    return as_reward(smooth, name="smoothness", inputs="actions", differentiable=True)


def goal_distance(
    goal: Sequence[float], start: Position, speed: float = 1.0, dims: Sequence[int] = (0, 1)
) -> Composable:
    """Minus the distance of the last position from a goal.

    Arguments:
        goal: Shape (len(dims),).
        start: Position (n, len(dims)) in observations (n, O).
        speed: Distance of an action of size 1.
        dims: Dimensions of an action that move the point.

    Example:
        >>> reward = goal_distance([2.0], lambda o: o[:, :1], dims=[0])
        >>> float(reward(torch.ones(1, 3, 1), observations=torch.zeros(1, 1)))
        -1.0
    """

    def near_goal(actions: Tensor, observations: Tensor) -> Tensor:
        path = trajectory(actions, start(_stacked(observations)), speed, dims)
        return -(path[:, -1] - path.new_tensor(goal)).norm(dim=1)

    return as_reward(near_goal, name="goal-distance", inputs="actions", differentiable=True)


def obstacle_distance(
    centre: Sequence[float],
    radius: float,
    start: Position,
    speed: float = 1.0,
    dims: Sequence[int] = (0, 1),
) -> Composable:
    """Smallest distance of the positions from a ball, at most 0: it only counts the overlap.

    Arguments:
        centre: Shape (len(dims),).
        radius: Radius of the ball, with the margin that is wanted; positive.
        start: Position (n, len(dims)) in observations (n, O).
        speed: Distance of an action of size 1.
        dims: Dimensions of an action that move the point.

    Raises:
        ValueError: If the radius isn't positive.

    Example:
        >>> reward = obstacle_distance([2.0], 0.5, lambda o: o[:, :1], dims=[0])
        >>> float(reward(torch.ones(1, 3, 1), observations=torch.zeros(1, 1)))
        -0.5
    """
    if not radius > 0:
        raise ValueError(f"radius must be positive, got {radius}")

    def clear(actions: Tensor, observations: Tensor) -> Tensor:
        path = trajectory(actions, start(_stacked(observations)), speed, dims)
        gap = (path - path.new_tensor(centre)).norm(dim=2) - radius
        return gap.amin(1).clamp(max=0)

    return as_reward(clear, name="obstacle-distance", inputs="actions", differentiable=True)


def _stacked(observations: Tensor | Sequence[Tensor]) -> Tensor:
    return observations if isinstance(observations, Tensor) else torch.stack(list(observations))
