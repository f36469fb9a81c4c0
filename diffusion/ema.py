"""The average of the weights over training, which draws better samples than the weights themselves.

`EMA` forgets at a fixed rate,

    θ̄ ← d_k θ̄ + (1 − d_k) θ,    d_k = min(decay, (1 + k)/(10 + k)) at the k-th update,

where the warm-up (second term) keeps the average's memory to about a tenth of the run so far, so that a short run is
not ruined by its first, random weights.

`PowerEMA` forgets at a rate that falls as the run grows (Karras et al. 2023, https://arxiv.org/abs/2312.02696,
section 3.1),

    θ̄ ← β_k θ̄ + (1 − β_k) θ,    β_k = (1 − 1/k)^(γ+1),

so that after t updates the weights of time τ count in proportion to p(τ) = (γ+1) τ^γ / t^(γ+1), a profile that
stretches with the run. Its width is the standard deviation of τ as a share of t. Several widths are tracked side by
side, and `post_hoc` blends them into any width between: it is chosen after training.
"""

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn

WIDEST = 1 / math.sqrt(12)  # of the plain mean of all weights, γ = 0


class EMA:
    """An averaged copy of a network.

    Args:
        network: the network that is trained; the average starts equal to it.
        decay: in [0, 1); 0 switches averaging off (the copy follows the network exactly).
        warmup: let the average follow faster at first: the decay is at most (1 + k)/(10 + k) after k updates.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must lie in [0, 1), for example 0.999; 0 switches averaging off")
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    def update(self, network: nn.Module) -> None:
        """One update, after each optimizer step. Buffers are copied, not averaged."""
        self.updates += 1
        k = self.updates
        decay = min(self.decay, (1 + k) / (10 + k)) if self.warmup else self.decay
        _move(self.network, network, 1 - decay)

    def state_dict(self) -> dict:
        """Weights and number of updates."""
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]


class PowerEMA:
    """Averaged copies of a network, one for each of several widths of the power-function profile.

    Args:
        network: the network that is trained; the first update replaces the averages by its weights.
        widths: those that are tracked for `post_hoc`, each a copy of the weights; None is [0.025, 0.05, 0.1, 0.2].
        width: of the run's own average, `self.network`, tracked too. The paper's σ_rel, in (0, 12^-½ ≈ 0.289).
    """

    def __init__(self, network: nn.Module, widths: list[float] | None = None, width: float = 0.1) -> None:
        widths = [0.025, 0.05, 0.1, 0.2] if widths is None else widths
        if not 0 < width < WIDEST:
            raise ValueError(f"width={width} must lie between 0 and {WIDEST:.3f}, for example 0.1")
        if not all(0 < each < WIDEST for each in widths):
            raise ValueError(f"widths={widths} must all lie between 0 and {WIDEST:.3f}, for example [0.05, 0.1, 0.2]")
        self.updates = 0
        self.averages = {each: copy.deepcopy(network).eval().requires_grad_(False) for each in sorted({*widths, width})}
        self.network = self.averages[width]

    def update(self, network: nn.Module) -> None:
        """One update, after each optimizer step. Buffers are copied, not averaged."""
        self.updates += 1
        for width, average in self.averages.items():
            _move(average, network, 1 - (1 - 1 / self.updates) ** (gamma(width) + 1))

    def state_dict(self) -> dict:
        """Weights of the run's own width, number of updates, and width → parameters for each tracked width."""
        averages = {
            width: {name: value.data for name, value in average.named_parameters(remove_duplicate=False)}
            for width, average in self.averages.items()
        }
        return {"network": self.network.state_dict(), "updates": self.updates, "averages": averages}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        for width, average in self.averages.items():
            average.load_state_dict({**state["network"], **state["averages"][width]})
        self.updates = state["updates"]


@torch.no_grad()
def _move(average: nn.Module, network: nn.Module, share: float) -> None:
    """Move an average by a share of the way to the network; copy the buffers."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), share)
    for mine, current in zip(average.buffers(), network.buffers(), strict=True):
        mine.copy_(current)


def gamma(width: float) -> float:
    """The γ ≥ 0 of the profile that has this width: width² = (γ+1) / ((γ+2)² (γ+3)) (appendix C of the paper)."""
    # With s = γ + 2 that is s³ + s² − s/width² + 1/width² = 0, of whose real roots only the largest is ≥ 2.
    return float(np.roots([1, 1, -(width**-2), width**-2]).real.max()) - 2


def post_hoc(state: dict, width: float) -> dict[str, Tensor]:
    """The average of any width between the tracked ones, out of these alone.

    The weights of time τ are the last ones less all later steps dθ, so an average is θ(t) − ∫ P(s) dθ(s) with
    P(s) = (s/t)^(γ+1), the share of its profile before s. A blend Σ x_i θ̄_i with Σ x_i = 1 differs from it by
    ∫ (P − Σ x_i P_i) dθ, and the x_i make the integral of that bracket's square least.

    The paper (appendix C) fits p by p_i and leaves Σ x_i free, which is fine for its many snapshots. With a few
    averages Σ x_i then misses 1 by a percent or two, and all weights shrink by as much.

    Args:
        state: what `PowerEMA.state_dict` returned, `state["ema"]` of a checkpoint; `EMA`'s raises ValueError.
        width: from the narrowest tracked width to the widest; any other raises ValueError.

    Returns:
        A state dict of the network; its buffers are those of the run's own average.
    """
    if "averages" not in state:
        raise ValueError(f"width={width}: only a run trained with ema=power can be given another width afterwards")
    averages = state["averages"]
    if not min(averages) <= width <= max(averages):
        raise ValueError(f"width={width} must lie in the tracked range, from {min(averages)} to {max(averages)}")
    gammas = np.array([gamma(each) for each in averages])
    # ∫ P_i P_j ds = t / (γ_i + γ_j + 3); the last row and column are Σ x_i = 1 and its Lagrange multiplier.
    matrix = np.pad(1 / (gammas[:, None] + gammas + 3), (0, 1), constant_values=1)
    matrix[-1, -1] = 0
    target = np.append(1 / (gammas + gamma(width) + 3), 1)
    x = torch.from_numpy(np.linalg.lstsq(matrix, target, rcond=1e-12)[0][:-1])  # many widths are nearly dependent
    blend = {
        name: (torch.stack([average[name] for average in averages.values()], dim=-1).to(x) @ x).to(own)
        for name, own in averages[min(averages)].items()
    }
    return {**state["network"], **blend}
