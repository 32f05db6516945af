"""A `fkdiff sequence generate --masked` run, from its checked request to its files."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fkdiff.commands.design_files import check_numbers, check_out, write_designs
from fkdiff.commands.model_loading import class_in
from fkdiff.commands.stops import Stop, refused

if TYPE_CHECKING:
    from fkdiff.result import Result
    from fkdiff.sequences.designs import Designs

__all__ = ["ANTIBODY", "MaskedRequest", "run"]

ANTIBODY = "antiberty"


@dataclass(frozen=True)
class MaskedRequest:
    """The options of `fkdiff sequence generate --masked`."""

    model: str
    prompt: str
    reward: str | None
    scale: float
    length: int | None
    n: int
    particles: int
    steps: int
    draws: int
    temperature: float
    order: str
    remask: float
    compare: bool
    seed: int
    out: Path


@dataclass(frozen=True)
class _Job:
    request: MaskedRequest
    pipe: Any
    reward: Any


def run(asked: MaskedRequest) -> None:
    """Draw and write.

    Raises:
        Stop: If it is refused (nothing is written) or interrupted.
    """
    from fkdiff.terms.trial import TrialError

    job = _prepared(asked)
    try:
        result = _drawn(job, asked.particles if job.reward is not None else 1, "texts")
        plain = None
        if asked.compare and job.reward is not None:
            plain = _drawn(job, 1, "plain, to compare")
    except KeyboardInterrupt:
        raise Stop("interrupted; nothing had been written yet", code=130) from None
    except TrialError as error:
        raise refused(f"--reward: {error}") from None
    _write(job, result, plain)


def _prepared(asked: MaskedRequest) -> _Job:
    """Load model and reward; refuse what they can't do."""
    check_numbers(asked, finite=("scale",))
    check_out(asked.out)
    reward = _reward(asked.reward)
    pipe = _pipeline(asked.model)
    try:
        pipe.vocabulary.template([asked.prompt], asked.length)
        pipe.denoiser(asked.temperature)
        from fkdiff.processes import MaskedPath

        order: Any = asked.order
        MaskedPath(asked.steps, mask=pipe.vocabulary.mask, order=order, remask=asked.remask)
    except ValueError as error:
        raise refused(error) from None
    if asked.temperature == 0 and reward is not None and asked.particles > 1:
        raise refused("--temperature must be positive with a reward: copies would stay identical")
    return _Job(asked, pipe, reward)


def _reward(text: str | None) -> Any:
    from fkdiff.terms.reward import RewardError, available, load_reward
    from fkdiff.terms.reward_formulas import read_formula

    if text is None:
        return None
    try:
        reward = read_formula(text, [entry.name for entry in available()], load_reward)
        reward.prepare()
    except RewardError as error:
        raise refused(f"--reward: {error}") from None
    if reward.inputs not in ("text", "tokens"):
        raise refused(f"--reward {reward.name} reads {reward.inputs}, not texts")
    return reward


def _pipeline(model: str) -> Any:
    from transformers.utils import logging

    from fkdiff.tokens.antibody import antibody_pipeline
    from fkdiff.tokens.pipeline import MaskedDiffusionPipeline

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if os.path.isfile(Path(model) / "model_index.json"):
        class_in(Path(model))
    try:
        if model == ANTIBODY:
            return antibody_pipeline()
        if os.path.isfile(Path(model) / "model_index.json"):
            pipe = MaskedDiffusionPipeline.from_pretrained(model)
            pipe.model.eval()
            return pipe
        return MaskedDiffusionPipeline.from_masked_lm(model)
    except Exception as error:  # what a folder of any origin holds fails in any way
        told = " ".join(str(error).split())[:300]
        raise refused(
            f"--model {model} can't be loaded as a masked language model: {told}"
        ) from None


def _drawn(job: _Job, particles: int, name: str) -> "Result":
    import torch

    from fkdiff.terms.fk_steering import Tilt

    asked, reward = job.request, job.reward
    terms = []
    if reward is not None and particles > 1:
        terms.append(Tilt(reward, asked.scale, draws=asked.draws))
    job.pipe.set_progress_bar_config(desc=name)
    return job.pipe(
        asked.n,
        asked.length,
        asked.prompt or None,
        num_inference_steps=asked.steps,
        temperature=asked.temperature,
        order=asked.order,
        remask=asked.remask,
        generator=torch.Generator().manual_seed(asked.seed),
        terms=terms,
        particles=particles,
        select="sample",
    ).steering


def _texts(job: _Job, result: "Result") -> list[str]:
    import torch

    chosen = zip(result.latents, result.selected[:, 0].tolist(), strict=True)
    return job.pipe.vocabulary.texts(torch.stack([cloud[slot] for cloud, slot in chosen]))


def _designs(job: _Job, result: "Result") -> "Designs":
    import torch

    from fkdiff.sequences.designs import Designs
    from fkdiff.terms.reward import evaluate

    texts = _texts(job, result)
    values: dict[str, list[float]] = {}
    if job.reward is not None:
        chosen = zip(result.latents, result.selected[:, 0].tolist(), strict=True)
        tokens = torch.stack([cloud[slot] for cloud, slot in chosen])
        read = texts if job.reward.inputs == "text" else tokens
        prompts = [job.request.prompt] * len(texts)
        values["reward"] = evaluate(job.reward, read, {"prompts": prompts}).tolist()
    return Designs(texts, values)


def _write(job: _Job, result: "Result", plain: "Result | None") -> None:
    sets = {"designs": _designs(job, result)}
    if plain is not None:
        sets["plain"] = _designs(job, plain)
    designs = sets["designs"]
    lines = "".join(" ".join(text.split()) + "\n" for text in designs.sequences)
    text = designs.fasta() if job.pipe.vocabulary.letters else lines
    told = [*designs.sequences[:4], f"target: {result.target}"]
    write_designs(job.request, result, sets, text, {}, told)
