# %% [markdown]
# # Write your own reward, and publish it
#
# A reward is any callable: samples in, one number for each out, higher is better. This page writes one, checks it, calibrates
# it, mixes it with others, uses it by name, and publishes it as a package of its own.

# %%
import subprocess
import sys
import tempfile
from importlib import invalidate_caches
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from matplotlib import pyplot as plt

from fkdiff import Resample, Tilt, as_reward, steer, zoo
from fkdiff.rewards import OpenCLIP
from fkdiff.terms.reward import available, load_reward

torch.set_num_threads(1)
pipe = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
pipe.set_progress_bar_config(disable=True)
prompt = "a cat and a pizza on a white background"
call = {"num_inference_steps": 15, "guidance_scale": 3.0}

# %% [markdown]
# ## A function
#
# How alike are the left and the right half of the picture? Pixels come as `(n, 3, h, w)` in [0, 1]. Two rules: a picture's value
# depends on that picture alone, and it is a number (NaN is an error that names the step and the particle).


# %%
def symmetry(pixels):
    """One for a picture that is its own mirror image, less otherwise."""
    return 1 - (pixels - pixels.flip(-1)).abs().mean((1, 2, 3))


symmetry(torch.rand(3, 3, 8, 8))  # random pictures aren't symmetric

# %% [markdown]
# A function may ask for context by name: `def meets(pixels, prompts): ...` gets the prompt of each picture. What takes PIL
# pictures says `as_reward(fn, inputs="pil")`; what runs a network in small batches says `batch_size=8`.
#
# ## Its scale
#
# `Tilt(reward, scale)` counts in standard deviations of the reward. State what is usual, once and fixed, from plain samples:

# %%
plain = steer(pipe, particles=8, select="all", monitor=[symmetry], seed=0)(prompt, **call)
values = plain.steering.rewards["symmetry"]
mean, sd = float(values.mean()), float(values.std())
reward = as_reward(symmetry, mean=round(mean, 3), sd=round(sd, 3))
print(f"mean {mean:.3f}, standard deviation {sd:.3f}")

# %% [markdown]
# ## Steer by it
#
# `monitor=[...]` reports other rewards without steering on them. If the monitor falls while the reward rises, the reward is
# being hacked. Rewards add, scale and clip: here half symmetry, half what the prompt says.

# %%
meets = OpenCLIP("emoji-clip")
both = 0.5 * reward + 0.5 * meets
late = Resample(window=(0.6, 0.95))
runs = {
    "plain": steer(pipe, particles=8, select="all", monitor=[reward, meets], seed=0),
    "symmetry": steer(pipe, Tilt(reward, 3), particles=8, resample=late, monitor=[meets], seed=0),
    "both": steer(
        pipe, Tilt(both, 3), particles=8, resample=late, monitor=[reward, meets], seed=0
    ),
}
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.6), dpi=70)
for axis, (name, steered) in zip(axes, runs.items(), strict=True):
    out = steered(prompt, **call)
    found = out.steering
    slot = int(found.selected[0, 0])
    told = [float(found.rewards[r][0, slot]) for r in ("symmetry", meets.name)]
    axis.imshow(out.images[0])
    axis.set_title(f"{name}\nsymmetry {told[0]:.2f}, prompt {told[1]:.2f}", fontsize=8.5)
    axis.axis("off")

# %% [markdown]
# ## By name
#
# In a file, the command line finds it at once: `--reward symmetry.py:symmetry`, also in formulas such as
# `--reward "0.5 * emoji-clip + 0.5 * symmetry.py:symmetry"`.

# %%
folder = Path(tempfile.mkdtemp())
CODE = '''"""Rewards for pictures that like mirrors."""


class Symmetry:
    """How alike the halves of a picture are."""

    name, inputs, differentiable = "symmetry", "pixels", True
    mean, sd = 0.83, 0.04  # of plain samples; the scale of Tilt is per sd

    def __call__(self, samples, **context):
        return 1 - (samples - samples.flip(-1)).abs().mean((1, 2, 3))
'''
(folder / "mirrors.py").write_text(CODE)
load_reward(f"{folder / 'mirrors.py'}:Symmetry")(torch.ones(2, 3, 8, 8))

# %% [markdown]
# ## As a package
#
# One entry point announces it, and everybody who installs the package has it by name: in `fkdiff rewards`, on the command line,
# in `load_reward`. Nothing of it is imported before it is asked for.

# %%
PROJECT = """[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "mirror-rewards"
version = "1.0"

[tool.setuptools]
py-modules = ["mirrors"]

[project.entry-points."fkdiff.rewards"]
symmetry = "mirrors:Symmetry"
"""
(folder / "pyproject.toml").write_text(PROJECT)
pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
site = folder / "installed"  # a folder of its own, so that this page leaves nothing behind
subprocess.run([*pip, "--no-index", "--target", site, folder], check=True)
sys.path.insert(0, str(site))
invalidate_caches()

published = load_reward("symmetry")
print(published.name, published.mean, published.sd)
(listed,) = (entry for entry in available() if entry.name == "symmetry")
print(f"{listed.name} of {listed.package} {listed.version}")

# %% [markdown]
# The class above inherits nothing: a reward is what has these five attributes and can be called. A reward that needs a
# setting, as `vqa:MODEL` does, is a class whose first argument has no default. One that needs other packages names an extra in
# its entry point, `symmetry = "mirrors:Symmetry [torchaudio]"`, and `fkdiff rewards` tells what to install.
