"""A `fkdiff generate` run, from its checked request to its report."""

import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fkdiff.commands.calls import call_arguments, free_folder
from fkdiff.commands.launched import joined, of_first, speaks
from fkdiff.commands.model_loading import load_pipeline
from fkdiff.commands.places import held, steady
from fkdiff.commands.pool_options import pool_of, sources_of
from fkdiff.commands.request import Request, checked, command_of, parse_window
from fkdiff.commands.resuming import places
from fkdiff.commands.stops import Stop, disk_full, failed, refused
from fkdiff.commands.telling import tell
from fkdiff.files import clear_parts

if TYPE_CHECKING:
    from fkdiff.result import Result
    from fkdiff.run import Watch
    from fkdiff.steering import Steered
    from fkdiff.taps.snapshots import Snapshots

__all__ = [
    "Loaded",
    "draw",
    "load",
    "load_pipeline",
    "load_reward_of",
    "save_apart",
    "save_run",
]


@dataclass(frozen=True)
class Loaded:
    """A pipeline, and rewards by their words: what runs of one model share."""

    pipe: Any
    pool: tuple[Any, ...]
    rewards: dict[str, Any]


@dataclass(frozen=True)
class _Job:
    """Everything a run needs, loaded and checked.

    Arguments:
        apart: The requests of prompts that are drawn at once and saved each into its own folder;
            none for a run that is saved as one.
    """

    request: Request
    pipe: Any
    steered: "Steered"
    rewards: tuple[Any, ...]
    call: dict[str, Any]
    folder: Path
    places: "dict[str, Snapshots]"
    apart: tuple[Request, ...] = ()

    @property
    def seed(self) -> int | list[int]:
        """Seed of the run, or of each of its prompts."""
        return [each.seed for each in self.apart] or self.request.seed


def draw(request: Request, go_on: bool = False) -> None:
    """Run a request and print where its report is.

    Arguments:
        request: The request.
        go_on: Whether to go on with the unfinished run of its folder.

    Raises:
        Stop: If it is refused (nothing is written), fails or is interrupted (what was made is
            kept).
    """
    request = checked(request)
    with joined(request.device, request.group_timeout) as group, held(request.out):
        result, page = save_run(request, load(request), go_on=go_on, group=group)
    if speaks():
        tell(result, page)


def load(request: Request, before: Loaded | None = None) -> Loaded:
    """The request's pipeline and rewards; those that were loaded before are taken up.

    Raises:
        Stop: With code 2, if one can't be had.
    """
    known = {} if before is None else before.rewards
    wanted = [request.reward or "", *request.monitor]
    limit = request.reward_timeout
    rewards = {s: known.get(s) or load_reward_of(s, limit) for s in wanted if s != "none"}
    if before is not None:
        return replace(before, rewards=known | rewards)
    pipe = load_pipeline(request)
    pool = pool_of(request, pipe, lambda name: load_pipeline(replace(request, model=name)))
    return Loaded(pipe, tuple(pool), rewards)


def save_run(
    request: Request,
    loaded: Loaded,
    watch: "Watch | None" = None,
    go_on: bool = False,
    group: Any = None,
) -> "tuple[Result, Path]":
    """Run a checked request and save it; gives the path of its report.

    Its states are deleted once the report is whole.

    Arguments:
        request: Checked.
        loaded: Its pipeline and rewards.
        watch: Called after each transition of the steered run.
        go_on: Whether the folder holds states to go on from.
        group: Processes that share the particles, of which the first saves; None for this one.

    Raises:
        Stop: As `draw` does.
    """
    job = _prepared(request, loaded, watch, go_on, group)
    if group is not None and not speaks():
        job.pipe.set_progress_bar_config(disable=True)
    return _run(job)


def save_apart(
    requests: Sequence[Request], loaded: Loaded, states: Path, go_on: bool = False
) -> "Result":
    """Run requests at once that differ in their prompts, seeds and folders alone.

    Each is saved into its own folder, as if it had been drawn alone; what all of them gave comes
    back. Their states are kept together, and deleted once all are saved.

    Arguments:
        requests: Checked, each with one prompt and its `out`.
        loaded: Their pipeline and rewards.
        states: Folder of the states.
        go_on: Whether it holds states to go on from.

    Raises:
        Stop: As `draw` does.
    """
    prompts = tuple(prompt for request in requests for prompt in request.prompts)
    joint = replace(requests[0], prompts=prompts, out=states)
    return _run(_prepared(joint, loaded, None, go_on, None, requests))[0]


def _run(job: _Job) -> "tuple[Result, Path]":
    with held(job.folder):
        return _held_run(job)


def _held_run(job: _Job) -> "tuple[Result, Path]":
    result = _steered(job)
    plain = _plain(job, result)
    try:
        page = _saved(job, result, plain)
    except OSError as error:
        told = f"{disk_full(error) or error}{_going_on(job)}"
        raise failed(told, lacks="disk") from None
    group = job.steered.group
    if group is None or speaks():
        for place in job.places.values():
            place.forget(1 if group is None else group.size())
        for folder in (job.folder, *(each.out for each in job.apart)):
            clear_parts(folder or job.folder)
    return result, page


def _saved(job: _Job, result: "Result", plain: "Result | None" = None) -> Path:
    """Write a result, once for all processes that share it; gives the path of its report."""
    if job.steered.group is not None and not speaks():
        return job.folder
    if not job.apart:
        return result.save(job.folder, plain=plain, command=_command(job))
    others = plain.split() if plain else [None] * len(job.apart)
    for request, own, other in zip(job.apart, result.split(), others, strict=True):
        assert request.out is not None
        own.save(request.out, plain=other, command=command_of(request))
    return job.folder.parent


