"""What a run loses when it is killed, or when something fails under it: nothing.

Everything goes through `steer(keep=...)` on the bundled model. Kills are real (SIGKILL of a forked
process); of the other faults each is injected once, and the run then goes on.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from fkdiff import Resample, Tilt, as_reward, steer
from fkdiff.bench import BenchRefused
from fkdiff.bench.emoji_arms import stock_emoji
from fkdiff.bench.latency import one_thread
from fkdiff.terms.reward_time import within_seconds

__all__ = ["run"]

KILLS = 10


@one_thread()  # a forked process can't use the threads of its parent
def run(quick: bool, seed: int) -> dict[str, Any]:
    """Kill a run at random transitions, inject each fault, go on and compare bit by bit.

    Arguments as for `run_bench`. Quick: 8 steps instead of 20.

    Returns:
        `identical` of `kills`; `lost`, the number of faults after which the run didn't end as if
        nothing had been; `faults` by name; `killed_at`, transitions counted from 1.
    """
    if not hasattr(os, "fork"):
        raise BenchRefused("faults needs os.fork; run it on Linux or macOS")
    lab = Lab(stock_emoji(), particles=4, steps=8 if quick else 20, seed=seed)
    whole = lab.draw(keep=False)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(lab.steps - 1, generator=generator).repeat(KILLS)
    killed_at = [int(step) + 2 for step in order[:KILLS]]
    identical = sum(_survives(lab, whole, partial(_killed, call=call)) for call in killed_at)
    faults = {name: _survives(lab, whole, fault) for name, fault in _FAULTS.items()}
    return {
        "kills": KILLS,
        "identical": identical,
        "killed_at": " ".join(map(str, killed_at)),
        "lost": sum(not fine for fine in faults.values()),
        "faults": {name: "nothing lost" if fine else "LOST" for name, fine in faults.items()},
        "particles": lab.particles,
        "steps": lab.steps,
    }


@dataclass
class Brightness:
    """Reward by brightness, with something that happens at one of its calls."""

    at: int = 0
    happens: Callable[[Any], Any] = lambda values: values
    calls: int = 0
    name, inputs, differentiable = "brightness", "pixels", False
    mean, sd = 0.0, 1.0

    def __call__(self, samples: Any, **context: Any) -> Any:
        self.calls += 1
        values = 20 * samples.mean((1, 2, 3))
        return self.happens(values) if self.calls == self.at else values

    def __repr__(self) -> str:
        return "brightness"  # the same whatever happens, so that a snapshot is of this run


@dataclass
class Lab:
    """The run that is killed, or made to fail, and then goes on from its folder."""

    pipe: Any
    particles: int
    steps: int
    seed: int
    folder: Path = Path()

    @property
    def file(self) -> Path:
        """The snapshot."""
        return self.folder / "snapshot.safetensors"

    def draw(self, reward: Any = None, keep: bool = True, micro_batch: int | None = None) -> Any:
        """One run, kept in the folder; returns its record."""
        steered = steer(
            self.pipe,
            Tilt(reward or Brightness()),
            particles=self.particles,
            micro_batch=micro_batch,
            resample=Resample(ess=1.0, window=(0, 1)),
            select="all",
            seed=self.seed,
            keep=self.folder if keep else None,
        )
        return steered("a cat on a blue background", num_inference_steps=self.steps).steering


def _survives(lab: Lab, whole: Any, fault: Callable[[Lab], bool]) -> bool:
    """Whether a fault shows as it should, and the run then ends as the whole one did."""
    with tempfile.TemporaryDirectory() as folder:
        lab.folder = Path(folder)
        return fault(lab) and _numbers(lab.draw()) == _numbers(whole)


def _numbers(result: Any) -> list[Any]:
    """All that a run gave, but times."""
    names = ("latents", "samples", "log_w", "log_twist", "selected")
    course = [x for step in result.trace for x in (step.ess, *step.rewards.values())]
    tensors = [*(getattr(result, name) for name in names), *result.rows, *course]
    numbers = [None if x is None else x.tolist() for x in tensors]
    return [result.complete, result.cost.denoiser_evaluations, *numbers]


def _raises(kind: type[BaseException], words: str, work: Callable[[], Any]) -> bool:
    """Whether a call ends with such an error, in these words."""
    try:
        work()
    except kind as error:
        return words in str(error)
    return False


def _throw(error: BaseException, *_: Any) -> Any:
    raise error


def _kill(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kills(work: Callable[[], Any]) -> bool:
    """Whether a call kills its process, a silent fork of this one."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _at_third(usual: Callable[..., Any], happens: Callable[[], Any]) -> Callable[..., Any]:
    """A function at whose third call something happens."""
    calls = count(1)

    def call(*args: Any) -> Any:
        if next(calls) == 3:
            happens()
        return usual(*args)

    return call


