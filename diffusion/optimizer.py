"""Muon: momentum whose matrices are made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

    M ← μ M + G,    W ← W − lr · 0.2 √max(rows, columns) · O(G + μ M)

G is the gradient of a weight matrix, G + μ M Nesterov's momentum, and O(A) = U Vᵀ of the singular value decomposition
A = U S Vᵀ is the orthogonal matrix nearest to A: every direction is learned at the same speed, also one whose gradients
are small. The factor gives an update the size of Adam's (root mean square 0.2: Liu et al. 2025,
https://arxiv.org/abs/2502.16982, section 2.2), so one learning rate serves both. A convolution's kernel counts as the
matrix outputs × (inputs · height · width); biases and norms, which are no matrices, are left to Adam. Jordan et al.
leave it the first and last layers, too; here they are matrices like the others.

O is found without a decomposition, by a few Newton–Schulz steps: odd polynomials that drive all singular values to
about 1.

    X ← P(X Xᵀ) X    with    P(G) = a + b G + c G²

Five steps take one polynomial for all (Jordan et al. 2024) and begin with X = A/‖A‖. Two to four take for each the best
one for what the step before leaves (Amsel et al. 2025, https://arxiv.org/abs/2505.16932) and begin nearer to 1, with
X = A/√‖A Aᵀ‖, so that four reach singular values as small as those five.

Of a wide matrix only the small square G = X Xᵀ need go through the steps, as G ← P G P, while the product of the Ps is
kept for X: a third of the arithmetic for a 3×3 kernel. Rounding must then be that of fp32, since G holds the squares.
All matrices with as many rows take these steps together.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

Polynomial = tuple[float, float, float]  # a, b, c
# Steep at 0 and within about ±0.3 of 1 after five steps (Jordan et al. 2024).
JORDAN: Polynomial = (3.4445, -4.7750, 2.0315)
# Each errs least, as an approximation of 1, between the least and the largest singular value that may reach it, with a
# hundredth to spare for rounding; the last is 0.92 times that one, since 0.92 is the mean of Jordan et al.'s. They
# diverge just beyond that hundredth, 1.01: X must begin with no singular value above 1. Of n steps: the first, then the
# last n - 1 of the rest.
FIRST: dict[int, Polynomial] = {
    2: (6.913703, -18.687174, 13.300076),
    3: (8.006449, -22.899520, 16.578966),
    4: (8.324399, -24.129397, 17.537758),
}
REST: list[Polynomial] = [
    (4.044760, -2.952466, 0.545534),
    (3.605063, -2.649417, 0.512702),
    (2.447428, -1.793946, 0.403384),
]


def polynomials(steps: int) -> list[Polynomial]:
    """(a, b, c) of each of so many steps."""
    return [FIRST[steps], *REST[1 - steps :]] if steps in FIRST else [JORDAN] * steps


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """About U Vᵀ of each matrix U S Vᵀ: singular values between 0.65 and 1.25 where S is not tiny.

    Args:
        matrices: (K, rows, columns).
        steps: Newton–Schulz steps.

    Returns:
        (K, rows, columns); under autocast bf16 or fp32.
    """
    return orthogonalise_all([matrices], steps)[0]


def orthogonalise_all(stacks: Sequence[Tensor], steps: int = 5) -> list[Tensor]:
    """`orthogonalise` for each of several (K, rows, columns)."""
    wide = [stack.mT if stack.shape[1] > stack.shape[2] else stack for stack in stacks]  # the smaller side decides
    by_rows: dict[tuple[int, torch.dtype], list[int]] = defaultdict(list)
    for number, x in enumerate(wide):
        if x.shape[2] >= 2 * x.shape[1] and x.device.type == "cpu":  # elsewhere fp32 may mean TF32
            by_rows[x.shape[1], x.dtype].append(number)
        else:
            wide[number] = _iterate(x, polynomials(steps))
    for numbers in by_rows.values():
        with torch.autocast("cpu", enabled=False):
            grams = [wide[number] @ wide[number].mT for number in numbers]
            factors = _product_of_polynomials(torch.cat(grams), polynomials(steps)).split([len(each) for each in grams])
            for number, factor in zip(numbers, factors, strict=True):
                wide[number] = factor @ wide[number]
    return [x if x.shape == stack.shape else x.mT for x, stack in zip(wide, stacks, strict=True)]


def _largest(gram: Tensor, common: bool) -> Tensor:
    """At least the largest singular value of X, from G = X Xᵀ, (K, 1, 1): ‖X‖ for `common`, else the closer √‖G‖."""
    square = gram.float().diagonal(dim1=1, dim2=2).sum(1) if common else gram.float().norm(dim=(1, 2))
    return square.sqrt()[:, None, None] + 1e-7


def _iterate(x: Tensor, steps: list[Polynomial]) -> Tensor:
    """All steps for X (K, rows, columns) itself."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    with torch.autocast(kind, enabled=False):
        for number, (a, b, c) in enumerate(steps):
            gram = x @ x.mT
            if number == 0:
                size = _largest(gram, steps[0] is JORDAN)
                x, gram = (x / size).to(x.dtype), (gram / size.square()).to(x.dtype)
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _product_of_polynomials(gram: Tensor, steps: list[Polynomial]) -> Tensor:
    """The product of the P(G) of all steps, from G = X Xᵀ (K, rows, rows) alone, over the size of X."""
    size = _largest(gram, steps[0] is JORDAN)
    gram = gram / size.square()
    product = None
    for number, (a, b, c) in enumerate(steps):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        product = polynomial / size if product is None else polynomial @ product
        if number < len(steps) - 1:
            gram = polynomial @ gram @ polynomial
    assert product is not None
    return product


def as_in_memory(kernel: Tensor, parameter: Tensor) -> Tensor:
    """A kernel, its axes behind the first in the order in which the parameter's lie in memory; nothing is copied.

    The order of a matrix's columns changes nothing in O(A) but the order of its columns.
    """
    steps = parameter.stride()
    return kernel.permute(0, *sorted(range(1, parameter.ndim), key=lambda axis: -steps[axis]))


class Muon(torch.optim.Optimizer):
    """Muon for all parameters with two axes or more, Adam for the others.

    Args:
        params: the parameters.
        lr: learning rate of both.
        momentum: μ.
        betas: of Adam.
        weight_decay: of the matrices; each step shrinks them by lr · weight_decay.
        steps: Newton–Schulz steps; four do what five of Jordan et al. do.
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
        if parameters[0].device.type == "cpu":
            for gradient, momentum in zip(gradients, momenta, strict=True):  # in one pass over the memory
                torch.add(gradient, momentum, alpha=group["momentum"], out=momentum)
        else:
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, gradients)
        ahead = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)  # one product for all of one shape
        for p, update in zip(parameters, ahead, strict=True):
            matrix = as_in_memory(update, p).flatten(1)
            alike[matrix.shape].append((as_in_memory(p, p), matrix))
        stacks = [torch.stack([matrix for _, matrix in members]) for members in alike.values()]
        updates = orthogonalise_all(stacks, group["steps"])
        for (shape, members), stack in zip(alike.items(), updates, strict=True):
            scale = 0.2 * max(shape) ** 0.5
            for (p, _), update in zip(members, stack, strict=True):
                p.add_(update.reshape(p.shape), alpha=-group["lr"] * scale)

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
