"""What a run loses when it is killed, or when something fails under it: nothing.

Everything goes through `steer(keep=...)` on the bundled model. Kills are real (SIGKILL of a forked
process); of the other faults each is injected once, and the run then goes on.
"""

import os
import signal
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from fkdiff.bench import BenchRefused
from fkdiff.bench.fault_lab import (
    Brightness,
    Lab,
    at_third,
    in_child,
    kept,
    lab_of,
    raising,
    same,
    throwing,
)

__all__ = ["run"]

KILLS = 10


def run(quick: bool, seed: int) -> dict[str, Any]:
    """Kill a run at random transitions, inject each fault, go on and compare bit by bit.

    Arguments:
        quick: 8 steps instead of 20.
        seed: Seed of the noise and of the transitions at which a run is killed.

    Returns:
        `identical` of `kills`; `lost`, the number of faults after which the run didn't end as if
        nothing had been; `faults` by name; `killed_at`, transitions counted from 1.

    Raises:
        BenchRefused: Where processes can't be forked.
    """
    if not hasattr(os, "fork"):
        raise BenchRefused("faults needs os.fork; run it on Linux or macOS")
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process can't use the threads of its parent
    try:
        lab = lab_of(seed, 4, 8 if quick else 20)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(lab.steps - 1, generator=generator).repeat(KILLS)
        killed_at = [int(step) + 2 for step in order[:KILLS]]
        identical = sum(kept(lab, lambda call=call: _killed(lab, call)) for call in killed_at)
        faults = {name: kept(lab, lambda f=fault: f(lab)) for name, fault in _FAULTS.items()}
    finally:
        torch.set_num_threads(threads)
    return {
        "kills": KILLS,
        "identical": identical,
        "killed_at": " ".join(map(str, killed_at)),
        "lost": sum(not fine for fine in faults.values()),
        "faults": {name: "nothing lost" if fine else "LOST" for name, fine in faults.items()},
        "particles": lab.particles,
        "steps": lab.steps,
    }


def _killed(lab: Lab, call: int) -> bool:
    """SIGKILL while the reward looks at a transition, counted from 1."""
    reward = Brightness(at=call, happens=lambda _: os.kill(os.getpid(), signal.SIGKILL))
    return in_child(lambda: lab.draw(reward)) == -signal.SIGKILL and lab.file.is_file()


def _killed_while_writing(lab: Lab) -> bool:
    """SIGKILL when a snapshot is written and hasn't got its name."""

    def killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        with patch("os.replace", at_third(os.replace, killed)):
            lab.draw()

    return in_child(work) == -signal.SIGKILL and bool(list(lab.folder.glob(".*.part")))


def _fails(lab: Lab, told: str, kind: type[BaseException], **reward: Any) -> bool:
    """Whether the third look of a reward ends the run with these words."""
    with raising(kind, told) as seen:
        lab.draw(Brightness(at=3, **reward))
    return seen() and lab.file.is_file()


def _reward_raises(lab: Lab) -> bool:
    return _fails(lab, "ZeroDivisionError", ValueError, happens=throwing(ZeroDivisionError()))


def _reward_is_nan(lab: Lab) -> bool:
    return _fails(lab, "NaN", ValueError, happens=lambda values: values * float("nan"))


def _reward_has_another_shape(lab: Lab) -> bool:
    return _fails(lab, "one number per sample", ValueError, happens=lambda v: v[:, None])


def _reward_hangs(lab: Lab) -> bool:
    from fkdiff.terms import as_reward
    from fkdiff.terms.reward_time import within_seconds

    reward = Brightness(at=3, happens=lambda _: time.sleep(60))
    with raising(ValueError, "took more than 2 s") as seen:
        lab.draw(within_seconds(as_reward(reward), 2.0))
    return seen() and lab.file.is_file()


def _interrupted(lab: Lab) -> bool:
    return _fails(lab, "", KeyboardInterrupt, happens=throwing(KeyboardInterrupt()))


def _memory_short(lab: Lab) -> bool:
    """The first network call of all rows fails: half of them fit, and give the same particles."""
    import torch

    usual, limit = lab.pipe.unet.forward, lab.particles

    def forward(sample: Any, *args: Any, **kwargs: Any) -> Any:
        if len(sample) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return usual(sample, *args, **kwargs)

    with patch.object(lab.pipe.unet, "forward", forward):
        found = lab.draw(keep=False)
    half = lab.draw(keep=False, micro_batch=lab.particles // 2)
    return found.settings["micro_batch"] == lab.particles // 2 and same(half, found)


def _disk_full_at_a_snapshot(lab: Lab) -> bool:
    def full() -> None:
        raise OSError(28, "No space left on device")

    with (
        patch("os.fsync", at_third(os.fsync, full)),
        raising(OSError, "No space left") as seen,
    ):
        lab.draw()
    return seen() and [path.name for path in lab.folder.iterdir()] == [lab.file.name]


def _disk_full_at_the_report(lab: Lab) -> bool:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    result = lab.draw()
    with patch("os.fsync", full), raising(OSError, "No space left") as seen:
        result.save(lab.folder)
    return seen() and [path.name for path in lab.folder.rglob("*.*")] == [lab.file.name]


def _damaged(lab: Lab) -> bool:
    """Half of a snapshot is refused; it is never taken for a whole one."""
    _interrupted(lab)
    data = lab.file.read_bytes()
    lab.file.write_bytes(data[: len(data) // 2])
    with raising(ValueError, "is damaged") as seen:
        lab.draw()
    lab.file.write_bytes(data)
    return seen()


def _foreign(lab: Lab) -> bool:
    """A snapshot of another seed is refused."""
    _interrupted(lab)
    lab.seed += 1
    with raising(ValueError, "is of another run (seed") as seen:
        lab.draw()
    lab.seed -= 1
    return seen()


_FAULTS: dict[str, Callable[[Lab], bool]] = {
    "killed while a snapshot is written": _killed_while_writing,
    "interrupted": _interrupted,
    "a reward raises": _reward_raises,
    "a reward hangs": _reward_hangs,
    "a reward returns NaN": _reward_is_nan,
    "a reward returns another shape": _reward_has_another_shape,
    "memory runs out": _memory_short,
    "the disk is full at a snapshot": _disk_full_at_a_snapshot,
    "the disk is full at the report": _disk_full_at_the_report,
    "a snapshot is damaged": _damaged,
    "a snapshot is of another run": _foreign,
}
