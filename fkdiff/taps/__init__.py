"""Interceptions of a diffusers pipeline: scheduler step, denoiser call, decode.

Nothing is patched globally: one pipeline's own objects are swapped for one-off subclasses while a
run lasts, and put back on exit, on error and on interrupt.
"""

from fkdiff.taps.pipeline import PipelineTap, TapError

__all__ = ["PipelineTap", "TapError"]
