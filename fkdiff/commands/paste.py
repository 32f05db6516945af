"""`fkdiff paste`: a cut-out put into a picture."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fkdiff.commands.places import check_file, is_ours, path
from fkdiff.commands.stops import refused
from fkdiff.files import home_path

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["EXAMPLE", "paste"]

EXAMPLE = "Example: fkdiff paste background.png guitar.png --at 0.5,0.6 --scale 0.4"


def paste(
    background: Annotated[Path, typer.Argument(help="Any picture.", parser=path)],
    cutout: Annotated[
        Path, typer.Argument(help="A PNG with alpha, as `fkdiff rgba` writes it.", parser=path)
    ],
    at: Annotated[
        str, typer.Option(help="Centre of the cut-out: X,Y, shares of the background.")
    ] = "0.5,0.5",
    scale: Annotated[
        float, typer.Option(help="Height of the cut-out, a share of the background's.")
    ] = 0.5,
    out: Annotated[Path, typer.Option(help="The picture to write.", parser=path)] = Path(
        "pasted.png"
    ),
) -> None:
    """Paste a cut-out into a picture."""
    from PIL import Image

    from fkdiff.report.folder import write_file
    from fkdiff.rgba import paste as put

    kind = Image.registered_extensions().get(out.suffix.lower(), "").upper()
    if kind not in Image.SAVE:
        raise refused(
            f"--out must end like a picture that can be written, such as .png, got {out}"
        )
    check_file("--out", out, is_ours(out))
    try:
        x, y = (float(part) for part in at.split(","))
    except ValueError:
        raise refused(f"--at must be X,Y, got {at!r}; 0.5,0.5 is the middle") from None
    try:
        picture = put(_opened(background), _opened(cutout), (x, y), scale)
    except ValueError as error:
        raise refused(error) from None
    write_file(home_path(out), _encoded(picture, kind))
    print(f"Picture: {out}")


def _encoded(picture: "Image.Image", kind: str) -> bytes:
    """A picture in a format; a PNG says that fkdiff wrote it, others may lack alpha."""
    from io import BytesIO

    from fkdiff._version import __version__
    from fkdiff.report.png import encode_png

    if kind == "PNG":
        return encode_png(picture, {"fkdiff": __version__, "made by": "fkdiff paste"})
    told: Exception | None = None
    for mode in dict.fromkeys((picture.mode, "RGB", "L", "1")):
        buffer = BytesIO()
        try:
            picture.convert(mode).save(buffer, format=kind)
        except (OSError, ValueError, KeyError) as error:
            told = error
            continue
        return buffer.getvalue()
    raise refused(f"--out: {kind} can't be written: {told}; use .png")


def _opened(file: Path) -> "Image.Image":
    """A picture as it is seen: turned as its camera says, palettes with their transparency."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                image.load()
                turned = ImageOps.exif_transpose(image)
                clear = turned.mode == "P" and "transparency" in turned.info
                return turned.convert("RGBA") if clear else turned
    except FileNotFoundError:
        raise refused(f"{file} doesn't exist; name a picture") from None
    except Exception as error:  # a damaged picture makes its reader fail in any way
        told = " ".join(str(error).split()) or type(error).__name__
        raise refused(f"{file} can't be read as a picture: {told}") from None
