"""`fkdiff generate`: its options, and what they are when left out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fkdiff.commands.places import path
from fkdiff.commands.request import Request
from fkdiff.commands.stops import refused

__all__ = ["EXAMPLE", "generate"]

EXAMPLE = (
    'Example: fkdiff generate "a cat and a pizza on a blue background" --particles 8 '
    "--reward emoji-clip --out runs/demo"
)


def _option(panel: str, words: str, *names: str) -> Any:
    return typer.Option(*names, help=words, rich_help_panel=panel)


_MODEL, _STEERING, _RESAMPLING, _OUTPUT = "The model", "Steering", "Resampling", "Output"
_POOL = "The pool of experts"
_REWARD = (
    "A name of `fkdiff rewards`, module:attr, file.py:function, or a formula such as "
    '"emoji-clip - 0.5 * brightness"; "none" to draw without. Default with a bundled model: '
    "emoji-clip."
)
_POTENTIAL = (
    "How rewards are used on the way: difference, max, sum, current, none ('none' with "
    "--select best: best of N)."
)
_PLAIN = "Run the plain pipeline too, to compare; by default with bundled models."
_SELECT = "What is returned: the best, a weighted sample, or all. Every picture is saved."
_CORRECT = (
    "Make guidance and the other experts sample the law that they state: weights by the "
    "Feynman-Kac corrector."
)
_ANNEAL = "Raise the whole law to this power; above 1 sharper."
_EXPERT = (
    "Lean on an RL-tuned LoRA by weight W: emoji-rl, a folder or a Hub id; 1 is the tuned model. "
    "May be repeated."
)
_PRODUCT = (
    "Multiply by another expert to the power B: the folder or Hub id of a pipeline, or a prompt. "
    "May be repeated."
)
_RESUME = (
    "Go on with the unfinished run of a folder at its last finished step; it ends bit for bit as "
    "if nothing had happened. Rewards of your own code are named again."
)
_TIMEOUT = "Seconds that one call of a reward may take; the run can go on once it is mended."
_GROUP_TIMEOUT = (
    "Under torchrun or accelerate: seconds that a process waits for the others before it gives up "
    "and says which of them is missing."
)
_SAVE_EVERY = "Steps between two states on disk for --resume; 0 keeps none."
_BATCH = (
    "Prompts of --prompts with equal settings to draw at once; by default more and more, as long "
    "as memory lasts. Where it runs out, half as many."
)
_MEMORY = "GB that --prompts may take without --batch; by default what is free."
_OUT = "Folder of the run, replacing an earlier one; by default runs/ and the prompt's words."


def generate(
    context: typer.Context,
    prompt: Annotated[
        list[str] | None,
        typer.Argument(
            help="What to draw; several are drawn at once. torchrun and accelerate launch share "
            "the particles out over processes."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="File of prompts (.txt, .csv or .jsonl, a line each, with settings of its own): "
            "a run for each line, below --out, several at once. The same command goes on where it "
            "stopped; torchrun shares the lines out.",
        ),
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help=_RESUME, parser=path)] = None,
    model: Annotated[
        str, _option(_MODEL, "A bundled model, a folder or a Hub id.")
    ] = Request.model,
    steps: Annotated[
        int | None, _option(_MODEL, "Denoising steps; by default what suits the model.")
    ] = None,
    guidance: Annotated[
        float | None, _option(_MODEL, "Guidance scale; by default what suits the model.")
    ] = None,
    negative_prompt: Annotated[str | None, _option(_MODEL, "What not to draw.")] = None,
    height: Annotated[int | None, _option(_MODEL, "Height in pixels.")] = None,
    width: Annotated[int | None, _option(_MODEL, "Width in pixels.")] = None,
    device: Annotated[
        str | None, _option(_MODEL, "cpu, cuda, mps; by default a GPU if there is one.")
    ] = None,
    correct: Annotated[bool, _option(_POOL, _CORRECT, "--correct")] = Request.correct,
    anneal: Annotated[float | None, _option(_POOL, _ANNEAL)] = None,
    expert: Annotated[
        list[str] | None, typer.Option(help=_EXPERT, metavar="NAME=W", rich_help_panel=_POOL)
    ] = None,
    product: Annotated[
        list[str] | None, typer.Option(help=_PRODUCT, metavar="PATH=B", rich_help_panel=_POOL)
    ] = None,
    particles: Annotated[
        int, _option(_STEERING, "Pictures in the cloud, per prompt.", "--particles", "-k")
    ] = Request.particles,
    reward: Annotated[str | None, _option(_STEERING, _REWARD)] = None,
    scale: Annotated[
        float, _option(_STEERING, "Strength, per standard deviation of the reward.")
    ] = Request.scale,
    potential: Annotated[str, _option(_STEERING, _POTENTIAL)] = Request.potential,
    monitor: Annotated[
        list[str] | None,
        _option(_STEERING, "A reward to report and not to steer on; may be repeated."),
    ] = None,
    seed: Annotated[
        int, _option(_STEERING, "The same seed gives the same pictures.")
    ] = Request.seed,
    micro_batch: Annotated[
        int | None, _option(_STEERING, "Particles per network call, where memory is short.")
    ] = None,
    resample: Annotated[
        str, _option(_RESAMPLING, "Scheme: systematic, stratified, multinomial, residual, ssp...")
    ] = Request.resample,
    ess: Annotated[
        float, _option(_RESAMPLING, "Resample below this share of the effective sample size.")
    ] = Request.ess,
    window: Annotated[
        str, _option(_RESAMPLING, "Resample between these fractions of the run.")
    ] = Request.window,
    every: Annotated[int | None, _option(_RESAMPLING, "At every n-th step only.")] = None,
    out: Annotated[
        Path | None, typer.Option(help=_OUT, rich_help_panel=_OUTPUT, parser=path)
    ] = None,
    select: Annotated[str, _option(_OUTPUT, _SELECT)] = Request.select,
    images: Annotated[
        int, _option(_OUTPUT, "Pictures returned for each prompt.")
    ] = Request.images,
    plain: Annotated[bool | None, _option(_OUTPUT, _PLAIN, "--plain/--no-plain")] = None,
    reward_timeout: Annotated[float | None, _option(_OUTPUT, _TIMEOUT)] = None,
    group_timeout: Annotated[float, _option(_OUTPUT, _GROUP_TIMEOUT)] = Request.group_timeout,
    save_every: Annotated[int, _option(_OUTPUT, _SAVE_EVERY)] = Request.save_every,
    batch: Annotated[int | None, _option(_OUTPUT, _BATCH)] = None,
    memory: Annotated[float | None, _option(_OUTPUT, _MEMORY, "--memory")] = None,
) -> None:
    """Draw pictures that a reward prefers, and leave a report of how."""
    given = dict(locals())
    del given["context"], given["resume"]
    if resume is not None:
        go_on(resume, {k: v for k, v in given.items() if _named(context, k)})
        return
    if bool(prompt) == (prompts is not None):
        raise refused("PROMPT must be given, or a file of them: --prompts FILE, and not both")
    from fkdiff.commands.drawing import draw
    from fkdiff.commands.many import draw_many

    given["prompts"] = tuple(given.pop("prompt") or ())
    for name in ("monitor", "expert", "product"):
        given[name] = tuple(given[name] or ())
    request = Request(**given)
    if prompts is None:
        for name in ("batch", "memory"):
            if given[name] is not None:
                raise refused(f"--{name} goes with a file of prompts, --prompts FILE")
        draw(request)
    else:
        draw_many(request, prompts)


def _named(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    source: Any = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def go_on(folder: Path, given: dict[str, Any]) -> None:
    """Finish the run of a folder; one that is finished is only told."""
    from fkdiff.commands.drawing import draw
    from fkdiff.commands.launched import speaks
    from fkdiff.commands.resuming import finished, resumed

    page = finished(folder)
    if page is None:
        draw(resumed(folder, given), go_on=True)
    elif speaks():
        print(f"Finished already. Report: {page}")
