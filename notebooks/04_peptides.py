# %% [markdown]
# # Peptides: several properties at once, with a stated target
#
# A flow on the simplex draws peptides. Straight-through guidance leans on classifiers of clean sequences while the flow is
# still noisy; the particles carry its proposal ratio, so that together with `Tilt` the weighted cloud stands for
#
# $$p^*(x) \propto p(x)\, e^{\lambda r(x)}.$$

# %%
import torch
from matplotlib import pyplot as plt

from fkdiff import GumbelFlowPipeline, StraightThrough, Tilt, zoo
from fkdiff.sequences import Alphabet, Motif, load_guides
from fkdiff.sequences.designs import Designs, judged
from fkdiff.sequences.fasta import read_fasta

torch.set_num_threads(1)
folder = zoo.path("peptides")
pipe = GumbelFlowPipeline.from_pretrained(folder, dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
guides = load_guides(folder)
print(zoo.card("peptides")["about"])

# %% [markdown]
# ## The law of the flow
#
# Without terms, the stock call. Half of the training set is antimicrobial, so the base rate leaves room.

# %%
call = {"num_sequences": 24, "length": 20, "num_inference_steps": 16}


def draw(terms, particles):
    generator = torch.Generator().manual_seed(0)
    return pipe(**call, generator=generator, terms=terms, particles=particles, select="sample")


plain = draw([], 1)
plain.sequences[:3]

# %% [markdown]
# ## Guided, tilted, both
#
# `amp` and `hemolytic` are log-odds. The wish is a formula over both. Guidance alone has no stated target; the other two
# have the same one.

# %%
wish = guides["amp"] - guides["hemolytic"]
guided = draw([StraightThrough(wish, 2, draws=4, reweight=False)], 1)
tilted = draw([Tilt(wish, 2)], 6)
both = draw([StraightThrough(wish, 2, draws=4), Tilt(wish, 2)], 6)
runs = {"plain": plain, "guided": guided, "tilted": tilted, "both": both}
for name, out in runs.items():
    print(f"{name:8s}{out.steering.target}")

# %%
known = [r.sequence for r in read_fasta(folder / "training.fasta", pipe.alphabet)]
sets = {
    name: Designs(out.sequences, judged(guides, out.sequences, pipe.alphabet), known)
    for name, out in runs.items()
}
figure, axes = plt.subplots(1, 2, figsize=(9, 2.6))
for axis, name in zip(axes, guides, strict=True):
    axis.boxplot([s.properties[name] for s in sets.values()], tick_labels=list(sets))
    axis.set_title(name)
{name: {k: s.summary()[k] for k in ("diversity", "novelty")} for name, s in sets.items()}

# %% [markdown]
# How far was guidance alone from the law that the weights restore? The mean of minus the log-weight over single guided
# particles is the divergence of guided from unguided paths, in nats.

# %%
alone = draw([StraightThrough(wish, 2, draws=4)], 1).steering
print(f"{-alone.log_w.mean():.1f} nats a path")
print(f"effective sample size of both: {both.steering.ess.mean():.1f} of 6")
assert float(alone.log_w.mean()) < 0

# %% [markdown]
# ## DNA with a motif of your own
#
# A count matrix in JASPAR's text format (`read_jaspar(file)`) is a differentiable reward. Here the flow is the plainest
# there is, uniform letters in closed form, so that the motif does all the work.

# %%
from fkdiff.processes.simplex import GumbelPath, log_likelihood
from fkdiff.sequences import sample_sequences, sequences_of

# T A T A A A: counts of A, C, G, T at each of six places.
counts = torch.tensor(
    [[1, 1, 1, 97], [97, 1, 1, 1], [1, 1, 1, 97], [97, 1, 1, 1]] + [[90, 2, 2, 6]] * 2
)
tata = Motif("tata", counts.float())


def uniform(z, alpha, sigma, mask, labels):
    return log_likelihood(z, alpha, sigma)


dna = Alphabet.named("dna")
terms = (StraightThrough(tata, 1.0), Tilt(tata, 1.0))
result = sample_sequences(
    uniform,
    GumbelPath(4),
    *terms,
    lengths=[16] * 8,
    particles=8,
    steps=30,
    seed=0,
    select="sample",
)
found = [
    cloud[s] for cloud, s in zip(sequences_of(result, dna), result.selected[:, 0], strict=True)
]
print(*found, sep="\n")
assert sum("TATA" in sequence for sequence in found) >= 4

# %% [markdown]
# The tilt by a log-likelihood ratio at scale 1 is Bayes' rule: the target is the law of sequences with one site somewhere,
# whose normaliser is exactly 1.

# %%
print(f"mean of exp(log Z) over the clouds: {result.log_z.exp().mean():.2f}, exactly 1")
