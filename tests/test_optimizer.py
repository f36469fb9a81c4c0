"""Muon against the singular value decomposition, PyTorch's own Muon and PyTorch's Adam."""

import pytest
import torch

from diffusion.optimizer import JORDAN, Muon, orthogonalise, orthogonalise_all, polynomials


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 12), (2, 6, 40), (2, 40, 6), (1, 1, 9)])
@pytest.mark.parametrize("steps", [1, 5])
def test_the_singular_vectors_stay_and_the_singular_values_go_through_the_polynomial(shape, steps, generator):
    matrices = torch.randn(shape, generator=generator)
    u, s, v = torch.linalg.svd(matrices.double(), full_matrices=False)
    s = s / s.norm(dim=1, keepdim=True)
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    assert torch.allclose(orthogonalise(matrices, steps).double(), (u * s[:, None]) @ v, atol=1e-5)


def through(polynomials, s):
    """Singular values after these steps."""
    for a, b, c in polynomials:
        s = a * s + b * s**3 + c * s**5
    return s


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 40), (2, 40, 6)])
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_fewer_steps_begin_with_the_norm_of_the_gram_matrix(shape, steps, generator):
    matrices = torch.randn(shape, generator=generator)
    u, s, v = torch.linalg.svd(matrices.double(), full_matrices=False)
    s = through(polynomials(steps), s / (s**4).sum(dim=1, keepdim=True) ** 0.25)
    assert torch.allclose(orthogonalise(matrices, steps).double(), (u * s[:, None]) @ v, atol=3e-5)


@pytest.mark.parametrize(("steps", "least"), [(2, 0.04245036), (3, 0.01027287), (4, 0.00246726)])
def test_each_polynomial_deviates_as_little_as_can_be(steps, least):
    """By Chebyshev: the best with three coefficients errs equally, with turning signs, at four places or more."""
    low, high = least, 1.01
    for number, (a, b, c) in enumerate(polynomials(steps)):
        s = torch.linspace(low, high, 100_001, dtype=torch.float64)
        errors = through([(a, b, c)], s) / (0.92 if number == steps - 1 else 1) - 1
        turns = (3 * b + torch.tensor([-1, 1]) * (9 * b * b - 20 * a * c) ** 0.5) / (-10 * c)
        inner = torch.tensor([max(low, min(high, float(turn) ** 0.5)) for turn in turns.sort().values])
        places = torch.cat([torch.tensor([low]), inner, torch.tensor([high])]).double()
        found = through([(a, b, c)], places) / (0.92 if number == steps - 1 else 1) - 1
        assert torch.allclose(found * torch.tensor([-1, 1, -1, 1]), errors.abs().max().expand(4), atol=1e-3)
        low, high = (1 - float(errors.abs().max())) / 1.01, (1 + float(errors.abs().max())) * 1.01


def test_four_steps_reach_as_far_as_five_of_jordan(generator):
    """They bring smaller shares of a matrix's largest singular value into the band, since they begin nearer to 1."""
    matrices = torch.randn(1, 96, 864, generator=generator).double()
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    for decay in (1.5, 4.0):  # the root of all squares is 4 and 1.7 times the largest singular value
        s = torch.exp(-decay * torch.linspace(0, 1, 96, dtype=torch.float64).sqrt())[None]
        values = torch.linalg.svdvals(orthogonalise(((u * s[:, None]) @ v).float(), 4))
        assert values.min() > 0.65 and values.max() < 1.25
    grid = torch.logspace(-4, 0, 10_001, dtype=torch.float64)
    reach = [float(grid[through(steps, grid) > 0.65][0]) for steps in (polynomials(4), [JORDAN] * 5)]
    assert reach[0] / 1.6 < 1.1 * reach[1]  # in training ‖X‖ is 1.5 to 1.7 times √‖X Xᵀ‖
    assert polynomials(5) == [JORDAN] * 5 and polynomials(1) == [JORDAN] and len(polynomials(7)) == 7


def test_stacks_of_several_shapes_are_done_as_each_alone(generator):
    shapes = [(2, 6, 40), (1, 6, 30), (1, 40, 6), (2, 5, 5), (1, 9, 90)]
    stacks = [torch.randn(shape, generator=generator) for shape in shapes]
    for steps in (3, 5):
        for together, stack in zip(orthogonalise_all(stacks, steps), stacks, strict=True):
            assert together.shape == stack.shape
            assert torch.allclose(together, orthogonalise(stack, steps), atol=1e-5)


