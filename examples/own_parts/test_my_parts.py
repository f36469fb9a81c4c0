"""pytest test_my_parts.py"""

import pytest
import torch
from my_parts import Net, discs


def test_the_same_seed_draws_the_same_images_and_no_test_image_is_one_of_training():
    data, again, other = discs(20), discs(20), discs(20, seed=1)
    assert data.train.images.shape == (20, 3, 16, 16) and data.test.images.shape == (4, 3, 16, 16)
    assert torch.equal(data.train.images, again.train.images)
    assert not torch.equal(data.train.images, other.train.images)
    assert not torch.equal(data.train.images[:4], data.test.images)


def test_discs_are_full_and_rings_are_hollow():
    images, labels = discs(100, size=32).train.images.float(), discs(100, size=32).train.labels
    light = images.amax(dim=1)
    place = torch.arange(32) + 0.5
    y, x = ((light * grid).sum(dim=(1, 2)) / light.sum(dim=(1, 2)) for grid in (place[:, None], place[None, :]))
    middle = light[torch.arange(100), y.long(), x.long()]
    assert (middle[labels == 0] == light.amax(dim=(1, 2))[labels == 0]).all() and (middle[labels == 1] == 0).all()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20)])
def test_the_network_sees_image_time_and_label(height, width):
    network = Net(3, height, num_classes=2, out_channels=6, width=8)
    x, t, labels = torch.randn(2, 3, height, width), torch.tensor([0.0, 1000.0]), torch.tensor([0, 2])
    found = network(x, t, labels)
    assert found.shape == (2, 6, height, width)
    for changed in (network(x + 1, t, labels), network(x, t.flip(0), labels), network(x, t, labels.flip(0))):
        assert (changed - found).abs().amax(dim=(1, 2, 3)).min() > 0


def test_a_wrong_setting_is_refused():
    with pytest.raises(ValueError, match="blocks=0 must be at least 1"):
        Net(3, 16, blocks=0)
