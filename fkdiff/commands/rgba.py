"""`fkdiff rgba`: cut-outs from a prompt, its options."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fkdiff.commands.places import path

__all__ = ["EXAMPLE", "rgba"]

EXAMPLE = 'Example: fkdiff rgba "a guitar" --out guitar.png'


def _option(panel: str, words: str, *names: str) -> Any:
    return typer.Option(*names, help=words, rich_help_panel=panel)


_CUT, _MODEL, _STEERING, _OUTPUT = "The cut-out", "The model", "Steering", "Output"
_METHOD = (
    "How alpha is found: default (needs nothing else), grabcut, closed-form, knn, alfie (all in "
    "the extra `matting`), vitmatte or vitmatte:FOLDER."
)
_BOX = "Where the subject may be: LEFT,TOP,RIGHT,BOTTOM, shares of the picture."
_REWARD = (
    "Steer by a reward of cut-outs (uncropped, edge-sharpness, alpha-coverage, "
    '"over-backgrounds:emoji-clip") or of pictures, see `fkdiff rewards`.'
)


def rgba(
    prompt: Annotated[list[str], typer.Argument(help="The subject; several are drawn at once.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The PNG to write; more pictures are numbered. Default: prompt.png.",
            rich_help_panel=_OUTPUT,
            parser=path,
        ),
    ] = None,
    images: Annotated[int, _option(_OUTPUT, "Cut-outs of each prompt.")] = 1,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the report; by default runs/ and the prompt.",
            rich_help_panel=_OUTPUT,
            parser=path,
        ),
    ] = None,
    background: Annotated[
        str, _option(_CUT, "What is drawn around the subject: a plain colour that it lacks.")
    ] = "a white background",
    suffix: Annotated[
        bool | None,
        _option(
            _CUT,
            'Add "on BACKGROUND" to prompts; by default with bundled models.',
            "--suffix/--no-suffix",
        ),
    ] = None,
    box: Annotated[str, _option(_CUT, _BOX)] = "0.125,0.125,0.875,0.875",
    feather: Annotated[
        float, _option(_CUT, "Width over which the box fades, a share of the shorter side.")
    ] = 0.0,
    subject: Annotated[
        str | None, _option(_CUT, "Words of the prompt that name the subject.")
    ] = None,
    method: Annotated[str, _option(_CUT, _METHOD)] = "default",
    model: Annotated[str, _option(_MODEL, "A bundled model, a folder or a Hub id.")] = "emoji",
    steps: Annotated[
        int | None, _option(_MODEL, "Denoising steps; by default what suits the model.")
    ] = None,
    guidance: Annotated[
        float | None, _option(_MODEL, "Guidance scale; by default what suits the model.")
    ] = None,
    height: Annotated[int | None, _option(_MODEL, "Height in pixels.")] = None,
    width: Annotated[int | None, _option(_MODEL, "Width in pixels.")] = None,
    device: Annotated[
        str | None, _option(_MODEL, "cpu, cuda, mps; by default a GPU if there is one.")
    ] = None,
    reward: Annotated[str | None, _option(_STEERING, _REWARD)] = None,
    scale: Annotated[
        float, _option(_STEERING, "Strength, per standard deviation of the reward.")
    ] = 2.0,
    particles: Annotated[
        int | None,
        _option(_STEERING, "Pictures in the cloud, per prompt. Default: 4 with --reward."),
    ] = None,
    seed: Annotated[int, _option(_STEERING, "The same seed gives the same pictures.")] = 0,
    micro_batch: Annotated[
        int | None, _option(_STEERING, "Particles per network call, where memory is short.")
    ] = None,
) -> None:
    """Draw a subject whole on a transparent background, ready to be pasted."""
    given = dict(locals())
    from fkdiff.commands.cutting import Cut, cut

    given["prompts"] = tuple(given.pop("prompt"))
    cut(Cut(**given))
