"""Attention and normalisation beside those of PyTorch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diffusion.networks.layers import GroupNorm, attend


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_attention_and_norm_are_those_of_torch_in_every_precision(dtype, generator):
    q, k, v = torch.randn(3, 2, 4, 9, 8, generator=generator).to(dtype)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    tolerance = {torch.bfloat16: 0.02, torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    found = attend(q, k, v)
    assert found.dtype == dtype and torch.allclose(found.double(), exact, atol=tolerance)
    x = torch.randn(2, 8, 5, 5, generator=generator)
    mine, theirs = GroupNorm(4, 8), nn.GroupNorm(4, 8)
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert torch.allclose(mine(x.to(torch.bfloat16)).float(), theirs(x), atol=0.03)
    assert torch.equal(mine.double()(x.double()), theirs.double()(x.double()))
