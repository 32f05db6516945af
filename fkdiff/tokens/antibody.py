"""AntiBERTy, a masked language model of antibodies that a package ships (extra `antibody`).

References:
    | Deciphering antibody affinity maturation with language models and weakly supervised learning
    | (Ruffolo et al., 2021), arXiv 2112.07782
"""

import importlib.util
import json
import os
from pathlib import Path

import torch

from fkdiff.tokens.pipeline import MaskedDiffusionPipeline

__all__ = ["antibody_pipeline", "installed"]

_WEIGHTS = Path("trained_models", "AntiBERTy_md_smooth")


def installed() -> Path | None:
    """Folder of the package with its weights, None where it isn't installed.

    Nothing of the package is imported: its code doesn't run with transformers of today.
    """
    spec = importlib.util.find_spec("antiberty")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / _WEIGHTS / "pytorch_model.bin").is_file():
            return Path(folder)
    return None


def antibody_pipeline(cache: str | Path | None = None) -> MaskedDiffusionPipeline:
    """The antibody model as a pipeline; converted to safetensors once, into `cache`.

    Arguments:
        cache: Folder for the converted model; None is `fkdiff/antiberty` in the user's cache.

    Raises:
        ModuleNotFoundError: If `antiberty==0.1.3` isn't installed.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(cache) if cache is not None else home / "fkdiff" / "antiberty"
    if not (folder / "model_index.json").is_file():
        package = installed()
        if package is None:
            raise ModuleNotFoundError(
                "the antibody model comes with antiberty==0.1.3 (later versions bring no "
                "weights); install it: pip install 'fkdiff[antibody]'"
            )
        _converted(package).save_pretrained(folder)
    pipe = MaskedDiffusionPipeline.from_pretrained(folder)
    pipe.model.eval()
    return pipe


def _converted(package: Path) -> MaskedDiffusionPipeline:
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    told = json.loads((package / _WEIGHTS / "config.json").read_text(encoding="utf-8"))
    known = BertConfig().to_dict()
    told = {k: v for k, v in told.items() if k in known and k not in ("_name_or_path", "dtype")}
    model = BertForMaskedLM(BertConfig(**{**told, "architectures": None}))
    # Tensors alone are read: a file that holds code is refused by torch.
    file = package / _WEIGHTS / "pytorch_model.bin"
    weights = torch.load(file, weights_only=True, map_location="cpu")
    missing = model.load_state_dict(weights, strict=False).missing_keys
    if missing:
        raise ValueError(f"weights of {file.name} must fill the model, missing {missing[:3]}")
    vocabulary = str(package / "trained_models" / "vocab.txt")
    return MaskedDiffusionPipeline(
        model.eval(), BertTokenizer(vocabulary, do_lower_case=False, model_max_length=512)
    )
