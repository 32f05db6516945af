# %% [markdown]
# # Transparent assets: cut-outs from a plain text-to-image model
#
# The subject's prompt moves the state inside a mask, a background's outside it, so that the subject is whole; attention tells roughly
# where it is, colours tell exactly, and at its soft edges the subject gets its own colour back
# ([ALFIE](https://arxiv.org/abs/2408.14826)). Nothing is trained, and one more evaluation a step is all it costs.

# %%
import torch
from diffusers import DiffusionPipeline

from fkdiff import Cutout, Mask, steer, zoo

torch.set_num_threads(1)
pipe = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
pipe.set_progress_bar_config(disable=True)
prompt, call = "a crown on a white background", {"num_inference_steps": 10, "guidance_scale": 2.0}

# %% [markdown]
# `Cutout()` is a term like any other: any stock pipeline with text attention then returns pictures with alpha.

# %%
plain = steer(pipe, particles=3, select="all", seed=1)(prompt, **call)
cut = steer(pipe, Cutout(), particles=3, select="all", seed=1)(prompt, **call)
evaluations = [out.steering.cost.denoiser_evaluations for out in (plain, cut)]
[image.mode for image in cut.images], evaluations

# %%
import matplotlib.pyplot as plt
import numpy as np

from fkdiff.rgba import checkerboard, over
from fkdiff.zoo.composites import ground


def tensor(image):
    return torch.from_numpy(np.asarray(image) / np.float32(255)).movedim(-1, 0)


photo = torch.from_numpy(ground("textured", np.random.default_rng(5), 64)).movedim(-1, 0)
rows = [
    [tensor(image) for image in plain.images],
    [over(tensor(image), checkerboard(64, 64)) for image in cut.images],
    [over(tensor(image), photo) for image in cut.images],
]
figure, axes = plt.subplots(3, 3, figsize=(5, 5))
for axis, picture in zip(axes.flat, sum(rows, []), strict=True):
    axis.imshow(picture.movedim(0, -1))
    axis.axis("off")

# %% [markdown]
# The same machinery cuts a subject out of any picture, given a rough idea of where it is. Here everything is known: a disc in two
# colours on a gradient, and a prior of 8x8 cells.

# %%
from fkdiff.rgba import alpha, foreground_colour

y, x = torch.meshgrid(*[torch.arange(64.0)] * 2, indexing="ij")
truth = (18.5 - torch.hypot(x - 34, y - 30)).clamp(0, 1)
colour = (
    torch.where(x < 34, 0.9, 0.1).expand(3, 64, 64) * torch.tensor([1, 0.3, 0.2])[:, None, None]
)
behind = torch.stack([x / 64, 0.4 + y / 128, 1 - x / 80])
picture = truth * colour + (1 - truth) * behind
prior = torch.nn.functional.adaptive_avg_pool2d(truth[None], 8)[0]

found = alpha(picture, prior)
own = foreground_colour(picture, truth)
soft = (truth > 0.1) & (truth < 0.9)
errors = [float((c - colour).abs()[:, soft].mean()) for c in (picture, own)]
assert float((found - truth).abs().mean()) < 0.01
assert errors[1] < errors[0] / 3  # no background left at the edges
errors

# %% [markdown]
# The mask has any place and size; rewards of cut-outs steer like all others.

# %%
from fkdiff import Tilt
from fkdiff.rewards import Uncropped

left = Cutout(mask=Mask((0, 0.25, 0.5, 0.75), feather=0.1))
out = steer(pipe, left, Tilt(Uncropped(), 2), particles=2, seed=3)(prompt, **call)
share = tensor(out.images[0])[3]
print(out.steering.target)
share[:, :32].sum() > share[:, 32:].sum()

# %% [markdown]
# Pasted, as `fkdiff paste` does.

# %%
from PIL import Image

from fkdiff.rgba import paste

wide = ground("textured", np.random.default_rng(6), 192)[:96]
scene = Image.fromarray((255 * wide).astype(np.uint8))
for place, image in zip((0.2, 0.5, 0.8), cut.images, strict=True):
    scene = paste(scene, image, at=(place, 0.55), scale=0.6)
scene
