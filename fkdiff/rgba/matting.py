"""Other people's ways to alpha: GrabCut, closed-form and nearest-neighbour matting, ViTMatte."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

__all__ = ["VITMATTE", "by_callable", "grab_cut", "pymatting_alpha", "trimap_of", "vit_matte"]

VITMATTE = "hustvl/vitmatte-small-composition-1k"
_EXTRA = "pip install 'fkdiff[matting]'"


def trimap_of(prior: Tensor, sure: float, unlikely: float) -> Tensor:
    """1 where the subject is sure, 0 where it surely isn't, 0.5 between; shares of the prior.

    Raises:
        ValueError: If either side is empty: mattes are drawn between the two.
    """
    top = prior.amax()
    known = torch.full_like(prior, 0.5)
    known[prior > sure * top] = 1.0
    known[prior <= unlikely * top] = 0.0
    for value, word, remedy in ((1, "sure", "lower"), (0, "unlikely", "raise")):
        if not (known == value).any():
            raise ValueError(
                f"thresholds must leave some {'subject' if value else 'background'} known; "
                f"{remedy} {word}, or use method='default'"
            )
    return known


def _needed(module: str, package: str, method: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(
            f"method {method!r} needs {package}, which isn't installed: {_EXTRA}, or take "
            f"method='default'"
        ) from None


def grab_cut(image: Tensor, prior: Tensor, levels: tuple[float, float, float]) -> Tensor:
    """Subject by GrabCut, (h, w), bool, from the prior's four levels of trust.

    Arguments:
        image: (3, h, w) in [0, 1].
        prior: (h, w) in [0, 1].
        levels: Shares of the prior's largest value: sure, likely and unlikely.

    Raises:
        ImportError: If OpenCV isn't installed.
        ValueError: If the prior leaves no background, or no subject, to begin with.
    """
    cv2 = _needed("cv2", "opencv-python-headless", "grabcut")
    sure, likely, unlikely = (level * float(prior.amax()) for level in levels)
    mask = np.full(tuple(prior.shape), cv2.GC_BGD, np.uint8)
    values = prior.cpu().numpy()
    mask[values > unlikely] = cv2.GC_PR_BGD
    mask[values > likely] = cv2.GC_PR_FGD
    mask[values > sure] = cv2.GC_FGD
    for side, label in ((("BGD", "PR_BGD"), "background"), (("FGD", "PR_FGD"), "subject")):
        if not np.isin(mask, [getattr(cv2, f"GC_{name}") for name in side]).any():
            raise ValueError(f"thresholds must leave some {label} for GrabCut; move them apart")
    pixels = np.ascontiguousarray(_bytes(image)[..., ::-1])
    cv2.setRNGSeed(0)
    models = [np.zeros((1, 65)) for _ in range(2)]
    cv2.grabCut(pixels, mask, None, *models, 5, cv2.GC_INIT_WITH_MASK)
    return torch.from_numpy(np.isin(mask, [cv2.GC_FGD, cv2.GC_PR_FGD])).to(image.device)


def pymatting_alpha(image: Tensor, trimap: Tensor, method: str) -> Tensor:
    """Alpha (h, w) by `closed-form` or `knn` matting between a trimap's known parts.

    References:
        | A closed-form solution to natural image matting (Levin et al., 2008)
        | KNN matting (Chen et al., 2013)
    """
    matting = _needed("pymatting", "pymatting", method)
    run = {"closed-form": matting.estimate_alpha_cf, "knn": matting.estimate_alpha_knn}[method]
    picture = image.permute(1, 2, 0).cpu().double().numpy()
    return torch.from_numpy(run(picture, trimap.cpu().double().numpy())).to(image)


def vit_matte(image: Tensor, trimap: Tensor, model: str = VITMATTE) -> Tensor:
    """Alpha (h, w) by ViTMatte.

    Arguments:
        image: (3, h, w) in [0, 1].
        trimap: (h, w): 1 subject, 0 background, 0.5 unknown.
        model: Hub id or folder.

    Raises:
        OSError: If the model can't be had.

    References:
        | ViTMatte: boosting image matting with pretrained plain vision transformers (2023),
        | arXiv 2305.15272
    """
    from transformers import VitMatteForImageMatting

    network: Any = VitMatteForImageMatting.from_pretrained(model)
    network.to(image.device).eval()
    height, width = trimap.shape
    stacked = torch.cat([2 * image - 1, trimap[None].to(image)])[None]
    padded = F.pad(stacked, (0, -width % 32, 0, -height % 32), "replicate")
    with torch.no_grad():
        alpha = network(padded).alphas[0, 0, :height, :width].clamp(0, 1)
    known = trimap != 0.5
    return torch.where(known, trimap.to(alpha), alpha).to(image)


def by_callable(image: Tensor, matte: Callable[..., Any]) -> Tensor:
    """Alpha (h, w) by a function of a PIL image that returns an image or an array.

    Raises:
        ValueError: If it returns another size or no number.
    """
    from PIL import Image

    out = matte(Image.fromarray(_bytes(image)))
    if isinstance(out, Image.Image):
        out = out.getchannel("A") if "A" in out.getbands() else out.convert("L")
    values = np.asarray(out.cpu() if isinstance(out, Tensor) else out)
    if values.dtype == np.uint8:
        values = values / 255
    values = values[..., 3] if values.ndim == 3 and values.shape[-1] == 4 else values.squeeze()
    if values.shape != tuple(image.shape[1:]) or not np.isfinite(values).all():
        raise ValueError(
            f"method must return alpha of the image's size {tuple(image.shape[1:])}, all finite, "
            f"got shape {values.shape}"
        )
    return torch.from_numpy(values.astype(np.float32)).clamp(0, 1).to(image)


def _bytes(image: Tensor) -> NDArray[np.uint8]:
    pixels = image.clamp(0, 1).permute(1, 2, 0).cpu().float().numpy()
    return (255 * pixels + 0.5).astype(np.uint8)
