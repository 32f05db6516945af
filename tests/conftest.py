"""One thread, no network, no chatter: set before any test imports a model library."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch  # noqa: E402  (the variables are read at import)

torch.set_num_threads(1)  # sums run in one order, and small matrices are faster