def _killed(lab: Lab, call: int) -> bool:
    """SIGKILL while the reward scores a transition, counted from 1."""
    return _kills(lambda: lab.draw(Brightness(call, _kill))) and lab.file.is_file()


def _killed_while_writing(lab: Lab) -> bool:
    """SIGKILL when a snapshot is written and hasn't got its name."""
    with patch("os.replace", _at_third(os.replace, _kill)):
        return _kills(lab.draw) and bool(list(lab.folder.glob(".*.part")))


def _fails(
    words: str,
    happens: Callable[[Any], Any],
    kind: type[BaseException] = ValueError,
    seconds: float | None = None,
) -> Callable[[Lab], bool]:
    """A fault in which the third call of the reward ends the run with these words."""

    def fault(lab: Lab) -> bool:
        reward: Any = Brightness(3, happens)
        if seconds is not None:
            reward = within_seconds(as_reward(reward), seconds)
        return _raises(kind, words, lambda: lab.draw(reward)) and lab.file.is_file()

    return fault


_interrupted = _fails("", partial(_throw, KeyboardInterrupt()), KeyboardInterrupt)


def _memory_short(lab: Lab) -> bool:
    """The first network call of all rows fails: half of them fit, and give the same particles."""
    usual, limit = lab.pipe.unet.forward, lab.particles

    def forward(sample: Any, *args: Any, **kwargs: Any) -> Any:
        if len(sample) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return usual(sample, *args, **kwargs)

    with patch.object(lab.pipe.unet, "forward", forward):
        found = lab.draw(keep=False)
    half = lab.draw(keep=False, micro_batch=lab.particles // 2)
    return found.settings["micro_batch"] == lab.particles // 2 and _numbers(half) == _numbers(
        found
    )


_FULL = partial(_throw, OSError(28, "No space left on device"))


def _disk_full_at_a_snapshot(lab: Lab) -> bool:
    with patch("os.fsync", _at_third(os.fsync, _FULL)):
        shown = _raises(OSError, "No space left", lab.draw)
    return shown and [path.name for path in lab.folder.iterdir()] == [lab.file.name]


def _disk_full_at_the_report(lab: Lab) -> bool:
    result = lab.draw()
    with patch("os.fsync", _FULL):
        shown = _raises(OSError, "No space left", lambda: result.save(lab.folder))
    return shown and [path.name for path in lab.folder.rglob("*.*")] == [lab.file.name]


def _damaged(lab: Lab) -> bool:
    """Half of a snapshot is refused; it is never taken for a whole one."""
    _interrupted(lab)
    data = lab.file.read_bytes()
    lab.file.write_bytes(data[: len(data) // 2])
    shown = _raises(ValueError, "is damaged", lab.draw)
    lab.file.write_bytes(data)
    return shown


def _foreign(lab: Lab) -> bool:
    """A snapshot of another seed is refused."""
    _interrupted(lab)
    lab.seed += 1
    shown = _raises(ValueError, "is of another run (seed", lab.draw)
    lab.seed -= 1
    return shown


_FAULTS: dict[str, Callable[[Lab], bool]] = {
    "killed while a snapshot is written": _killed_while_writing,
    "interrupted": _interrupted,
    "a reward raises": _fails("ZeroDivisionError", partial(_throw, ZeroDivisionError())),
    "a reward hangs": _fails("took more than 2 s", lambda _: time.sleep(60), seconds=2.0),
    "a reward returns NaN": _fails("NaN", lambda values: values * float("nan")),
    "a reward returns another shape": _fails("one number per sample", lambda v: v[:, None]),
    "memory runs out": _memory_short,
    "the disk is full at a snapshot": _disk_full_at_a_snapshot,
    "the disk is full at the report": _disk_full_at_the_report,
    "a snapshot is damaged": _damaged,
    "a snapshot is of another run": _foreign,
}
