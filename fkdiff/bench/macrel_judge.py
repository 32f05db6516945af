"""The independent judge of peptides: macrel's two forests, never a reward."""

import gzip
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np

__all__ = ["macrel"]


def macrel(sequences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of being antimicrobial and hemolytic, by macrel's own models and features.

    Arguments:
        sequences: Peptides of the 20 amino acids; a first M is left out, as macrel does.

    Returns:
        Two arrays of shape (n,).

    Raises:
        ModuleNotFoundError: If macrel isn't installed (`pip install "fkdiff[sequences]"`).

    References:
        | Macrel: antimicrobial peptide screening in genomes and metagenomes
        | (Santos-Junior et al., 2020), doi 10.7717/peerj.10555
    """
    import onnxruntime
    from macrel.macrel_features import compute_all, normalize_seq

    rows = np.array([compute_all(normalize_seq(s)) for s in sequences], dtype=np.float32)
    found = []
    for name in ("AMP", "Hemo"):
        packed = (files("macrel") / "data" / "models" / f"{name}.onnx.gz").read_bytes()
        session = onnxruntime.InferenceSession(
            gzip.decompress(packed), providers=["CPUExecutionProvider"]
        )
        chances: Any = session.run(["output_probability"], {"input_features": rows})[0]
        found.append(np.array([row[name] for row in chances]))
    return found[0], found[1]
