# %% [markdown]
# # Tokens: masked models steered, and corrected
#
# A masked diffusion model uncovers tokens, given the posterior of each masked position. Particles of such chains carry weights
# like all others: `Tilt` states the law of the chain, tilted; `DiscreteCorrect` reaches powers and products of models.
# The model here has three letters and length four, so that all 81 outcomes can be enumerated.

# %%
import torch
from matplotlib import pyplot as plt

from fkdiff import (
    Anneal,
    DiscreteCorrect,
    MaskedPath,
    Product,
    Resample,
    Tilt,
    as_reward,
    sample_tokens,
)
from fkdiff.bench.token_laws import TokenLaw

torch.set_num_threads(1)
law, other = TokenLaw(1), TokenLaw(2)
template = torch.full((1, 4), -1)  # -1 marks what is to be drawn
always = Resample(window=(0, 1))


def distance(result, target):
    found = law.histogram(result.latents[0], result.weights[0])
    return float((found - target / target.sum()).abs().sum() / 2)


# %% [markdown]
# ## Tilted by a reward on tokens
#
# On the way the reward reads draws of the clean tokens. One evaluation of the network gives any number of them (`draws`), equal
# draws are scored once, and so are states that several particles share.

# %%
twos = as_reward(lambda tokens: (tokens == 2).sum(1), name="twos", inputs="tokens")
result = sample_tokens(
    law.denoiser,
    MaskedPath(16, mask=3),
    Tilt(twos, 1.0, draws=8),
    template=template,
    particles=2000,
    resample=always,
    seed=0,
)
target = law.mass * twos(law.outcomes).double().exp()
print(result.target)
print(f"total variation {distance(result, target):.3f}, untilted {distance(result, law.mass):.3f}")
print(f"log Z {float(result.log_z):.3f}, enumerated {float(target.sum().log()):.3f}")
print(result.cost.denoiser_evaluations, "evaluations,", result.cost.reward_calls, "reward calls")
assert distance(result, target) < 0.12

# %% [markdown]
# ## Powers and products
#
# Without weights a pool samples some other law. The corrector's weights hold for any rate scale c(t), but the published one makes
# heavy tails; the default takes it from a small pilot run. Neither needs many steps: the weights are those of finite steps.

# %%
cases = {
    "annealed, 2": ((Anneal(2.0),), law.mass**2),
    "product": ((Product(other.denoiser),), law.mass * other.mass),
}
kinds = {
    "no weights": (),
    "published c": (DiscreteCorrect("published"),),
    "pilot c": (DiscreteCorrect(),),
}
table = {}
for case, (terms, target) in cases.items():
    for kind, corrector in kinds.items():
        found = [
            sample_tokens(
                law.denoiser,
                MaskedPath(20, mask=3),
                *terms,
                *corrector,
                template=template,
                particles=1500,
                resample=always,
                seed=seed,
            )
            for seed in range(3)
        ]
        table[case, kind] = sum(distance(result, target) for result in found) / 3

figure, axis = plt.subplots(figsize=(6, 2.6))
for i, kind in enumerate(kinds):
    heights = [table[case, kind] for case in cases]
    axis.bar([j + 0.25 * (i - 1) for j in range(len(cases))], heights, 0.22, label=kind)
axis.set_xticks(range(len(cases)), list(cases))
axis.set_ylabel("total variation")
axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
for case in cases:
    assert table[case, "pilot c"] < min(table[case, "published c"], table[case, "no weights"])

# %% [markdown]
# ## A real masked language model
#
# AntiBERTy, a model of antibodies (extra `antibody`), draws a loop between given frameworks; the reward counts its aromatic rings. Masked language models
# aren't trained as diffusion models; the law that `Tilt` states is that of the chain that is run, so it holds all the same.

# %%
from fkdiff.tokens import antibody_pipeline
from fkdiff.tokens.antibody import installed

if installed() is None:
    print("antiberty==0.1.3 isn't installed: pip install 'fkdiff[antibody]'")
else:
    pipe = antibody_pipeline()
    pipe.set_progress_bar_config(disable=True)
    prompt = "EVQLVESGGGLVQPGGSLRLSCAAS" + "[MASK]" * 10 + "WVRQAPGKGLEWVS"
    call = {"prompt": prompt, "num_inference_steps": 5}
    plain = pipe(3, **call, generator=torch.Generator().manual_seed(0))
    rings = as_reward(
        lambda texts: [sum(text[25:35].count(c) for c in "YFW") for text in texts],
        name="rings",
        inputs="text",
    )
    tilt = Tilt(rings, 2.0, draws=16)
    steered = pipe(
        3,
        **call,
        terms=[tilt],
        particles=8,
        resample=always,
        generator=torch.Generator().manual_seed(0),
    )
    print("plain  ", *[text[25:35] for text in plain.sequences])
    print("steered", *[text[25:35] for text in steered.sequences])
