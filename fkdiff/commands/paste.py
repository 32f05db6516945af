"""`fkdiff paste`: a cut-out put into a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fkdiff.commands.places import check_file, is_ours, path
from fkdiff.commands.stops import refused

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
    from io import BytesIO

    from PIL import Image

    from fkdiff.report.folder import write_file
    from fkdiff.rgba import paste as put

    if out.suffix.lower() not in Image.registered_extensions():
        raise refused(f"--out must end like a picture, such as .png, got {out}")
    check_file("--out", out, is_ours(out))
    try:
        x, y = (float(part) for part in at.split(","))
    except ValueError:
        raise refused(f"--at must be X,Y, got {at!r}; 0.5,0.5 is the middle") from None
    try:
        picture = put(_opened(background), _opened(cutout), (x, y), scale)
    except ValueError as error:
        raise refused(error) from None
    if out.suffix.lower() in (".jpg", ".jpeg"):
        picture = picture.convert("RGB")
    buffer = BytesIO()
    picture.save(buffer, format=Image.registered_extensions()[out.suffix.lower()])
    write_file(out, buffer.getvalue())
    print(f"Picture: {out}")


def _opened(file: Path) -> "Image.Image":
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            image.load()
            return image.copy()
    except FileNotFoundError:
        raise refused(f"{file} doesn't exist; name a picture") from None
    except (UnidentifiedImageError, OSError) as error:
        raise refused(f"{file} can't be read as a picture: {error}") from None