def test_matrices_of_two_precisions_stay_apart(generator):
    stacks = [torch.randn(2, 6, 40, generator=generator, dtype=kind) for kind in (torch.float32, torch.float64)]
    for together, stack in zip(orthogonalise_all(stacks, 4), stacks, strict=True):
        assert together.dtype == stack.dtype and torch.allclose(together, orthogonalise(stack, 4), atol=1e-5)


@pytest.mark.parametrize("steps", [2, 3, 4, 5])
def test_bf16_stays_in_the_band(steps, generator):
    """Its rounding must not push a singular value over the end of its range, where it would grow without limit."""
    matrices = torch.randn(3, 64, 64, generator=generator)
    matrices[0] = matrices[0][:, :1] @ matrices[0][:1]  # of rank 1: its one singular value is at the very end
    matrices[1] = 1e-3 * matrices[1] + 10 * torch.eye(64)
    with torch.autocast("cpu", torch.bfloat16):
        found = orthogonalise(matrices, steps)
    assert found.dtype == torch.bfloat16 and torch.linalg.svdvals(found.float()).max() < 1.35
    for columns in (4, 16):
        assert not orthogonalise(torch.zeros(1, 4, columns), steps).any()


def test_the_result_is_nearly_orthogonal_whatever_the_scale(generator):
    matrices = 1e-3 * torch.randn(4, 16, 150, generator=generator)
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.65 and values.max() < 1.25
    assert torch.allclose(orthogonalise(matrices), orthogonalise(1000 * matrices), atol=1e-3)
    assert not orthogonalise(torch.zeros(1, 4, 16)).any()


def descend(optimizer, parameters, gradients):
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has a Muon from 2.9 on")
def test_matrices_move_as_with_the_muon_of_torch(generator):
    """Its matrices are products of bf16 whatever it is given, hence the tolerance: a hundredth of the way."""
    start = [torch.randn(12, 12, generator=generator), torch.randn(10, 64, generator=generator)]
    gradients = [[torch.randn(p.shape, generator=generator) for p in start] for _ in range(4)]
    mine, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    descend(Muon(mine, **settings), mine, gradients)
    descend(torch.optim.Muon(theirs, nesterov=True, adjust_lr_fn="match_rms_adamw", **settings), theirs, gradients)
    for a, b, p in zip(mine, theirs, start, strict=True):
        assert (a - b).norm() < 0.02 * (b - p).norm()


def test_vectors_move_as_with_adam(generator):
    start = [torch.randn(7, generator=generator), torch.randn(3, generator=generator)]
    gradients = [[torch.randn(p.shape, generator=generator) for p in start] for _ in range(5)]
    mine, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    descend(Muon(mine, lr=0.01, betas=[0.9, 0.99]), mine, gradients)
    descend(torch.optim.Adam(theirs, lr=0.01, betas=(0.9, 0.99)), theirs, gradients)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, theirs, strict=True))


def test_a_kernel_is_a_matrix_with_one_row_for_each_output(generator):
    kernel, gradient = torch.randn(4, 3, 3, 3, generator=generator), torch.randn(4, 3, 3, 3, generator=generator)
    shapes = [(4, 3, 3, 3), (4, 27)]
    moved = [torch.nn.Parameter(kernel.clone().view(shape)) for shape in shapes]
    moved.append(torch.nn.Parameter(kernel.clone().to(memory_format=torch.channels_last)))
    for parameter in moved:
        descend(Muon([parameter], lr=0.1), [parameter], [[gradient.view(parameter.shape)]])
    for other in moved[1:]:
        assert torch.allclose(other.flatten(1), moved[0].flatten(1), atol=1e-6)
    root = (moved[0] - kernel).square().mean().sqrt()  # 4 × 27: 4 singular values of about 1
    assert 0.1 * 0.2 * 0.6 < root < 0.1 * 0.2 * 1.3


def test_a_parameter_without_gradient_stays():
    used, unused = torch.nn.Parameter(torch.ones(3, 3)), torch.nn.Parameter(torch.ones(3, 3))
    optimizer = Muon([used, unused])
    used.grad = torch.eye(3)
    optimizer.step()
    assert torch.equal(unused, torch.ones(3, 3)) and not torch.equal(used, torch.ones(3, 3))


@pytest.mark.parametrize(
    "wrong", [{"lr": 0}, {"momentum": 1.0}, {"betas": [0.9]}, {"weight_decay": -1}, {"steps": 0}], ids=str
)
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        Muon([torch.zeros(2, 2)], **wrong)
