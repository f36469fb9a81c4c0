"""The exponential moving average of the weights, which draws better samples than the weights themselves.

    θ̄ ← d_k θ̄ + (1 − d_k) θ,    d_k = min(decay, (1 + k)/(10 + k)) at the k-th update

The warm-up (second term) keeps the average's memory to about a tenth of the run so far, so that a short run is not
ruined by its first, random weights.
"""

import copy

import torch
from torch import nn


class EMA:
    """An averaged copy of a network.

    Args:
        network: the network that is trained; the average starts equal to it.
        decay: in [0, 1); 0 switches averaging off (the copy follows the network exactly).
        warmup: use d_k above; else the decay is constant.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must lie in [0, 1), for example 0.999; 0 switches averaging off")
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """One update, after each optimizer step. Buffers are copied, not averaged."""
        self.updates += 1
        k = self.updates
        decay = min(self.decay, (1 + k) / (10 + k)) if self.warmup else self.decay
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - decay)
        for mine, current in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(current)

    def state_dict(self) -> dict:
        """Weights and number of updates."""
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]
