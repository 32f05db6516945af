"""The one clock of a run: what share of it is done, for schedules, intervals and windows."""

__all__ = ["check_interval", "progress_of", "within"]


def progress_of(index: int, steps: int) -> float:
    r"""Returns the progress of a transition, $(i + 1) / T$ in (0, 1].

    Whatever happens in a transition has this one progress: the guidance that moves the particles,
    the potential of the state that they come to, and the resampling after it. It is the share of
    the run that is done once the transition is, and 1 in the last: a potential acts on the state
    after the transition, and must have all of its scale there for the law to be exact. No law
    hangs on the clock of what moves the particles, so it has the same.

    Arguments:
        index: The transition, counted from 0, below `steps`.
        steps: T, number of transitions.

    Example:
        >>> [progress_of(index, 4) for index in range(4)]
        [0.25, 0.5, 0.75, 1.0]
    """
    return (index + 1) / steps


def within(interval: tuple[float, float] | None, progress: float) -> bool:
    """Whether a transition lies in an interval of the run: first < progress <= last.

    The intervals (0, 0.5) and (0.5, 1) share no transition and leave none out.

    Arguments:
        interval: Two shares of the run, None for all of it.
        progress: Of the transition.

    Example:
        >>> [within((0.25, 0.75), progress_of(index, 4)) for index in range(4)]
        [False, True, True, False]
    """
    first, last = interval or (0.0, 1.0)
    slack = 1e-9  # fractions such as 0.3 * 10 don't come out whole
    return first + slack < progress <= last + slack


def check_interval(name: str, interval: tuple[float, float]) -> None:
    """Refuse what isn't an interval of the run.

    Raises:
        ValueError: If so.
    """
    if not 0 <= interval[0] < interval[1] <= 1:
        raise ValueError(
            f"{name} must be two shares of the run, 0 <= first < last <= 1, got {interval}"
        )
