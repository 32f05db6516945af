"""Images for judges: edges and 8-bit levels, so that Pillow sees exactly the same."""

import torch

__all__ = ["photos"]


def photos(height, width, n=3):
    generator = torch.Generator().manual_seed(height)
    coarse = torch.rand(n, 3, 7, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    smooth[:, :, height // 3 :, : width // 2] = 1.0
    return (255 * smooth).round() / 255
