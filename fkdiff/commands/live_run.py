"""A run in a thread of its own, followed transition by transition: what `fkdiff app` shows."""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fkdiff.commands.drawing import Loaded, load, save_run
from fkdiff.commands.request import Request, checked
from fkdiff.commands.reward_code import check_code, fingerprints, is_file_place
from fkdiff.commands.stops import refused

if TYPE_CHECKING:
    from PIL.Image import Image

    from fkdiff.result import Result, Trace
    from fkdiff.terms.step import Step

__all__ = ["Finished", "Glimpse", "Studio"]


@dataclass(frozen=True)
class Glimpse:
    """A run after a transition.

    Arguments:
        done: Transitions done.
        total: Transitions of the run.
        pictures: Estimates of the first prompt's particles, None where nothing shows them.
        ess: Effective sample size after each transition so far.
        resampled: Transitions, from 1, at which particles moved.
        particles: K.
        rewards: Estimates of the reward by particle, none where it wasn't looked at.
    """

    done: int
    total: int
    pictures: "tuple[Image, ...] | None"
    ess: tuple[float, ...]
    resampled: tuple[int, ...]
    particles: int
    rewards: tuple[float, ...]


@dataclass(frozen=True)
class Finished:
    """A run that is over, with the report in its folder."""

    result: "Result"
    page: Path


@dataclass
class _Watcher:
    """Makes glimpses of transitions, in the run's thread."""

    out: "queue.SimpleQueue[Any]"
    small: Any
    left: threading.Event = field(default_factory=threading.Event)
    ess: list[float] = field(default_factory=list)
    resampled: list[int] = field(default_factory=list)

    def __call__(self, step: "Step", trace: "Trace") -> None:
        from fkdiff.report.pictures import to_image
        from fkdiff.taps.previews import preview

        if self.left.is_set():
            raise KeyboardInterrupt  # nobody looks any more: what was made is kept
        self.ess.append(float(trace.ess[0]))
        if bool(trace.resampled[0]):
            self.resampled.append(step.index + 1)
        pixels = preview(step, self.small)
        pictures = None if pixels is None else tuple(map(to_image, pixels[: step.particles]))
        rewards = next(iter(trace.rewards.values()))[0].tolist() if trace.rewards else ()
        self.out.put(
            Glimpse(
                done=step.index + 1,
                total=step.total,
                pictures=pictures,
                ess=tuple(self.ess),
                resampled=tuple(self.resampled),
                particles=step.particles,
                rewards=tuple(rewards),
            )
        )


class Studio:
    """Keeps the last model loaded, with its rewards and its small decoder.

    Arguments:
        code: Rewards of the user's own code; no other code is run.

    Raises:
        RewardError: If one of them can't be read.
    """

    def __init__(self, code: Sequence[str] = ()) -> None:
        self._model: str | None = None
        self._loaded: Loaded | None = None
        self._small: Any = None
        self._files = {k: v for text in code for k, v in fingerprints(text).items()}

    def prepare(self, request: Request) -> Request:
        """Check a request and load what it needs; gives it with the model's defaults.

        Raises:
            Stop: If it can't be met.
        """
        request = checked(request)
        before = self._loaded if request.model == self._model else None
        if request.reward != "none" and self._edited(request.reward or "") and before is not None:
            before = replace(before, rewards={})
        self._loaded, self._model = None, None  # memory for one model, not for two
        self._loaded, self._model = load(request, before), request.model
        if before is None:
            self._small = _small_decoder(self._loaded.pipe)
        return request

    def _edited(self, reward: str) -> bool:
        """Whether a file of the reward's code was edited, so that it must be loaded again."""
        check_code(reward, self._files)
        now = fingerprints(reward)
        edited = [place for place, mark in now.items() if mark != self._files[place]]
        for place in edited:
            if not is_file_place(place):  # Python imports a module once
                raise refused(
                    f"Reward {place!r} must not change while the page is served, but its file "
                    "was edited; start fkdiff app again"
                )
        self._files |= now
        return bool(edited)

    def run(self, request: Request) -> Iterator[Glimpse | Finished]:
        """Glimpses of a prepared request's run, then its end; a left iterator ends the run.

        Raises:
            Stop: If it is refused or fails; what was made is kept.
        """
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        watcher, loaded = _Watcher(told, self._small), self._loaded
        assert loaded is not None

        def work() -> None:
            try:
                told.put(Finished(*save_run(request, loaded, watcher)))
            except BaseException as error:  # handed over: the asking thread raises it
                told.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while not isinstance(event := told.get(), BaseException):
                yield event
                if isinstance(event, Finished):
                    return
            raise event
        finally:
            watcher.left.set()
            thread.join()


def _small_decoder(pipe: Any) -> Any:
    """The family's small decoder; without network the run is shown without it."""
    from fkdiff.taps.previews import small_decoder

    try:
        return small_decoder(pipe)
    except (OSError, ValueError):
        return None
