"""What a run loses when it is killed, or when something fails under it: nothing.

Everything goes through `steer(keep=...)` on the bundled model. Kills are real (SIGKILL of a forked
process); of the other faults each is injected once, and the run then goes on.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fkdiff.bench import BenchRefused

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
        lab = _lab(seed, 4, 8 if quick else 20)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(lab.steps - 1, generator=generator).repeat(KILLS)
        killed_at = [int(step) + 2 for step in order[:KILLS]]
        identical = sum(_kept(lab, lambda call=call: _killed(lab, call)) for call in killed_at)
        faults = {name: _kept(lab, lambda f=fault: f(lab)) for name, fault in _FAULTS.items()}
    finally:
        torch.set_num_threads(threads)
    return {
        "kills": KILLS,
        "identical": identical,
        "killed_at": " ".join(map(str, killed_at)),
        "lost": sum(not kept for kept in faults.values()),
        "faults": {name: "nothing lost" if kept else "LOST" for name, kept in faults.items()},
        "particles": lab.particles,
        "steps": lab.steps,
    }


@dataclass
class _Reward:
    """Brightness, with something that happens at one of its calls."""

    name: str = "brightness"
    differentiable: bool = False
    inputs: str = "pixels"
    mean: float = 0.0
    sd: float = 1.0
    calls: int = 0
    at: int = 0
    happens: Callable[[Any], Any] | None = None

    def __call__(self, samples: Any, **context: Any) -> Any:
        self.calls += 1
        values = 20 * samples.mean((1, 2, 3))
        if self.happens is not None and self.calls == self.at:
            return self.happens(values)
        return values

    def __repr__(self) -> str:
        return "brightness"


@dataclass
class _Lab:
    """The run that everything is done to."""

    pipe: Any
    particles: int
    steps: int
    seed: int
    folder: Path = field(default_factory=Path)
    whole: Any = None

    @property
    def file(self) -> Path:
        """The snapshot."""
        return self.folder / "snapshot.safetensors"

    def draw(self, reward: Any = None, keep: bool = True, **more: Any) -> Any:
        """One run, kept in the folder; gives its record."""
        from fkdiff import Resample, Tilt, steer

        steered = steer(
            self.pipe,
            Tilt(_Reward() if reward is None else reward),
            particles=self.particles,
            resample=Resample(ess=1.0, window=(0, 1)),
            select="all",
            seed=self.seed,
            keep=self.folder if keep else None,
            **more,
        )
        call = {"prompt": "a cat on a blue background", "num_inference_steps": self.steps}
        return steered(**call).steering


def _lab(seed: int, particles: int, steps: int) -> _Lab:
    from diffusers import DiffusionPipeline

    from fkdiff import zoo

    pipe: Any = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
    pipe.set_progress_bar_config(disable=True)
    lab = _Lab(pipe, particles, steps, seed)
    lab.whole = lab.draw(keep=False)
    return lab


def _kept(lab: _Lab, fault: Callable[[], bool]) -> bool:
    """Whether a fault shows as it should, and the run then ends as the whole one did."""
    with tempfile.TemporaryDirectory() as folder:
        lab.folder = Path(folder)
        shown = fault()
        return shown and _same(lab.whole, lab.draw())


def _same(one: Any, other: Any) -> bool:
    """Whether two runs agree in every bit that isn't a time."""
    rows = zip(one.rows, other.rows, strict=True)
    return (
        other.complete
        and all(
            getattr(one, name).equal(getattr(other, name))
            for name in ("latents", "samples", "log_w", "log_twist", "selected")
        )
        and all(a is b if a is None or b is None else a.equal(b) for a, b in rows)
        and len(one.trace) == len(other.trace)
        and all(
            a.ess.equal(b.ess) and all(v.equal(b.rewards[k]) for k, v in a.rewards.items())
            for a, b in zip(one.trace, other.trace, strict=True)
        )
        and one.cost.denoiser_evaluations == other.cost.denoiser_evaluations
    )


