"""One run of the bundled model, done over and over: killed, failed under, and compared."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "Brightness",
    "Lab",
    "at_third",
    "in_child",
    "kept",
    "lab_of",
    "raising",
    "same",
    "throwing",
]


@dataclass
class Brightness:
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
class Lab:
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
            Tilt(Brightness() if reward is None else reward),
            particles=self.particles,
            resample=Resample(ess=1.0, window=(0, 1)),
            select="all",
            seed=self.seed,
            keep=self.folder if keep else None,
            **more,
        )
        call = {"prompt": "a cat on a blue background", "num_inference_steps": self.steps}
        return steered(**call).steering


def lab_of(seed: int, particles: int, steps: int) -> Lab:
    """The lab of the bundled model, which has made its run once, unharmed."""
    from diffusers import DiffusionPipeline

    from fkdiff import zoo

    pipe: Any = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
    pipe.set_progress_bar_config(disable=True)
    lab = Lab(pipe, particles, steps, seed)
    lab.whole = lab.draw(keep=False)
    return lab


def kept(lab: Lab, fault: Callable[[], bool]) -> bool:
    """Whether a fault shows as it should, and the run then ends as the whole one did."""
    with tempfile.TemporaryDirectory() as folder:
        lab.folder = Path(folder)
        shown = fault()
        return shown and same(lab.whole, lab.draw())


def same(one: Any, other: Any) -> bool:
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


def in_child(work: Callable[[], Any]) -> int:
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


@contextmanager
def raising(kind: type[BaseException], told: str) -> Iterator[Callable[[], bool]]:
    """Take in an error; yields whether it was raised and told so."""
    found: list[bool] = []
    try:
        yield lambda: bool(found and found[0])
    except kind as error:
        found.append(told in str(error))


def at_third(usual: Callable[..., Any], happens: Callable[[], Any]) -> Callable[..., Any]:
    """A function at whose third call something happens."""
    calls: list[None] = []

    def call(*args: Any) -> Any:
        calls.append(None)
        if len(calls) == 3:
            happens()
        return usual(*args)

    return call


def throwing(error: BaseException) -> Callable[[Any], Any]:
    """What happens at a reward's call: an error."""

    def happens(_: Any) -> Any:
        raise error

    return happens
