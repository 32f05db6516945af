# %% [markdown]
# # A diffusion policy at control rate
#
# A receding-horizon policy decides again and again about nearly the same future. The last chunk of actions, shifted by what
# was executed, is a good guess $\hat a$ of the next one: noise it to level $K'$, $x_{K'} = \alpha_{K'} \hat a + \sigma_{K'} z$,
# and denoise from there in **one** evaluation. How far up must it start? Far enough to wash out what the guess got wrong, and
# no further. This notebook measures that, chooses $K'$, and drives a simulated robot with it where Meta-World is installed
# (`pip install "fkdiff[policy]"`).
#

# %%
import time
from dataclasses import replace

import torch
from matplotlib import pyplot as plt

from fkdiff import zoo
from fkdiff.policy import ChunkSampler, WarmStart, WarmStartPolicyPipeline, contraction_factor

policy = WarmStartPolicyPipeline.from_pretrained(zoo.path("metaworld"))
levels = replace(policy.sampler.levels, eta=0.0)  # DDIM
policy.sampler.choice.explain()

# %% [markdown]
# ## How much of an error survives
#
# Where actions follow $N(m, s^2)$ given the observation, an error of the guess shrinks by $C(K')$. Narrow actions (small $s$)
# forget it within a few levels. The factor is that of the levels and the solver that really run: here one evaluation.

# %%
starts = range(1, 100)
figure, axis = plt.subplots(figsize=(7, 2.8))
for spread in (0.02, 0.1, 0.3):
    curve = [float(contraction_factor(levels.plan(k, 1), spread)) for k in starts]
    axis.plot(starts, curve, label=f"s = {spread}")
axis.set(xlabel="K'", ylabel="C(K')", ylim=(0, None))
axis.legend(frameon=False)
# %% [markdown]
# ## What the bundled policy's guesses are like
#
# Its calibration holds, for decisions of closed-loop runs, the spread of its own samples and the error of the shifted chunk.
# The predicted remaining error falls with $K'$; the least $K'$ below the tolerance (a tenth of the policy's own spread) is taken.

# %%
choice = policy.sampler.choice
starts, _, remaining = zip(*choice.table, strict=True)
figure, axis = plt.subplots(figsize=(7, 2.8))
axis.semilogy(starts, remaining)
axis.axhline(choice.tolerance, linestyle="dotted")
axis.plot(choice.start, choice.remaining, "o")
axis.set(xlabel="K'", ylabel="remaining error", title=choice.explain())


# %% [markdown]
# ## Time
#
# The same observation over and over, one environment. The first decision of an episode is cold (ten evaluations); the others
# take one.


# %%
def milliseconds(sampler, decisions=100):
    seen, times = torch.zeros(1, 43), []
    for _ in range(decisions):
        start = time.perf_counter()
        sampler.decide(seen)
        times.append(1000 * (time.perf_counter() - start))
    return sorted(times)[decisions // 2]


torch.set_num_threads(1)
shape = policy.sampler.shape
cold = ChunkSampler(policy.denoiser, levels, shape, cold_evaluations=10)
warm = ChunkSampler(policy.denoiser, levels, shape, WarmStart(), policy.calibration)
{"DDIM-10": round(milliseconds(cold), 2), "warm": round(milliseconds(warm), 2)}

# %% [markdown]
# ## Does the robot still do its task?
#
# Two held-out episodes with the drawer, replanning at every step. The control, the old chunk held without denoising,
# fails. Run `fkdiff policy eval` for intervals and `fkdiff bench policy` for everything.

# %%
try:
    import metaworld  # noqa: F401
except ImportError:
    print("Meta-World isn't installed: pip install 'fkdiff[policy]'")
else:
    from fkdiff.policy.methods import make_method
    from fkdiff.policy.rollouts import Rollouts

    rollouts = Rollouts("drawer-open-v3", batch=2)
    for name in ("ddim10", "rti_auto", "hold"):
        method = make_method(name, policy.denoiser, levels, shape, policy.calibration)
        episodes = list(rollouts.run(method, [1000, 1001]))
        spent = sum(e.evaluations for e in episodes) / sum(e.decisions for e in episodes)
        print(f"{name:9s} success {sum(e.success for e in episodes)}/2, {spent:.1f} evaluations")

# %% [markdown]
# ## Your own policy
#
# Any denoiser and diffusers scheduler:
#
# ```python
# sampler = ChunkSampler(denoiser, Levels.of(scheduler), (horizon, action_size), WarmStart(start=20))
# decision = sampler.decide(observation, env_ids, executed=1)   # decision.actions
# sampler.reset([3])                                            # environment 3 begins anew
# ```
#
# A policy with LeRobot's method names: `WarmStartedPolicy(policy, WarmStart(start=20)).select_action(batch)`. Several chunks
# weighed by rewards of trajectories: `SteeredPolicy(sampler, Tilt(obstacle_distance(...), scale=20), particles=16)`.
#
