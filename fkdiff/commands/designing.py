"""A `fkdiff sequence generate` run, from its checked request to its files."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fkdiff.commands.design_files import check_numbers, check_out, write_designs
from fkdiff.commands.model_loading import class_in
from fkdiff.commands.stops import Stop, refused
from fkdiff.files import home_path

if TYPE_CHECKING:
    from fkdiff.result import Result
    from fkdiff.sequences.designs import Designs

__all__ = ["Request", "run"]


@dataclass(frozen=True)
class Request:
    """The options of `fkdiff sequence generate`."""

    model: str
    guide: str | None
    guidance: float
    reward: str | None
    scale: float
    length: int | None
    n: int
    particles: int
    steps: int
    draws: int
    class_label: str | None
    reweight: bool
    jaspar: Path | None
    compare: bool
    seed: int
    out: Path


@dataclass(frozen=True)
class _Job:
    """Everything a run needs, loaded and checked."""

    request: Request
    pipe: Any
    rewards: dict[str, Any]
    guide: Any
    reward: Any
    lengths: list[int]
    known: list[str]


def run(asked: Request) -> None:
    """Design and write.

    Raises:
        Stop: If it is refused (nothing is written) or interrupted.
    """
    from fkdiff.terms.trial import TrialError

    job = _prepared(asked)
    try:
        result = _drawn(job, _terms(job), asked.particles, "designs")
        compared = _compared(job, result) if asked.compare else {}
    except KeyboardInterrupt:
        raise Stop("interrupted; nothing had been written yet", code=130) from None
    except TrialError as error:
        raise refused(f"--reward: {error}") from None
    _write(job, result, compared)


def _prepared(asked: Request) -> _Job:
    """Load model, guides and rewards; refuse what they can't do."""
    check_numbers(asked, finite=("guidance", "scale"))
    check_out(asked.out)
    folder = _folder(asked.model)
    pipe = _pipeline(folder)
    rewards = _rewards(asked, folder)
    known = _known(folder, pipe)
    lengths = _lengths(asked, pipe, known)
    try:
        pipe.denoiser.class_numbers([asked.class_label])
    except ValueError as error:
        raise refused(f"--class: {error}") from None
    guide = _formula(asked.guide, rewards, "--guide")
    reward = _formula(asked.reward, rewards, "--reward")
    _check(pipe, guide, reward)
    return _Job(asked, pipe, rewards, guide, reward, lengths, known)


def _folder(model: str) -> Path:
    import difflib

    from fkdiff import zoo

    there = [name for name in zoo.MODELS if (zoo.path(name) / "card.json").is_file()]
    flows = [name for name in there if zoo.card(name)["kind"] == "sequence flow"]
    if model in flows:
        return zoo.path(model)
    folder = home_path(model)
    if not os.path.isfile(folder / "model_index.json"):
        near = difflib.get_close_matches(model, flows, n=1)
        hint = f"did you mean {near[0]}?" if near else "`fkdiff sequence train` makes one"
        raise refused(f"--model {model} is no bundled flow and no folder of one; {hint}")
    return folder


def _pipeline(folder: Path) -> Any:
    import torch
    from diffusers.utils import logging

    from fkdiff.sequences.pipeline import GumbelFlowPipeline

    found = class_in(folder)
    if found != GumbelFlowPipeline.__name__:
        raise refused(f"--model {folder} is a {found}, not a GumbelFlowPipeline")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        pipe: Any = GumbelFlowPipeline.from_pretrained(folder, dtype=torch.float32)
    except Exception as error:  # what a folder of any origin holds fails in any way
        told = " ".join(str(error).split())[:300]
        raise refused(f"--model {folder} can't be loaded: {told}") from None
    pipe.denoiser.eval()
    return pipe


def _rewards(asked: Request, folder: Path) -> dict[str, Any]:
    """Guides of the model and motifs of the user's file, by name."""
    from fkdiff.sequences.guides import load_guides
    from fkdiff.sequences.motifs import read_jaspar

    rewards: dict[str, Any] = load_guides(folder)
    if asked.jaspar is not None:
        try:
            rewards |= {motif.name: motif for motif in read_jaspar(asked.jaspar)}
        except (OSError, ValueError, UnicodeDecodeError) as error:
            raise refused(f"--jaspar: {error}") from None
    return rewards


def _formula(text: str | None, rewards: dict[str, Any], option: str) -> Any:
    """A reward from a formula over the model's guides, motifs and what `fkdiff rewards` finds."""
    from fkdiff.terms.reward import RewardError, available, load_reward
    from fkdiff.terms.reward_formulas import read_formula

    if text is None:
        return None
    names = [*rewards, *(entry.name for entry in available())]
    try:
        return read_formula(text, names, lambda n: rewards[n] if n in rewards else load_reward(n))
    except RewardError as error:
        told = ", ".join(rewards) or "none"
        raise refused(f"{option}: {error}; guides of this model: {told}") from None


