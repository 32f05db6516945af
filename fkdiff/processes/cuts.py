"""Where the slots of a cloud are cut between processes."""

import math

__all__ = ["limits"]


def limits(
    prompts: int, particles: int, world: int, micro_batch: int | None = None
) -> tuple[int, ...]:
    """Slots at which processes begin, and K: between micro-batches, as even as those allow.

    Example:
        >>> limits(1, 7, 3, 2)
        (0, 2, 4, 7)
    """
    if particles < world:
        raise ValueError(
            f"particles must be at least {world}, one for each process of the group, got "
            f"{particles}; start fewer processes"
        )
    units = _units(prompts, particles, micro_batch)
    if units < world:
        assert micro_batch is not None
        fits = (m for m in range(micro_batch, 0, -1) if _units(prompts, particles, m) >= world)
        raise ValueError(
            f"micro_batch must give each of the group's {world} processes a micro-batch of its "
            f"own, got {micro_batch} for {particles} particles; set micro_batch={next(fits)}"
        )
    unit = _unit(prompts, micro_batch)
    starts = (min(particles, unit * (units * rank // world)) for rank in range(world))
    return (*starts, particles)


def _unit(prompts: int, micro_batch: int | None) -> int:
    """Slots of each prompt that fill whole micro-batches."""
    return 1 if micro_batch is None else micro_batch // math.gcd(micro_batch, prompts)


def _units(prompts: int, particles: int, micro_batch: int | None) -> int:
    """Parts of a prompt's slots that whole micro-batches allow."""
    return -(-particles // _unit(prompts, micro_batch))
