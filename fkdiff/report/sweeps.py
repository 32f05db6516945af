"""Pictures in a row or a grid, one for each setting of a sweep."""

from collections.abc import Sequence
from io import BytesIO

from matplotlib.figure import Figure
from PIL import Image

from fkdiff.report.lineage import COLOURS

__all__ = ["CRISP", "grid_png", "png_of"]

CRISP = 256  # pictures below this width are enlarged without smoothing


def grid_png(
    images: Sequence[Sequence[Image.Image]],
    columns: Sequence[str],
    rows: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    title: str = "",
) -> bytes:
    """A labelled grid of pictures as a PNG.

    Arguments:
        images: Rows of pictures, all rows of one length.
        columns: What is above each column.
        rows: What is left of each row; none for a single row.
        captions: What is below each picture; none leaves it out.
        title: What is above all.
    """
    tall, wide = len(images), len(images[0])
    figure = Figure(figsize=(1.55 * wide + 0.9 * bool(rows), 1.75 * tall + 0.75), dpi=150)
    axes = figure.subplots(tall, wide, squeeze=False)
    for r, line in enumerate(images):
        for c, image in enumerate(line):
            axis = axes[r, c]
            axis.imshow(image, interpolation="nearest" if image.width < CRISP else "antialiased")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            style = {"color": COLOURS["text"], "parse_math": False}
            if r == 0:
                axis.set_title(columns[c], fontsize=10, pad=4, **style)
            if captions:
                axis.set_xlabel(captions[r][c], fontsize=8.5, labelpad=3, **style)
            if rows and c == 0:
                axis.set_ylabel(rows[r], fontsize=10, labelpad=6, **style)
    if title:
        figure.suptitle(title, fontsize=11, color=COLOURS["text"], parse_math=False)
    figure.tight_layout(w_pad=0.4, h_pad=0.6)
    return png_of(figure)


def png_of(figure: Figure) -> bytes:
    """A figure as a PNG; the same figure gives the same bytes."""
    buffer = BytesIO()
    figure.savefig(
        buffer, format="png", bbox_inches="tight", pad_inches=0.12, metadata={"Software": "fkdiff"}
    )
    return buffer.getvalue()
