"""Muon: momentum whose matrices are made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

    M ← μ M + G,    W ← W − lr · 0.2 √max(rows, columns) · O(G + μ M)

G is the gradient of a weight matrix, G + μ M Nesterov's momentum, and O(A) = U Vᵀ of the singular value decomposition
A = U S Vᵀ is the orthogonal matrix nearest to A: every direction is learned at the same speed, also one whose gradients
are small. The factor gives an update the size of Adam's (root mean square 0.2: Liu et al. 2025,
https://arxiv.org/abs/2502.16982, section 2.2), so one learning rate serves both. A convolution's kernel counts as the
matrix outputs × (inputs · height · width); biases and norms, which are no matrices, are left to Adam. Jordan et al.
leave it the first and last layers, too; here they are matrices like the others.

O is found without a decomposition, by five Newton–Schulz steps: an odd polynomial that drives all singular values to
about 1.

    X ← P(X Xᵀ) X    with    P(G) = a + b G + c G²

Of a wide matrix only the small square G = X Xᵀ need go through the five steps, as G ← P G P, while the product of the
Ps is kept for X: a third of the arithmetic for a 3×3 kernel. Rounding must then be that of fp32, since G holds the
squares.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Of the polynomial; steep at 0 and within about ±0.3 of 1 after five steps (Jordan et al. 2024).
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """About U Vᵀ of each matrix U S Vᵀ: singular values between 0.65 and 1.25 where S is not tiny.

    Args:
        matrices: (K, rows, columns).
        steps: Newton–Schulz steps.

    Returns:
        (K, rows, columns); under autocast bf16 or fp32.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # the smaller side decides the cost
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if x.shape[2] >= 2 * x.shape[1] and x.device.type == "cpu":  # elsewhere fp32 may mean TF32
        with torch.autocast("cpu", enabled=False):
            x = _product_of_polynomials(x @ x.mT, steps) @ x
    else:
        for _ in range(steps):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.mT if tall else x


def _product_of_polynomials(gram: Tensor, steps: int) -> Tensor:
    """The product of the P(G) of all steps, from G = X Xᵀ (K, rows, rows) alone."""
    product = None
    for step in range(steps):
        polynomial = torch.baddbmm(gram, gram, gram, beta=B, alpha=C)
        polynomial.diagonal(dim1=1, dim2=2).add_(A)
        product = polynomial if product is None else polynomial @ product
        if step < steps - 1:
            gram = polynomial @ gram @ polynomial
    assert product is not None
    return product


class Muon(torch.optim.Optimizer):
    """Muon for all parameters with two axes or more, Adam for the others.

    Args:
        params: the parameters.
        lr: learning rate of both.
        momentum: μ.
        betas: of Adam.
        weight_decay: of the matrices; each step shrinks them by lr · weight_decay.
        steps: Newton–Schulz steps.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 4e-3,
        momentum: float = 0.95,
        betas: list[float] | None = None,
        weight_decay: float = 0.0,
        steps: int = 5,
    ) -> None:
        if lr <= 0:
            raise ValueError(f"lr={lr} must be positive")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} must lie in [0, 1)")
        betas = [0.9, 0.99] if betas is None else betas
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas} must be two numbers in [0, 1)")
        if weight_decay < 0 or steps < 1:
            raise ValueError(f"weight_decay={weight_decay} must be 0 or more, and steps={steps} at least 1")
        found = list(params)
        matrices, vectors = [p for p in found if p.ndim >= 2], [p for p in found if p.ndim < 2]
        groups = [{"params": part, "matrices": part is matrices} for part in (matrices, vectors) if part]
        super().__init__(
            groups, {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay, "steps": steps}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                (self._muon if group["matrices"] else self._adam)(parameters, group)
        return loss

    def _state(self, parameters: list[Tensor], *names: str) -> list[list[Tensor]]:
        """The running averages of these names, one list of tensors each; zero at first."""
        for p in parameters:
            for name in names:
                if name not in self.state[p]:
                    self.state[p][name] = torch.zeros_like(p)
        return [[self.state[p][name] for p in parameters] for name in names]

    def _muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """A step of the matrices."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        (momenta,) = self._state(parameters, "momentum")
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients)
        ahead = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)  # one product for all of one shape
        for p, update in zip(parameters, ahead, strict=True):
            alike[update.flatten(1).shape].append((p, update))
        for shape, members in alike.items():
            stacked = torch.stack([update.flatten(1) for _, update in members])
            scale = 0.2 * max(shape) ** 0.5
            for (p, _), update in zip(members, orthogonalise(stacked, group["steps"]), strict=True):
                p.add_(update.view(p.shape), alpha=-group["lr"] * scale)

    def _adam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """A step of the biases and norms (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980)."""
        first, second = self._state(parameters, "exp_avg", "exp_avg_sq")
        steps = group["step"] = group.get("step", 0) + 1
        beta_1, beta_2 = group["betas"]
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_lerp_(first, gradients, 1 - beta_1)
        torch._foreach_mul_(second, beta_2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta_2)
        root = torch._foreach_sqrt(second)
        torch._foreach_div_(root, (1 - beta_2**steps) ** 0.5)
        torch._foreach_add_(root, 1e-8)
        torch._foreach_addcdiv_(parameters, first, root, -group["lr"] / (1 - beta_1**steps))
