"""Settings inside a picture: a JSON chunk of our own, and the text that other tools show."""

import json
import struct
import warnings
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from fkdiff.files import json_of

__all__ = ["encode_png", "parameters_text", "read_png"]

_KEY = "fkdiff"


def encode_png(image: Image.Image, about: Mapping[str, Any] | None = None) -> bytes:
    """A picture as PNG; `about` goes into the chunks `fkdiff` (JSON) and `parameters` (text)."""
    info = PngImagePlugin.PngInfo()
    if about is not None:
        info.add_itxt(_KEY, json.dumps(about, ensure_ascii=False, allow_nan=False))
        info.add_itxt("parameters", parameters_text(about))
    buffer = BytesIO()
    image.save(buffer, format="PNG", pnginfo=info, optimize=image.width <= 256)
    return buffer.getvalue()


def parameters_text(about: Mapping[str, Any]) -> str:
    """The settings as one line below the prompt, as picture viewers of the field expect them.

    >>> print(parameters_text({"prompt": "a cat", "seed": 7, "size": [64, 64],
    ...                        "call": {"num_inference_steps": 30, "negative_prompt": "a dog"}}))
    a cat
    Negative prompt: a dog
    Steps: 30, Seed: 7, Size: 64x64
    """
    call = about.get("call", {})
    size = about.get("size")
    fields = {
        "Steps": call.get("num_inference_steps"),
        "Sampler": about.get("scheduler"),
        "CFG scale": call.get("guidance_scale"),
        "Seed": about.get("seed"),
        "Size": f"{size[0]}x{size[1]}" if size else None,
        "Model": about.get("model"),
        "Version": f"fkdiff {about['fkdiff']}" if about.get("fkdiff") else None,
    }
    lines = [str(about.get("prompt", ""))]
    if call.get("negative_prompt"):
        lines.append(f"Negative prompt: {call['negative_prompt']}")
    lines.append(", ".join(f"{k}: {v}" for k, v in fields.items() if v not in (None, "")))
    return "\n".join(lines)


def read_png(path: str | Path) -> dict[str, Any]:
    """The settings that fkdiff wrote into a picture.

    Raises:
        OSError: If there is no such file or it can't be read.
        ValueError: If the file is no PNG, or no run of fkdiff left its settings in it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:
                image.load()  # text chunks may follow the pixels
                text = image.info.get(_KEY)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"{path} claims to be larger than any picture of a run") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path} is no PNG picture") from None
    except (SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if text is None:
        raise ValueError(f"{path} carries no settings of fkdiff; only pictures of a run folder do")
    try:
        about = json_of(text)
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise ValueError(f"{path} carries settings that aren't valid JSON")
    return about
