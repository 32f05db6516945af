"""A `fkdiff rgba` run, from its options to its pictures and report."""

import os
import re
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fkdiff.commands.bounds import check_bounds
from fkdiff.commands.places import check_file, held, is_ours, steady
from fkdiff.commands.request import Request, checked
from fkdiff.commands.stops import Stop, failed, refused
from fkdiff.files import home_path

if TYPE_CHECKING:
    from fkdiff.result import Result

__all__ = ["Cut", "cut"]

_EXTRAS = {"grabcut": "cv2", "alfie": "cv2", "closed-form": "pymatting", "knn": "pymatting"}


@dataclass(frozen=True)
class Cut:
    """The options of `fkdiff rgba`, as they are named there."""

    prompts: tuple[str, ...]
    out: Path | None = None
    images: int = 1
    report: Path | None = None
    background: str = "a white background"
    suffix: bool | None = None
    box: str = "0.125,0.125,0.875,0.875"
    feather: float = 0.0
    subject: str | None = None
    method: str = "default"
    model: str = "emoji"
    steps: int | None = None
    guidance: float | None = None
    height: int | None = None
    width: int | None = None
    device: str | None = None
    reward: str | None = None
    scale: float = 2.0
    particles: int | None = None
    seed: int = 0
    micro_batch: int | None = None


def cut(options: Cut) -> None:
    """Run a request: writes PNGs with alpha and a report, and prints where they are.

    Raises:
        Stop: If it is refused (nothing is written) or fails.
    """
    from fkdiff import Tilt, steer
    from fkdiff.commands.calls import call_arguments, free_folder
    from fkdiff.commands.drawing import load_pipeline, load_reward_of
    from fkdiff.report import check_folder

    check_bounds(options)
    _check_extra(options.method)
    term = _term(options)
    files = _files(options)
    try:
        if options.report is not None:
            check_folder(options.report)
    except OSError as error:
        raise refused(f"--report: {error}") from None
    request = checked(_request(options))
    reward = None if options.reward is None else load_reward_of(options.reward)
    pipe = load_pipeline(request)
    tilts = () if reward is None else (Tilt(reward, options.scale),)
    try:
        steered = steer(
            pipe,
            term,
            *tilts,
            particles=request.particles,
            micro_batch=options.micro_batch,
            select=None if tilts else "all",
            seed=options.seed,
        )
    except (ValueError, TypeError) as error:
        raise refused(error) from None
    call = call_arguments(request, pipe)
    folder = options.report or free_folder(options.prompts[0])
    with held(folder, "--report"):
        _write(_drawn(steered, call), files, folder, _command(options))


def _drawn(steered: Any, call: dict[str, Any]) -> Any:
    try:
        with steady():
            return steered(**call)
    except KeyboardInterrupt:
        raise Stop("interrupted; nothing was written", code=130) from None
    except (ValueError, ImportError, OSError) as error:
        if steered.partial is None:
            raise refused(error) from None
        raise failed(error) from None


def _request(options: Cut) -> Request:
    least = max(1 if options.reward is None else 4, options.images)
    bundled = Request(options.prompts, model=options.model).bundled
    suffix = bundled if options.suffix is None else options.suffix
    ending = f" on {options.background}" if suffix else ""
    same = ("model", "steps", "guidance", "height", "width", "device", "seed", "micro_batch")
    return Request(
        prompts=tuple(f"{p}{'' if 'background' in p else ending}" for p in options.prompts),
        particles=options.particles or least,
        images=options.images,
        reward=options.reward or "none",
        scale=options.scale,
        plain=False,
        out=options.report,
        **{name: getattr(options, name) for name in same},
    )


def _term(options: Cut) -> Any:
    from fkdiff.rgba import Cutout, Mask
    from fkdiff.rgba.mattes import METHODS

    if options.method not in METHODS and not options.method.startswith("vitmatte:"):
        raise refused(f"--method must be one of {', '.join(METHODS)}, got {options.method!r}")
    folder = options.method.removeprefix("vitmatte:")
    if folder != options.method and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", folder):
        if not os.path.isdir(folder):
            raise refused(f"--method {options.method}: {folder!r} is no folder and no Hub id")
    try:
        box = tuple(float(part) for part in options.box.split(","))
        if len(box) != 4:
            raise ValueError
    except ValueError:
        raise refused(
            f"--box must be LEFT,TOP,RIGHT,BOTTOM, got {options.box!r}; use "
            f"0.125,0.125,0.875,0.875"
        ) from None
    try:
        mask = Mask(box, options.feather)
        return Cutout(options.background, mask, options.subject, options.method)
    except ValueError as error:
        raise refused(error) from None


def _check_extra(method: str) -> None:
    from importlib.util import find_spec

    module = _EXTRAS.get(method)
    if module is not None and find_spec(module) is None:
        raise refused(
            f"--method {method} needs a package that isn't installed: "
            f"pip install 'fkdiff[matting]', or leave --method out"
        )


def _files(options: Cut) -> list[Path]:
    """Where the cut-outs go, prompts in turn."""
    first = options.out
    if first is None:
        slug = re.sub(r"[^a-z0-9]+", "-", options.prompts[0].lower()).strip("-")[:40]
        first = Path(f"{slug.rstrip('-') or 'cutout'}.png")
    if first.suffix.lower() != ".png":
        raise refused(f"--out must be a .png, which keeps alpha, got {first}")
    count = len(options.prompts) * options.images
    files = [first, *(first.with_stem(f"{first.stem}-{n}") for n in range(2, count + 1))]
    for file in files:
        check_file("--out", file, is_ours(file))
    return files


def _write(out: Any, files: list[Path], folder: Path, command: str) -> None:
    from rich.console import Console

    from fkdiff.report.facts import about_image, about_run
    from fkdiff.report.folder import write_file
    from fkdiff.report.png import encode_png
    from fkdiff.report.snippet import python_of

    result: Result = out.steering
    page = result.save(folder, command=command)
    python = python_of(result, folder)
    about = about_run(result, command, python)
    returned = [row for row in about["particles"] if row["returned"]]
    for file, image, row in zip(files, out.images, returned, strict=False):
        write_file(home_path(file), encode_png(image, about_image(about, row)))
    console = Console()
    console.print("The Python that does the same:\n", highlight=False)
    console.print(python, markup=False, highlight=False, soft_wrap=True)
    for line in (f"Cut-out: {', '.join(map(str, files))}", f"Report: {page}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _command(options: Cut) -> str:
    """The shell command that makes the same pictures.

    >>> _command(Cut(("a cat",), seed=3, suffix=False))
    "fkdiff rgba 'a cat' --no-suffix --seed 3"
    """
    words = ["fkdiff", "rgba", *options.prompts]
    for field in fields(Cut)[1:]:
        value, option = getattr(options, field.name), "--" + field.name.replace("_", "-")
        if value == field.default:
            continue
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-"))
        else:
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)
