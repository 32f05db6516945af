"""Gumbel-softmax flows on sequences, for `custom_pipeline` import.

.. code-block:: python

    pipe = DiffusionPipeline.from_pretrained(
        "runs/flow", custom_pipeline="pipelines/gumbel_flow.py", trust_remote_code=True
    )
    pipe(num_sequences=8, length=20).sequences
"""

from fkdiff.sequences import GumbelFlowPipeline

__all__ = ["GumbelFlowPipeline"]
