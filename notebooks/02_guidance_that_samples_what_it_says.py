# %% [markdown]
# # Guidance that samples what it says
#
# Classifier-free guidance moves particles by the score of $q_u^{1-g} q_c^g$ at each noise level. That does
# not *sample* $q_u^{1-g} q_c^g$: the noised product is not the product of the noised laws. `Correct()` carries
# the difference as log-weights ([Feynman-Kac correctors](https://arxiv.org/abs/2503.02819)).
#
# First where the answer is known, then on the bundled pipeline.

# %%
import warnings

import matplotlib.pyplot as plt
import torch

from fkdiff import Anneal, Correct, Grid, Resample, Tilt, as_reward, sample
from fkdiff.bench.mixtures import Mixture, cells, quadrature

torch.set_num_threads(1)
uncond = Mixture((0.5, 0.5), (-1.8, 1.8), (1.6, 1.7))
cond = Mixture((0.35, 0.65), (-2.0, 2.5), (1.0, 0.8))
grid = Grid.vp(150, 7.0, prediction="score")


# %% [markdown]
# One call: `sample` takes scores by name, and terms that say what the samples should be. The plain run is the
# same without `Correct()`.


# %%
def cloud(*terms, guidance=2.0, particles=2000):
    denoisers = {"cond": cond.score, "uncond": uncond.score}
    settings = {"shape": (1,), "guidance": guidance, "particles": particles, "seed": 0}
    resample = Resample(window=(0, 1)) if any(isinstance(t, Correct) for t in terms) else None
    return sample(denoisers, grid, *terms, resample=resample, dtype=torch.float64, **settings)


def shares(result, edges):
    return cells(result.latents.flatten(), result.weights[0], edges)


plain, corrected = cloud(), cloud(Correct())
edges, exact, log_z = quadrature(((-1.0, uncond), (2.0, cond)), torch.zeros_like)
middle, width = (edges[1:] + edges[:-1]) / 2, float(edges[1] - edges[0])
figure, axis = plt.subplots(figsize=(7, 2.8))
axis.fill_between(middle, exact / width, color="#d9dce1", label="$q_u^{-1} q_c^2$, exact")
axis.plot(middle, shares(plain, edges) / width, color="#9db4cf", label="plain guidance")
axis.plot(middle, shares(corrected, edges) / width, color="#c2542d", label="corrected")
axis.legend(frameon=False)
distance = {
    name: float((shares(found, edges) - exact).abs().sum() / 2)
    for name, found in (("plain", plain), ("corrected", corrected))
}
distance, float(corrected.log_z), log_z

# %%
assert distance["corrected"] < distance["plain"]
assert abs(float(corrected.log_z) - log_z) < 0.2

# %% [markdown]
# **It composes.** Annealing and a reward in the same weighted cloud; the target is stated.

# %%
wish = as_reward(lambda x: torch.sin(2 * x.flatten()), name="wave", inputs="latents")
together = cloud(Anneal(1.5), Tilt(wish, scale=1.0), Correct())
powers = ((-1.5, uncond), (3.0, cond))
_, goal, _ = quadrature(powers, lambda x: torch.sin(2 * x))
print(together.target)
float((shares(together, edges) - goal).abs().sum() / 2)

# %% [markdown]
# **On a pipeline** the same terms go to `steer`. The report shows the variance of the log-weights step by step:
# it decides how many particles are worth having. Few steps make the weights a heuristic, and say so.

# %%
from diffusers import DiffusionPipeline

from fkdiff import steer, zoo

pipe = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
pipe.set_progress_bar_config(disable=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    steered = steer(pipe, Correct(), particles=4, select="all", seed=3)
    out = steered("a cat on a blue background", num_inference_steps=8, guidance_scale=3.0)
print(next(str(w.message) for w in caught if "Correct()" in str(w.message))[:80], "...")
print(out.steering.target)
print("weights", [round(float(w), 3) for w in out.steering.weights[0]])
[round(float(entry.variance[0]), 2) for entry in out.steering.trace]

# %%
figure, axes = plt.subplots(1, 4, figsize=(6, 1.8))
for axis, image, slot in zip(axes, out.images, out.steering.selected[0], strict=True):
    axis.imshow(image)
    axis.set_title(f"{float(out.steering.weights[0, slot]):.2f}", fontsize=9)
    axis.axis("off")
