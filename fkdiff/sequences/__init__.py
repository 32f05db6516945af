"""Sequences on the simplex: Gumbel-softmax flows, training, guidance, design.

Names are loaded when they are first used: the command line lists them without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkdiff.sequences.alphabet import Alphabet, one_hot, padded
    from fkdiff.sequences.denoiser import SimplexDenoiser
    from fkdiff.sequences.fasta import FastaError, read_fasta
    from fkdiff.sequences.guidance import StraightThrough, straight_through
    from fkdiff.sequences.guides import ConvGuide, DescriptorGuide, Hemolysis, load_guides
    from fkdiff.sequences.losses import flow_matching_loss, score_matching_loss
    from fkdiff.sequences.motifs import Motif, read_jaspar
    from fkdiff.sequences.pipeline import GumbelFlowPipeline
    from fkdiff.sequences.sampling import sample_sequences, sequences_of
    from fkdiff.sequences.scheduler import GumbelFlowScheduler
    from fkdiff.sequences.tables import read_sequences

_HOMES = {
    "Alphabet": "alphabet",
    "ConvGuide": "guides",
    "FastaError": "fasta",
    "GumbelFlowPipeline": "pipeline",
    "GumbelFlowScheduler": "scheduler",
    "DescriptorGuide": "guides",
    "Hemolysis": "guides",
    "Motif": "motifs",
    "SimplexDenoiser": "denoiser",
    "StraightThrough": "guidance",
    "flow_matching_loss": "losses",
    "load_guides": "guides",
    "one_hot": "alphabet",
    "padded": "alphabet",
    "read_fasta": "fasta",
    "read_sequences": "tables",
    "read_jaspar": "motifs",
    "sample_sequences": "sampling",
    "score_matching_loss": "losses",
    "sequences_of": "sampling",
    "straight_through": "guidance",
}

__all__ = [
    "Alphabet",
    "ConvGuide",
    "FastaError",
    "GumbelFlowPipeline",
    "GumbelFlowScheduler",
    "DescriptorGuide",
    "Hemolysis",
    "Motif",
    "SimplexDenoiser",
    "StraightThrough",
    "flow_matching_loss",
    "load_guides",
    "one_hot",
    "padded",
    "read_fasta",
    "read_sequences",
    "read_jaspar",
    "sample_sequences",
    "score_matching_loss",
    "sequences_of",
    "straight_through",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"fkdiff.sequences.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fkdiff.sequences' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
