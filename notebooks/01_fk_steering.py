# %% [markdown]
# # FK steering: from one particle to an exact tilt
#
# You have a pipeline and a reward. FK steering runs the pipeline with $K$ weighted particles and samples
#
# $$p^*(x_0) \propto p(x_0)\, e^{\lambda (r(x_0) - \mu) / s}.$$
#
# First on pictures with the bundled model, then on a toy whose answer is known in closed form.

# %%
import torch
from diffusers import DiffusionPipeline
from matplotlib import pyplot as plt

from fkdiff import Tilt, as_reward, steer, zoo
from fkdiff.rewards import OpenCLIP

pipe = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
pipe.set_progress_bar_config(disable=True)
call = zoo.card("emoji")["defaults"]
prompt = "a cat and a pizza on a blue background"

# %% [markdown]
# ## One particle is the plain pipeline
#
# No terms, one particle: the stock call. Its seed is the whole story.

# %%
plain = steer(pipe, seed=0)(prompt, **call)
plain.images[0].resize((192, 192))

# %% [markdown]
# ## Eight particles and a wish
#
# The reward is the similarity of picture and prompt under the bundled dual encoder. `scale` is per standard deviation of
# the reward's own calibration. The pipeline's deterministic solver would keep copies identical, so its step is replaced
# by the stochastic one with the same marginals, and the result says so.

# %%
reward = OpenCLIP("emoji-clip")
steered = steer(pipe, Tilt(reward, scale=4), particles=8, select="all", seed=0)
out = steered(prompt, **call)
cloud = out.steering
print(cloud.target)
print(cloud.settings["replaced_step"])
print(f"log Z = {cloud.log_z.item():.2f}, ESS = {cloud.ess.item():.1f} of 8")
print(f"{cloud.cost.decodes} decodes")

# %%
figure, axes = plt.subplots(1, 8, figsize=(14, 2.2))
for axis, image, slot in zip(axes, out.images, cloud.selected[0], strict=True):
    axis.imshow(image)
    axis.set_title(f"{cloud.rewards[reward.name][0, slot]:.2f}", fontsize=9)
    axis.axis("off")
figure.suptitle("best first, with the reward of each")
# %% [markdown]
# The effective sample size falls as rewards tell particles apart, and jumps back where the cloud is resampled.

# %%
ess = torch.stack([t.ess[0] for t in cloud.trace])
moved = [t.index for t in cloud.trace if t.resampled[0]]
figure, axis = plt.subplots(figsize=(7, 2.4))
axis.plot(ess)
axis.vlines(moved, 0, 8, linestyles="dotted")
axis.set(xlabel="transition", ylabel="effective sample size", ylim=(0, 8.3))
# %% [markdown]
# ## Is it right? An exact tilt
#
# Take a "network" that knows the exact answer: data $N(m, s^2)$, so that the best epsilon prediction is linear. Run it
# through diffusers' own `DDIMScheduler`, tilt by $r(x) = x$, and compare with the closed form of the chain that is run:
# a Gaussian tilted by $e^{\lambda x}$ is a Gaussian shifted by $\lambda v$, with $\log Z = \lambda m + \lambda^2 v / 2$.

# %%
from diffusers import DDIMScheduler
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor


class ExactGaussian(torch.nn.Module):
    """Best epsilon prediction for data N(mean, sd^2)."""

    def __init__(self, scheduler, mean=0.5, sd=0.4):
        super().__init__()
        self.alphas, self.mean, self.sd = scheduler.alphas_cumprod, mean, sd

    def forward(self, sample, timestep):
        a = self.alphas[timestep].to(sample)
        variance = a * self.sd**2 + 1 - a
        return ((1 - a).sqrt() * (sample - a.sqrt() * self.mean) / variance,)


class Toy(DiffusionPipeline):
    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, prompt, num_inference_steps=50, num_images_per_prompt=1, generator=None):
        prompts = [prompt] if isinstance(prompt, str) else prompt
        rows = len(prompts) * num_images_per_prompt
        x = randn_tensor((rows, 1, 1, 1), generator=generator, dtype=torch.float64)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.progress_bar(self.scheduler.timesteps):
            x = self.scheduler.step(
                self.unet(x, t)[0], t, x, eta=1.0, generator=generator
            ).prev_sample
        return BaseOutput(images=x)


scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
toy = Toy(ExactGaussian(scheduler), scheduler)
toy.set_progress_bar_config(disable=True)

# %% [markdown]
# The law of the *discretised* chain: 4,000 plain samples give its mean and variance. Then 200 independent clouds of 64
# particles; their weighted means must agree with the tilted mean, and the average of $\hat Z$ with $Z$.

# %%
few = dict(num_inference_steps=20)
x = steer(toy, particles=4000, select="all", seed=1)("", **few).steering.latents.flatten()
m, v = x.mean(), x.var()

lam = 2.0
value = as_reward(lambda z: z.flatten(1).sum(1), name="value", inputs="latents")
clouds = steer(toy, Tilt(value, scale=lam), particles=64, seed=2)([""] * 200, **few).steering
means = clouds.mean(clouds.latents.flatten(2)).flatten()
z = clouds.log_z.exp()
error = means.std() / len(means) ** 0.5
print(
    f"plain mean {m:.3f}; tilted mean {means.mean():.3f} +- {error:.3f}, exact {m + lam * v:.3f}"
)
exact = (lam * m + lam**2 * v / 2).exp()
print(f"E[Z] {z.mean():.3f} +- {z.std() / len(z) ** 0.5:.3f}, exact {exact:.3f}")

# %% [markdown]
# Where to go next: `Resample(...)` for schemes and triggers, `Tilt(potential=..., schedule="adaptive")`,
# `fkdiff generate --help` for the command line.
