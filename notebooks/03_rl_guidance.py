# %% [markdown]
# # RL guidance: one slider between a model and its RL-tuned self
#
# $\hat v = v_{\mathrm{ref}} + w\,(v_\theta - v_{\mathrm{ref}})$: $w = 0$ is the base, 1 the tuned model, more leans further
# ([arXiv 2508.21016](https://arxiv.org/abs/2508.21016)). Where the tuned model is the optimum of its reward at KL strength $\beta$,
# the mixture is that of $\beta / w$; on the way only with `Correct()`.

# %%
import torch
from diffusers import DiffusionPipeline

from fkdiff import Correct, RLGuidance, steer, zoo

torch.set_num_threads(1)
pipe = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
pipe.set_progress_bar_config(disable=True)

# %% [markdown]
# The bundled adapter `emoji-rl` was tuned on `emoji-clip`, which says how well a picture meets its caption. Two cores
# taught it little: the slider moves things gently.

# %%
pipe.load_lora_weights(zoo.path("emoji-rl"), adapter_name="emoji-rl")
pipe.disable_lora()  # the pipeline itself stays the base; a run switches the expert on

# %% [markdown]
# The slider: one seed, one term. Ends cost one evaluation a step, what is between or beyond costs two.

# %%
import matplotlib.pyplot as plt

prompt, weights = "three apples on a green background", (0.0, 0.5, 1.0, 1.6, 3.0)
call = {"num_inference_steps": 12, "guidance_scale": 1.0}  # as it was tuned
runs = {
    w: steer(pipe, RLGuidance("emoji-rl", w), particles=1, seed=3)(prompt, **call) for w in weights
}
figure, axes = plt.subplots(1, len(weights), figsize=(7.5, 1.9))
for axis, (w, out) in zip(axes, runs.items(), strict=True):
    axis.imshow(out.images[0])
    axis.set_title(f"w = {w:g}", fontsize=9)
    axis.axis("off")
{w: out.steering.cost.denoiser_evaluations for w, out in runs.items()}

# %%
base = steer(pipe, particles=1, seed=3)(prompt, **call)
assert torch.equal(runs[0.0].steering.latents, base.steering.latents)  # bit for bit
runs[1.6].steering.target

# %% [markdown]
# Scheduled or within an interval; or by weights, at one evaluation of a different model.

# %%
early = RLGuidance("emoji-rl", 2.0, interval=(0.0, 0.4))
falling = RLGuidance("emoji-rl", lambda share: 2.0 * (1 - share))
scaled = RLGuidance("emoji-rl", 1.6, mode="weights")
[
    steer(pipe, term, particles=1, seed=3)(prompt, **call).steering.cost.denoiser_evaluations
    for term in (early, falling, scaled)
]

# %% [markdown]
# Corrected, it samples the geometric mixture that it states: two experts in one pool (four with guidance), one set of weights.

# %%
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # few steps; take 50 or more
    out = steer(pipe, RLGuidance("emoji-rl", 1.6), Correct(), particles=4, seed=3)(prompt, **call)
print(out.steering.target)
[round(float(w), 3) for w in out.steering.weights[0]]
