"""Text from masked language models, for `custom_pipeline` import.

.. code-block:: python

    pipe = DiffusionPipeline.from_pretrained(
        "runs/masked", custom_pipeline="pipelines/masked_diffusion.py", trust_remote_code=True
    )
    pipe(num_sequences=8, length=20).sequences
"""

from fkdiff.tokens import MaskedDiffusionPipeline

__all__ = ["MaskedDiffusionPipeline"]