def _in_child(work: Callable[[], Any]) -> int:
    """Do it in a forked process, silently; the signal that ended it, 0 if none did."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _killed(lab: _Lab, call: int) -> bool:
    """SIGKILL while the reward looks at a transition, counted from 1."""
    reward = _Reward(at=call, happens=lambda _: os.kill(os.getpid(), signal.SIGKILL))
    return _in_child(lambda: lab.draw(reward)) == -signal.SIGKILL and lab.file.is_file()


def _killed_while_writing(lab: _Lab) -> bool:
    """SIGKILL when a snapshot is written and hasn't got its name."""

    def work() -> None:
        with patch("os.replace", _third(os.replace, lambda: os.kill(os.getpid(), signal.SIGKILL))):
            lab.draw()

    return _in_child(work) == -signal.SIGKILL and bool(list(lab.folder.glob(".*.part")))


def _third(usual: Callable[..., Any], happens: Callable[[], Any]) -> Callable[..., Any]:
    """A function at whose third call something happens."""
    calls: list[None] = []

    def call(*args: Any) -> Any:
        calls.append(None)
        if len(calls) == 3:
            happens()
        return usual(*args)

    return call


def _fails(lab: _Lab, told: str, kind: type[BaseException], **reward: Any) -> bool:
    """Whether the third look of a reward ends the run with these words."""
    with _raising(kind, told) as seen:
        lab.draw(_Reward(at=3, **reward))
    return seen() and lab.file.is_file()


@contextmanager
def _raising(kind: type[BaseException], told: str) -> Iterator[Callable[[], bool]]:
    """Take in an error; yields whether it was raised and told so."""
    found: list[bool] = []
    try:
        yield lambda: bool(found and found[0])
    except kind as error:
        found.append(told in str(error))


def _throw(error: BaseException) -> Callable[[Any], Any]:
    def happens(_: Any) -> Any:
        raise error

    return happens


def _reward_raises(lab: _Lab) -> bool:
    return _fails(lab, "ZeroDivisionError", ValueError, happens=_throw(ZeroDivisionError()))


def _reward_is_nan(lab: _Lab) -> bool:
    return _fails(lab, "NaN", ValueError, happens=lambda values: values * float("nan"))


def _reward_has_another_shape(lab: _Lab) -> bool:
    return _fails(lab, "one number per sample", ValueError, happens=lambda v: v[:, None])


def _reward_hangs(lab: _Lab) -> bool:
    from fkdiff.terms import as_reward
    from fkdiff.terms.reward_time import within_seconds

    reward = _Reward(at=3, happens=lambda _: time.sleep(60))
    with _raising(ValueError, "took more than 2 s") as seen:
        lab.draw(within_seconds(as_reward(reward), 2.0))
    return seen() and lab.file.is_file()


def _interrupted(lab: _Lab) -> bool:
    return _fails(lab, "", KeyboardInterrupt, happens=_throw(KeyboardInterrupt()))


def _memory_short(lab: _Lab) -> bool:
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
    return found.settings["micro_batch"] == lab.particles // 2 and _same(half, found)


def _disk_full_at_a_snapshot(lab: _Lab) -> bool:
    def full() -> None:
        raise OSError(28, "No space left on device")

    with patch("os.fsync", _third(os.fsync, full)), _raising(OSError, "No space left") as seen:
        lab.draw()
    return seen() and [path.name for path in lab.folder.iterdir()] == [lab.file.name]


def _disk_full_at_the_report(lab: _Lab) -> bool:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    result = lab.draw()
    with patch("os.fsync", full), _raising(OSError, "No space left") as seen:
        result.save(lab.folder)
    return seen() and [path.name for path in lab.folder.rglob("*.*")] == [lab.file.name]


def _damaged(lab: _Lab) -> bool:
    """Half of a snapshot is refused; it is never taken for a whole one."""
    _interrupted(lab)
    data = lab.file.read_bytes()
    lab.file.write_bytes(data[: len(data) // 2])
    with _raising(ValueError, "is damaged") as seen:
        lab.draw()
    lab.file.write_bytes(data)
    return seen()


def _foreign(lab: _Lab) -> bool:
    """A snapshot of another seed is refused."""
    _interrupted(lab)
    lab.seed += 1
    with _raising(ValueError, "is of another run (seed") as seen:
        lab.draw()
    lab.seed -= 1
    return seen()


_FAULTS: dict[str, Callable[[_Lab], bool]] = {
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
