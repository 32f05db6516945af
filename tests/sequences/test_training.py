"""Losses are least at the true posterior; training resumes to the same bits; guides learn."""

from dataclasses import replace

import pytest
import torch

from fkdiff.processes.simplex import GumbelPath, log_likelihood
from fkdiff.sequences.alphabet import Alphabet, one_hot, padded
from fkdiff.sequences.denoiser import SimplexDenoiser
from fkdiff.sequences.guide_training import accuracy, fit_guide
from fkdiff.sequences.guides import (
    ConvGuide,
    Hemolysis,
    check_alphabet,
    load_guides,
    save_guide,
)
from fkdiff.sequences.losses import flow_matching_loss, score_matching_loss
from fkdiff.sequences.training import Sequences, fit_flow
from fkdiff.zoo.loop import Fit
from tests.exact import assert_mean
from tests.sequences.toy import PATH, PRIOR, SEQUENCES, K, net

DNA = Alphabet.named("dna")
FIT = Fit(steps=8, lr=1e-3, warmup=2, ema=0.9)


def loss_slopes(loss, tilt=0.0, batches=300, size=64):
    """Slopes of a loss as the exact logits get a small push, one a batch, shape (batches, 3)."""
    generator = torch.Generator().manual_seed(0)
    slopes = []
    for _ in range(batches):
        chosen = torch.multinomial(PRIOR, size, True, generator=generator)
        tokens = torch.tensor(SEQUENCES)[chosen]
        push = torch.zeros(3, requires_grad=True)

        def pushed(z, alpha, sigma, mask, labels, push=push):
            return net(z, alpha, sigma) + push + tilt * torch.tensor([1.0, 0.0, -1.0])

        t = torch.rand(size, generator=generator)
        value = loss(pushed, PATH, tokens, t, torch.rand(size, 2, K, generator=generator))
        slopes.append(torch.autograd.grad(value, push)[0])
    return torch.stack(slopes)


@pytest.mark.parametrize("loss", [flow_matching_loss, score_matching_loss])
def test_loss_is_least_at_the_true_posterior(loss):
    assert_mean(loss_slopes(loss), torch.zeros(3))
    with pytest.raises(AssertionError):
        assert_mean(loss_slopes(loss, tilt=0.5), torch.zeros(3))


