# %% [markdown]
# # Quick start
#
# You have a model that draws and a wish that it doesn't know. This page takes you from one picture to a cloud of weighted
# pictures whose law is known. It needs no network, no GPU, and no statistics beyond the mean.
#
# | word | what it is |
# |---|---|
# | **particle** | one picture in the making; several are drawn side by side |
# | **reward** | your wish as a function: pictures in, a number for each out, higher is better |
# | **weight** | how much a particle counts; the weights of a cloud sum to one |
# | **effective sample size** | how many particles really count: all of them if weights are equal, 1 if one has it all |
# | **resampling** | heavy particles are copied, light ones dropped, and all count the same again |
# | **$\log Z$** | the log of the mean of $e^{\text{scale} \cdot \text{reward}}$ over what the model draws on its own |

# %%
import torch
from diffusers import DiffusionPipeline
from matplotlib import pyplot as plt

from fkdiff import Resample, Tilt, as_reward, steer, zoo

torch.set_num_threads(1)
pipe = DiffusionPipeline.from_pretrained(zoo.path("emoji"))  # or any other pipeline of diffusers
pipe.set_progress_bar_config(disable=True)
prompt = "a cat on a white background"
call = {"num_inference_steps": 15, "guidance_scale": 3.0}

# %% [markdown]
# ## A wish is a function
#
# Say, the cat should sit on the left. On white it darkens the half where it is. Pixels come as a tensor `(n, 3, height, width)` with values from 0 to 1; out come
# `n` numbers. `mean` and `sd` say what is usual, so that the strength of the wish has a scale.


# %%
def left(pixels):
    half = pixels.shape[-1] // 2
    return pixels[..., half:].mean((1, 2, 3)) - pixels[..., :half].mean((1, 2, 3))


reward = as_reward(left, mean=0.0, sd=0.08)

# %% [markdown]
# ## What the model draws on its own
#
# `steer` without terms is the pipeline's own call, with a seed of its own for each particle. `monitor` looks and changes nothing.

# %%
plain = steer(pipe, particles=6, select="all", monitor=[reward], seed=4)(prompt, **call)


def show(images, captions=None):
    figure, axes = plt.subplots(1, len(images), figsize=(1.3 * len(images), 1.6), dpi=80)
    for axis, image, caption in zip(axes, images, captions or [""] * len(images), strict=True):
        axis.imshow(image)
        axis.set_title(caption, fontsize=9)
        axis.axis("off")


show(plain.images)

# %% [markdown]
# ## Six particles that know the wish
#
# On the way, each particle's estimate of its final picture is shown to the reward. Promising ones are copied, poor ones
# dropped. `window` says when: after 40% of the run, once estimates show where things are.

# %%
steered = steer(
    pipe,
    Tilt(reward, scale=3),
    particles=6,
    resample=Resample(window=(0.4, 0.95)),
    select="all",
    seed=4,
)
out = steered(prompt, **call)
cloud = out.steering
show(out.images, [f"{float(cloud.weights[0, slot]):.2f}" for slot in cloud.selected[0]])

# %% [markdown]
# Best first, the weight above each. Nothing was trained, and the pipeline is as it was. The record says what the cloud
# stands for and what it cost:

# %%
print(cloud.target)
print(f"effective sample size {float(cloud.ess):.1f} of 6, log Z {float(cloud.log_z):.2f}")
print(cloud.cost.denoiser_evaluations, "evaluations,", cloud.cost.decodes, "decodes")
before, after = (run.rewards["left"].mean() for run in (plain.steering, cloud))
print(f"{float(before):.3f} on its own, {float(after):.3f} steered")
assert after > before

# %% [markdown]
# **Averages need the weights.** `cloud.mean(...)` takes them; a plain mean over the particles is something else.

# %%
leftness = cloud.rewards["left"]
print(f"weighted {float(cloud.mean(leftness)):.3f}, unweighted {float(leftness.mean()):.3f}")

# %% [markdown]
# ## Why believe it? A case that can be worked out
#
# Take a "model" that draws from the normal law $N(0, 1)$ and the wish $r(x) = x$ at scale $\lambda$. The tilted law is known:
# $p(x) e^{\lambda x}$ is $N(\lambda, 1)$ up to its size, and that size is $Z = e^{\lambda^2 / 2}$. No pipeline is needed for
# this: `sample` takes the score, here $-x$ at every noise level $(\alpha, \sigma)$.

# %%
from fkdiff import Grid, sample

lam = 1.0
value = as_reward(lambda x: x.flatten(1).sum(1), name="value", inputs="latents")
exact = sample(
    {"cond": lambda x, alpha, sigma: -x},
    Grid.vp(200, 7.0, prediction="score"),
    Tilt(value, scale=lam),
    shape=(1,),
    particles=1000,
    resample=Resample(window=(0, 1)),
    dtype=torch.float64,
    seed=0,
)
mean = float(exact.mean(exact.latents.flatten(2)))
print(f"mean {mean:.3f}, exact {lam:.3f}")
print(f"log Z {float(exact.log_z):.3f}, exact {lam**2 / 2:.3f}")
assert abs(mean - lam) < 0.15 and abs(float(exact.log_z) - lam**2 / 2) < 0.15

# %% [markdown]
# ## Keep it
#
# `out.steering.save("runs/left")` leaves the pictures with their settings inside, all numbers, and a page that shows how it went.
# The same on the command line, and in a browser:
#
# ```sh
# fkdiff generate "a cat on a white background" --reward my_reward.py:left --scale 3
# fkdiff app --open
# ```
#
# Next: [FK steering](01_fk_steering.ipynb) for what happens inside, or
# [write your own reward](08_write_your_own_reward.ipynb).