def _known(folder: Path, pipe: Any) -> list[str]:
    from fkdiff.sequences.fasta import read_fasta

    file = folder / "training.fasta"
    if not file.is_file():
        return []
    try:
        return [record.sequence for record in read_fasta(file, pipe.alphabet)]
    except (OSError, ValueError) as error:
        raise refused(f"--model {folder} has training sequences of no use: {error}") from None


def _lengths(asked: Request, pipe: Any, known: list[str]) -> list[int]:
    """The length asked for, or lengths of training sequences."""
    import torch

    if asked.length is None and known:
        generator = torch.Generator().manual_seed(asked.seed)
        chosen = torch.randint(len(known), (asked.n,), generator=generator)
        return [len(known[i]) for i in chosen.tolist()]
    try:
        return pipe.lengths(asked.length, asked.n)
    except ValueError as error:
        raise refused(f"--{error}") from None


def _check(pipe: Any, guide: Any, reward: Any) -> None:
    from fkdiff.sequences.guidance import StraightThrough
    from fkdiff.sequences.guides import check_alphabet

    try:
        for part in (guide, reward):
            if part is not None:
                check_alphabet(part, pipe.alphabet)
        if guide is not None:
            StraightThrough(guide)
    except ValueError as error:
        raise refused(error) from None
    if reward is not None and reward.inputs not in ("simplex", "tokens", "text"):
        raise refused(f"--reward {reward.name} reads {reward.inputs}, not sequences")


def _terms(job: _Job, reweight: bool | None = None) -> list[Any]:
    from fkdiff.sequences.guidance import StraightThrough
    from fkdiff.terms.fk_steering import Tilt

    asked, terms = job.request, []
    if job.guide is not None:
        carried = asked.reweight if reweight is None else reweight
        terms.append(
            StraightThrough(job.guide, asked.guidance, draws=asked.draws, reweight=carried)
        )
    if job.reward is not None:
        terms.append(Tilt(job.reward, asked.scale))
    return terms


def _drawn(job: _Job, terms: list[Any], particles: int, name: str) -> "Result":
    import torch

    asked = job.request
    job.pipe.set_progress_bar_config(desc=name)
    return job.pipe(
        asked.n,
        job.lengths,
        class_label=asked.class_label,
        num_inference_steps=asked.steps,
        generator=torch.Generator().manual_seed(asked.seed),
        terms=terms,
        particles=particles,
        select="sample",
    ).steering


def _compared(job: _Job, result: "Result") -> dict[str, Any]:
    """Plain designs, and how far guidance alone is from the stated law, in nats."""
    plain = _drawn(job, [], 1, "plain, to compare")
    told: dict[str, Any] = {"plain": _texts(job, plain)}
    if job.guide is None or not job.request.reweight:
        return told
    alone = _drawn(job, _terms(job, reweight=True), 1, "guided alone")
    told["guided alone"] = _texts(job, alone)
    told["nats from the target"] = float((result.log_z - alone.log_w[:, 0]).mean())
    told["nats of guidance"] = float((alone.log_twist[:, 0] - alone.log_w[:, 0]).mean())
    return told


def _texts(job: _Job, result: "Result") -> list[str]:
    from fkdiff.sequences.sampling import sequences_of

    chosen = zip(sequences_of(result, job.pipe.alphabet), result.selected.tolist(), strict=True)
    return [cloud[slots[0]] for cloud, slots in chosen]


def _designs(job: _Job, texts: list[str]) -> "Designs":
    from fkdiff.sequences.designs import Designs, judged

    rewards = {name: r for name, r in job.rewards.items() if _fits(job, r)}
    if job.reward is not None and job.reward.name not in rewards:
        rewards["reward"] = job.reward
    return Designs(texts, judged(rewards, texts, job.pipe.alphabet), job.known)


def _fits(job: _Job, reward: Any) -> bool:
    from fkdiff.sequences.guides import check_alphabet

    try:
        check_alphabet(reward, job.pipe.alphabet)
    except ValueError:
        return False
    return True


def _write(job: _Job, result: "Result", compared: dict[str, Any]) -> None:
    sets = {"designs": _designs(job, _texts(job, result))}
    for name in ("plain", "guided alone"):
        if name in compared:
            sets[name] = _designs(job, compared[name])
    about = {"nats": {k: v for k, v in compared.items() if k.startswith("nats")}}
    told = [f"target: {result.target}"]
    if "nats of guidance" in compared:
        told.append(_distance(compared))
    write_designs(job.request, result, sets, sets["designs"].fasta(), about, told)


def _distance(compared: dict[str, Any]) -> str:
    return (
        f"guidance alone: {compared['nats of guidance']:.1f} nats a path from the unguided law, "
        f"{compared['nats from the target']:.1f} from the target; the weights make it up as far "
        f"as the effective sample size allows"
    )
