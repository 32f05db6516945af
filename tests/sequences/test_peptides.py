"""The bundled flow: what its card says, what it draws, and who judges it."""

import pytest
import torch

from fkdiff import StraightThrough, zoo
from fkdiff.sequences.fasta import read_fasta
from fkdiff.sequences.guides import load_guides
from fkdiff.sequences.pipeline import GumbelFlowPipeline

FOLDER = zoo.path("peptides")


@pytest.fixture(scope="module")
def pipe():
    made = GumbelFlowPipeline.from_pretrained(FOLDER, dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made


def test_it_is_small_and_documented(pipe):
    assert sum(p.numel() for p in pipe.denoiser.parameters()) < 1.5e6
    card = zoo.card("peptides")
    losses = card["quality"]["held-out loss per letter"]
    assert losses["trained"] < losses["without context"]
    assert "macrel" in card["data"]["judge"] and card["recipe"]


def test_guides_tell_known_peptides_apart(pipe):
    from fkdiff.sequences.designs import judged

    magainin, ubiquitin = "GIGKFLHSAKKFGKAFVGEIMNS", "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQD"
    values = judged(load_guides(FOLDER), [magainin, ubiquitin], pipe.alphabet)
    assert values["amp"][0] > 0 > values["amp"][1]
    assert values["hemolytic"][0] > values["hemolytic"][1]


def test_guidance_raises_what_it_guides_to(pipe):
    reward = load_guides(FOLDER)["amp"]

    def drawn(terms):
        generator = torch.Generator().manual_seed(0)
        out = pipe(24, 16, num_inference_steps=10, generator=generator, terms=terms,
                   particles=1, monitor=[reward], resample=None)  # fmt: skip
        return float(out.steering.rewards["amp"].mean())

    guided = drawn([StraightThrough(reward, 3.0, draws=4, reweight=False)])
    assert guided > drawn([]) + 1


def test_training_set_is_what_the_recipe_makes(pipe):
    pytest.importorskip("modlamp", reason="modlamp isn't installed: pip install '.[sequences]'")
    from fkdiff.sequences.peptides import peptides

    known = [p for p in peptides() if not p.held_out]
    shipped = read_fasta(FOLDER / "training.fasta", pipe.alphabet)
    assert [(r.sequence, r.label) for r in shipped] == [(p.sequence, p.label) for p in known]
    held = {p.sequence for p in peptides() if p.held_out}
    assert held and not held & {r.sequence for r in shipped}


def test_macrel_judges_known_peptides():
    pytest.importorskip("macrel", reason="macrel isn't installed: pip install '.[sequences]'")
    from fkdiff.bench.macrel_judge import macrel

    amp, hemolysis = macrel(["GIGKFLHSAKKFGKAFVGEIMNS", "DEDEGSGSDEDEGSNQDE"])
    assert amp[0] > 0.9 and hemolysis[0] > 0.8
    assert amp[1] < 0.5 and hemolysis[1] < 0.5
