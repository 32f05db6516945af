"""Attention with a known answer: two objects, one of which the words mean."""

import pytest
import torch

from fkdiff.rgba import attention_flow, attention_prior


def blocks() -> torch.Tensor:
    """Self-attention of cells 0..3 and 4..15, each group looking evenly at itself."""
    own = torch.zeros(16, 16)
    own[:4, :4], own[4:, 4:] = 1 / 4, 1 / 12
    return own


def test_flow_is_the_closed_form_of_two_blocks():
    seen = torch.zeros(16)
    seen[:4], seen[4] = torch.tensor([1.0, 0.8, 0.6, 0.4]), 0.5  # the last one by mistake
    flow = attention_flow(seen.reshape(4, 4), blocks()).flatten()
    # Spread: 2.8 / 4 a cell in the first block and 0.5 / 12 in the second, over 3.3 in all.
    expected = torch.zeros(16)
    expected[:4], expected[4] = seen[:4], (0.5 / 12) / (2.8 / 4) * 0.5
    assert torch.allclose(flow, expected, atol=1e-6)
    assert flow[4] < 0.1 * seen[4]  # the cell that looks elsewhere loses its weight


def test_prior_adds_the_cross_attention():
    seen = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    prior = attention_prior(seen, torch.full((16, 16), 1 / 16))
    unit = (seen - seen.min()) / (seen.max() - seen.min())
    assert torch.allclose(prior, unit, atol=1e-6)  # self-attention that tells nothing
    assert torch.allclose(attention_prior(seen), unit)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"own must be \(16, 16\)"):
        attention_flow(torch.ones(4, 4), torch.eye(9))
