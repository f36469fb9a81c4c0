"""Muon against the singular value decomposition, PyTorch's own Muon and PyTorch's Adam."""

import pytest
import torch

from diffusion.optimizer import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 12), (2, 6, 40), (2, 40, 6), (1, 1, 9)])
@pytest.mark.parametrize("steps", [1, 5])
def test_the_singular_vectors_stay_and_the_singular_values_go_through_the_polynomial(shape, steps, generator):
    matrices = torch.randn(shape, generator=generator)
    u, s, v = torch.linalg.svd(matrices.double(), full_matrices=False)
    s = s / s.norm(dim=1, keepdim=True)
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    assert torch.allclose(orthogonalise(matrices, steps).double(), (u * s[:, None]) @ v, atol=1e-5)


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