def _prepared(
    request: Request,
    loaded: Loaded,
    watch: "Watch | None",
    go_on: bool,
    group: Any,
    apart: Sequence[Request] = (),
) -> _Job:
    """Refuse what the pipeline can't do."""
    from fkdiff import Resample, Tilt, steer
    from fkdiff.taps.token_families import draws_tokens

    try:
        resample = Resample(
            request.resample, request.ess, parse_window(request.window), request.every
        )
    except ValueError as error:
        raise refused(f"--resample: {error}") from None
    steering = [] if request.reward == "none" else [loaded.rewards[request.reward or ""]]
    monitors = [loaded.rewards[spec] for spec in request.monitor]
    folder = request.out or free_folder(request.prompts[0])
    folder = Path(of_first(group, str(folder)))  # which is free may differ once one has begun
    kept = {} if draws_tokens(loaded.pipe) else places(request, folder, go_on, apart)
    try:
        steered = steer(
            loaded.pipe,
            *loaded.pool,
            *(Tilt(r, request.scale, request.potential) for r in steering),  # pyright: ignore
            particles=request.particles,
            resample=resample if steering or request.correct else None,
            micro_batch=request.micro_batch,
            monitor=monitors,
            select=request.select if steering else "all",  # nothing ranks them: every picture
            seed=[each.seed for each in apart] or request.seed,
            watch=watch,
            keep=kept.get("steered"),
            group=group,
        )
    except (ValueError, TypeError) as error:
        raise refused(error) from None
    call = call_arguments(request, loaded.pipe)
    rewards = (*steering, *monitors)
    return _Job(request, loaded.pipe, steered, rewards, call, folder, kept, tuple(apart))


def load_reward_of(spec: str, seconds: float | None = None) -> Any:
    """A reward by its words, ready to score in so many seconds; refused if it can't be had."""
    from fkdiff.terms.reward import RewardError, load_reward
    from fkdiff.terms.reward_time import within_seconds

    try:
        with steady():
            reward = load_reward(spec)
            if hasattr(reward, "prepare"):
                reward.prepare()  # a missing download is told now, not after the first steps
    except (ValueError, TypeError, OSError) as error:  # a RewardError is a ValueError
        raise refused(
            f"reward {spec!r}: {error}" if not isinstance(error, RewardError) else error
        ) from None
    return reward if seconds is None else within_seconds(reward, seconds)


def _command(job: _Job) -> str:
    return command_of(replace(job.request, out=job.folder))


def _steered(job: _Job) -> "Result":
    """The run itself; whatever ends it early, what was made is kept."""
    from fkdiff.processes.peers import PeerError
    from fkdiff.smc import WeightsError
    from fkdiff.terms.memory import ran_out
    from fkdiff.terms.reward import RewardError
    from fkdiff.terms.trial import TrialError

    job.steered.sources.update(sources_of(job.request))
    try:
        with steady():
            return job.steered(**job.call).steering
    except (PeerError, WeightsError) as error:
        raise failed(f"{error}{_kept(job)}") from None
    except TrialError as error:
        raise refused(error) from None
    except RewardError as error:
        if error.__cause__ is not None:  # the reward's own code failed: show its author where
            traceback.print_exception(error.__cause__, file=sys.stderr)
        raise failed(f"{error}{_kept(job)}") from None
    except KeyboardInterrupt:
        raise Stop(f"interrupted{_kept(job)}", code=130) from None
    except Exception as error:
        if ran_out(error):
            told = "out of memory; try fewer --particles, or a smaller --height and --width"
            raise failed(f"{told}{_kept(job)}", lacks="memory") from None
        if disk_full(error):
            raise failed(f"{disk_full(error)}{_kept(job)}", lacks="disk") from None
        if job.steered.partial is None and isinstance(error, ValueError | OSError):
            raise refused(error) from None
        _kept(job)
        raise


def _kept(job: _Job) -> str:
    """Save what there is of a run that was cut short; says where."""
    partial = job.steered.partial
    if partial is None:
        return _going_on(job) or "; nothing had been made yet"
    try:
        page = _saved(job, partial)
    except OSError as error:
        return f"; what was made can't be saved: {error.strerror or error}{_going_on(job)}"
    return f"; what was made is in {page}{_going_on(job)}"


def _going_on(job: _Job) -> str:
    """How to go on with the run, where its state is kept."""
    place = job.places.get("steered")
    if place is None or not place.file.is_file():
        return ""
    if job.apart:
        return "; the same command goes on with it"
    named = command_of(Request((), reward=job.request.reward, monitor=job.request.monitor))
    words = shlex.split(named)[2:]
    again = shlex.join(["fkdiff", "generate", "--resume", str(job.folder), *words])
    return f"; go on with: {again}"


def _plain(job: _Job, result: "Result") -> "Result | None":
    """The same call unsteered, scored by the same rewards."""
    from fkdiff import steer

    if not (job.request.plain and job.steered.terms):
        return None
    plain = steer(
        job.pipe,
        particles=job.request.particles,
        resample=None,
        micro_batch=job.request.micro_batch,
        monitor=job.rewards,
        select="all",
        seed=job.seed,
        keep=job.places.get("plain"),
        group=job.steered.group,
    )
    call = {k: v for k, v in job.call.items() if k != "num_images_per_prompt"}
    job.pipe.set_progress_bar_config(desc="plain, to compare")
    try:
        with steady():
            return plain(**call).steering
    except KeyboardInterrupt:
        page = _saved(job, result)
        told = f"interrupted; the steered pictures are in {page}{_going_on(job)}"
        raise Stop(told, code=130) from None
