"""Where a reward's weights come from: files and the Hub; one clear line where they don't."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from fkdiff.terms.reward_function import RewardError

__all__ = [
    "absence",
    "from_hub",
    "loading",
    "locate",
    "pretrained",
    "read_tensors",
    "refuse_pickle",
]

_HUB = "hf-hub:"
_LATER = "not here yet; fetched at first use"
_FAILURES = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    ImportError,
    SafetensorError,
    UnpicklingError,
)
_CONVERT = (
    "import torch, safetensors.torch as s; "
    "s.save_file(torch.load('old.pth', weights_only=True), 'new.safetensors')"
)


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Turns what a stock loader of `what` raises into a RewardError: one line with the remedy.

    Example:
        >>> with loading("the weights of nowhere/none"):
        ...     raise OSError("not cached")
        Traceback (most recent call last):
        fkdiff.terms.reward_function.RewardError: the weights of nowhere/none can't be loaded \
(not cached); check the network and the name, or name a local copy
    """
    try:
        yield
    except (torch.OutOfMemoryError, RewardError):
        raise
    except _FAILURES as error:
        lines = str(error).split(". ")[0].splitlines() or [type(error).__name__]
        raise RewardError(
            f"{what} can't be loaded ({lines[0]}); check the network and the name, or name a "
            "local copy"
        ) from error


def pretrained(kind: Any, model: str, **settings: Any) -> Any:
    """Loads what a class of transformers makes of a Hub id or folder, or raises RewardError."""
    with loading(model):
        return kind.from_pretrained(model, **settings)


def locate(source: str) -> Path:
    """Finds the file of `source`, a path or "hf-hub:owner/name/file", fetched if it lies there.

    Raises:
        RewardError: If there is no such file, or it can't be fetched.
    """
    if not source.startswith(_HUB):
        path = Path(source).expanduser()
        if not path.is_file():
            raise RewardError(
                f"there is no file '{source}'; a file of the Hub is {_HUB}owner/name/file"
            )
        return path
    from huggingface_hub import hf_hub_download

    repository, file = _hub_parts(source)
    if not file:
        raise RewardError(f"'{source}' names no file; write {_HUB}owner/name/file")
    with loading(source):
        return Path(hf_hub_download(repository, file))


def refuse_pickle(source: str, published: str = "") -> None:
    """Raises RewardError unless `source` names a safetensors file, or the authors' only file.

    Example:
        >>> refuse_pickle("head.safetensors")
    """
    if source != published and not source.endswith(".safetensors"):
        raise RewardError(
            f"weights must be a safetensors file, got '{source}'; convert it once: "
            f'python -c "{_CONVERT}"'
        )


def read_tensors(source: str, published: str = "") -> dict[str, Tensor]:
    """Reads a weight file, as in `locate`: tensors by name, float32, on the CPU.

    Of pickles only `published` is read, by torch's reader of tensors alone.

    Raises:
        RewardError: If the file is missing, unreadable, or another pickle.
    """
    refuse_pickle(source, published)
    path = locate(source)
    with loading(source):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.float() for name, tensor in tensors.items()}


def absence(source: str) -> str | None:
    """Why `source`, of those in `Composable.weights`, can't be loaded offline; None if it can.

    Example:
        >>> absence("zoo:emoji-clip")
        >>> absence("no/such/file.safetensors")
        'there is no file file.safetensors'
    """
    if source.startswith("zoo:"):
        return None
    if source.startswith(("https:", "torchvision:")):
        return _LATER
    if not source.startswith(_HUB):
        path = Path(source).expanduser()
        return None if path.exists() else f"there is no file {path.name}"
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, file = _hub_parts(source)
    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError:
        return _LATER
    return None if (folder / file).exists() else _LATER


def from_hub(model: str) -> str:
    """How `absence` calls what `from_pretrained` calls `model`: a folder as it is, or a Hub id.

    Example:
        >>> from_hub("owner/name")
        'hf-hub:owner/name'
    """
    return model if Path(model).expanduser().is_dir() else f"{_HUB}{model}"


def _hub_parts(source: str) -> tuple[str, str]:
    owner, _, rest = source.removeprefix(_HUB).partition("/")
    name, _, file = rest.partition("/")
    return f"{owner}/{name}".rstrip("/"), file  # the Hub's oldest models have no owner