def tiny(**settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SimplexDenoiser("ACGT", 9, **{"width": 16, "layers": 1, "heads": 2, **settings})


def data():
    texts = ["ACGTACG", "ACGTACGTA", "TTTTT", "TTTTGT"] * 5
    labels = torch.tensor([0, 0, 1, 1] * 5)
    return Sequences([DNA.encode(t) for t in texts], labels, held_out=0.2)


def test_training_resumes_to_the_same_bits(tmp_path):
    nets = [tiny(classes=("a", "b"), dropout=0.2) for _ in range(3)]
    path = GumbelPath(4)
    fit_flow(nets[0], path, data(), FIT, tmp_path / "whole", batch=4)
    fit_flow(nets[1], path, data(), FIT, tmp_path / "parts", batch=4, until=3)
    fit_flow(nets[2], path, data(), FIT, tmp_path / "parts", batch=4, resume=True)
    for a, b in zip(nets[0].parameters(), nets[2].parameters(), strict=True):
        assert torch.equal(a, b)
    lines = (tmp_path / "whole" / "held_out.jsonl").read_text().splitlines()
    assert len(lines) == 9


def test_training_leaves_the_global_generator_alone(tmp_path):
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    fit_flow(tiny(dropout=0.2), GumbelPath(4), data(), replace(FIT, steps=2), tmp_path, batch=2)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("loss", ["flow", "score"])
def test_training_learns_what_goes_with_what(tmp_path, loss):
    net = tiny(classes=("a", "b"))
    fit = Fit(steps=150, lr=1e-2, warmup=10, ema=0.9)
    before = tiny(classes=("a", "b")).eval()
    fit_flow(net, GumbelPath(4), data(), fit, tmp_path, batch=32, loss=loss)
    rows, _ = data().batch(range(20))
    t = torch.full((20,), 0.3)
    uniform = torch.rand(20, 9, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        after, start = (
            float(flow_matching_loss(n, GumbelPath(4), rows, t, uniform)) for n in (net, before)
        )
    assert after < 0.6 * start


def test_an_untrained_network_gives_the_likelihood_alone():
    z = torch.randn(2, 5, 4)
    logits = tiny().eval()(z, 3.0, 1.0, mask=torch.ones(2, 5, dtype=torch.bool))
    assert torch.allclose(logits, log_likelihood(z, 3.0, 1.0).log_softmax(-1), atol=1e-5)


def test_padding_changes_nothing():
    net = tiny().eval()
    torch.nn.init.normal_(net.write.weight)
    z, mask = torch.randn(1, 9, 4), torch.arange(9)[None] < 5
    whole = net(z * mask[..., None], 2.0, 1.0, mask=mask)[:, :5]
    assert torch.allclose(whole, net(z[:, :5], 2.0, 1.0, mask=mask[:, :5]), atol=1e-5)


@pytest.mark.parametrize(
    "bad, words",
    [
        (lambda: tiny(width=10, heads=4), "multiple of heads"),
        (lambda: SimplexDenoiser("ACGT", 0), "max_length must be at least 1"),
        (lambda: tiny().class_numbers(["x"]), "trained without classes"),
        (lambda: tiny(classes=("a",)).class_numbers(["x"]), "class must be one of a"),
        (lambda: Sequences([], torch.zeros(0)), "at least one sequence"),
        (lambda: Sequences([torch.zeros(1)], torch.zeros(1), 0.9), "held_out must be in"),
        (lambda: fit_guide(ConvGuide("ACGT"), [], [], FIT, None), "at least one sequence each"),
    ],
)
def test_bad_settings_are_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        bad()


@pytest.mark.parametrize("counted", [True, False])
def test_counts_are_the_posterior_of_independent_letters(counted):
    generator = torch.Generator().manual_seed(0)
    shares = torch.randn(2, 4, generator=generator).softmax(-1)
    tokens = torch.multinomial(shares, 100_000, True, generator=generator).T
    flow, z = tiny(), torch.randn(50, 2, 4, generator=generator)
    if counted:
        flow.count(tokens)
    with torch.no_grad():
        p = flow(z, 1.0, 1.0, mask=torch.ones(50, 2, dtype=torch.bool)).softmax(-1)
    exact = (log_likelihood(z, 1.0, 1.0) + shares.log()).softmax(-1)
    assert torch.allclose(p, exact, atol=0.01) == counted


def test_padding_is_not_counted():
    flow = tiny()
    flow.count(torch.tensor([[0, -1], [0, -1], [0, 2]]))
    shares = flow.letters[:2].softmax(-1)
    assert shares[0].tolist() == pytest.approx([3.5 / 5, 0.1, 0.1, 0.1])
    assert shares[1].tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 2, 1 / 6])


def test_guides_learn_and_keep(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        guide = ConvGuide("ACGT", width=8)
    yes = [DNA.encode(t) for t in ("ACGTACG", "GGACGT", "TACGTT")]
    no = [DNA.encode(t) for t in ("TTTTTTA", "GGTTAA", "CCCAAA")]
    fit = Fit(steps=60, lr=1e-2, warmup=5, ema=0.9)
    fit_guide(guide, yes, no, fit, tmp_path / "training", batch=8)
    assert accuracy(guide, yes, no) == 1.0
    save_guide(guide, tmp_path / "guides" / "motif.safetensors", 0.5, 2.0)
    loaded = load_guides(tmp_path)["motif"]
    x = one_hot(padded(yes + no), 4)
    assert torch.allclose(loaded(x), guide(x), atol=0.05)
    assert (loaded.mean, loaded.sd, loaded.differentiable) == (0.5, 2.0, True)
    with pytest.raises(ValueError, match="must read the flow's letters ACGU"):
        check_alphabet(2 * loaded, Alphabet("ACGU"))
    check_alphabet(2 * loaded, DNA)


def test_hemolysis_ranks_known_peptides(tmp_path):
    protein = Alphabet.named("protein")
    texts = ["GIGAVLKVLTTGLPALISWIKRKRQQ", "DEDEGSGSDEDEGSNQDE"]  # melittin; acidic
    x = one_hot(padded([protein.encode(t) for t in texts]), 20)
    guide = Hemolysis()
    melittin, acidic = guide(x).tolist()
    assert melittin > acidic
    # A perfect helix of 18 residues with one hydrophobic side has the moment of its scale.
    h = torch.eye(20)[protein.encode("IIIIIIIIIIIIIIIIII")][None]
    assert float(guide.features(h)[0, 0]) < 1e-3  # 18 residues make whole turns
    with pytest.raises(ValueError, match="20 amino acids"):
        Hemolysis("ACGT")
