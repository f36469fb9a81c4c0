"""The benchmarks: the other projects train and draw as their recipes say, and tables come to their place."""

import importlib.util
import sys

import pytest
import torch
from conftest import ROOT

from diffusion.records.results import write_json

sys.path.insert(0, str(ROOT / "benchmarks"))
import common
import peers
import roofline
import scaling
import search
import sizes
import time_to_quality

BENCH = ("diffusers", "denoising_diffusion_pytorch", "smalldiffusion")
needs_bench = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in BENCH), reason='needs pip install -e ".[bench]"'
)
CPU = torch.device("cpu")


@pytest.fixture
def images(mini):
    return mini.train.images[:4]


@pytest.fixture(scope="module")
def made():
    """Each peer once: importing and building them takes longer than all else."""
    return {}


def peer(made, name):
    if name not in made:
        torch.manual_seed(0)
        made[name] = peers.make(name, CPU)
    return made[name]


def loss_of_the_same(peer, images):
    """The loss before one more step, with noise and times that are always the same."""
    torch.manual_seed(1)
    return float(peer.step(images))


@needs_bench
@pytest.mark.parametrize("name", ["diffusers_decay", "denoising_diffusion_pytorch", "smalldiffusion_32"])
def test_a_peer_learns(made, name, images):
    found = peer(made, name)
    found.progress = 0.01  # after the warm-up
    losses = [loss_of_the_same(found, images) for _ in range(5)]
    assert losses[-1] < losses[0]


@needs_bench
@pytest.mark.parametrize("name", ["diffusers_decay", "denoising_diffusion_pytorch", "smalldiffusion_32"])
def test_the_network_of_a_peer_takes_its_inputs(made, name):
    found = peer(made, name)
    with torch.no_grad():
        output = found.network(*found.inputs(2))
    assert getattr(output, "sample", output).shape == found.inputs(2)[0].shape


@needs_bench
@pytest.mark.parametrize("name", ["diffusers_decay", "denoising_diffusion_pytorch", "smalldiffusion_32"])
def test_a_peer_draws_in_20_evaluations(made, name):
    found, seen = peer(made, name), []
    handle = found.network.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    drawn = found.sample(2)
    handle.remove()
    assert drawn.shape == (2, 1, 28, 28) and drawn.dtype == torch.uint8
    assert seen == [2] * peers.EVALUATIONS


@needs_bench
@pytest.mark.parametrize("name", ["diffusers_decay", "denoising_diffusion_pytorch", "smalldiffusion_32"])
def test_a_peer_draws_with_its_average(made, name, images):
    """`finish` changes the weights, a little."""
    found = peer(made, name)
    found.progress = 0.01
    for _ in range(2):
        loss_of_the_same(found, images)
    before = torch.nn.utils.parameters_to_vector(found.network.parameters()).detach()
    found.finish()
    after = torch.nn.utils.parameters_to_vector(found.network.parameters()).detach()
    assert 0 < (after - before).norm() < 0.1 * before.norm()


@needs_bench
def test_parts_of_a_batch_have_its_gradient(images):
    found, gradients = peers.SmallDiffusion(CPU), []
    weight = next(found.network.parameters())
    found.loss = lambda x_0: (x_0.mean(dim=(1, 2, 3)).exp() * weight.sum()).mean()
    found.update = lambda: gradients.append(weight.grad.clone())
    for found.at_once in (4, 3, 1):
        weight.grad = None
        loss = found.step(images)
        torch.testing.assert_close(loss, found.loss(images / 127.5 - 1).detach())
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])


@needs_bench
def test_the_shipped_schedule_of_diffusers_warms_up_over_500_steps(images):
    from diffusers import UNet2DModel

    found = peers.Diffusers(CPU)
    assert isinstance(found.network, UNet2DModel) and found.batch_size == 16
    assert found.optimizer.param_groups[0]["lr"] == 0
    found.step(images)
    assert found.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 / 500)


def test_warming_decay():
    """2/11 at the first update and 0.999 late (pytorch_ema, `use_num_updates`)."""
    assert peers.warming_decay(1) == pytest.approx(2 / 11)
    assert peers.warming_decay(10**6) == 0.999


def test_a_table_comes_between_its_marks(tmp_path):
    page, text = tmp_path / "page.md", "before\n<!-- {}: made by x.py -->\nold\n<!-- end -->\nafter\n"
    page.write_text(text.format("mine") + text.format("theirs"))
    assert common.fill(page, "mine", "x.py", "| a |\n| --- |\n| \\1 |")
    new = "before\n<!-- mine: made by x.py -->\n\n| a |\n| --- |\n| \\1 |\n\n<!-- end -->\nafter\n"
    assert page.read_text() == new + text.format("theirs")
    assert not common.fill(page, "others", "x.py", "text")
    assert not common.fill(tmp_path / "missing.md", "mine", "x.py", "text")


def test_medians():
    assert common.middle([3.0, 1.0, 2.0], 1) == "2.0 (1.0 – 3.0)"
    assert common.middle([1234.0]) == "1,234"
    assert common.middle([None]) == "–"


def test_the_table_of_qualities(tmp_path):
    """Medians over the seeds, ratios to ours, deviations; what is not finished is left out."""
    contest = time_to_quality.Contest(tmp_path, "1min", 8, "cpu")
    for name, fids in {"ours": [0.5, 1.0, 0.75], "diffusers": [3.0], "diffusers_decay": [2.0]}.items():
        for seed, fid in enumerate(fids):
            training, drawing, score = contest.records(name, seed)
            score.parent.mkdir(parents=True)
            left = ["another batch size"] if name == "diffusers" else []
            write_json(training, {"images": 600, "seconds": 60, "deviations": left})
            write_json(drawing, {"seconds": 2.0, "evaluations": 20})
            write_json(score, {"fid": fid, "inception_score": 8.0, "accuracy": None, "real": {"fid": 0.2}})
    contest.folder("smalldiffusion", 0).mkdir()
    table = contest.table()
    assert "| **ours** | 600 (600 – 600) | 10.0 (10.0 – 10.0) | 20 | 0.750 (0.500 – 1.000) | 1.0 | 0.200" in table
    assert "| diffusers | 600 | 10.0 | 20 | 3.000 | 4.0 | 0.200 | 8.00 | – | 2.0 |" in table
    assert "| diffusers_decay | 600 | 10.0 | 20 | 2.000 |" in table
    assert "- diffusers: another batch size." in table and "smalldiffusion" not in table


def test_the_trials_of_a_search_are_ranked_whatever_their_folder(tmp_path):
    rows = ["rank,status,fid,overrides"]
    for fid, width in (("2.5", 24), ("", 32), ("1.25", 48)):
        rows.append(f'1,finished,{fid},"model.width={width} model.multipliers=[1, 2] optimizer.lr=0.004123 seed=0"')
    (tmp_path / "leaderboard.csv").write_text("\n".join(rows))
    assert [(fid, choice["model.width"]) for fid, choice in search.chosen(tmp_path)] == [(1.25, "48"), (2.5, "24")]
    assert search.chosen(tmp_path)[0][1]["model.multipliers"] == "[1,2]"


def test_the_tables_of_growing_cost():
    record = {
        "parameters": 2_000_000,
        "gflop_forward": 0.25,
        "training_images_per_second": 100.0,
        "training_gflop_per_second": 75.0,
        "peak_memory_mib": 1234.0,
    }
    faster = {**record, "training_images_per_second": 120.0}
    found = {"size": {6: [record, faster]}, "n": {1000: [{"seconds": 2.0, "peak_memory_mib": 500.0}]}}
    table = scaling.table(found, "a machine")
    assert table.startswith("a machine\n\n| image size |")
    assert "| 40 | 2.00 M | 0.250 | 110 (100 – 120) | 75 (75 – 75) | 1,234 MiB |" in table
    assert "| 1,000 | 2.0 | 500 MiB |" in table


def test_operations_belong_to_one_kind_each():
    kinds = {
        "aten::convolution_backward": "convolutions",
        "aten::_scaled_dot_product_flash_attention_for_cpu": "attention",
        "aten::addmm": "matrix products",
        "aten::native_group_norm": "group norm",
        "aten::_to_copy": "copies, casts, concatenations",
        "aten::silu_backward": "activations and other element-wise work",
        "aten::_foreach_lerp_": "averages of the weights",
    }
    assert {operation: roofline.kind_named(operation) for operation in kinds} == kinds


def test_the_table_of_sizes_has_a_row_for_each_and_a_speed_for_each_model():
    def records(*speeds):
        return [{"training_images_per_second": speed, "peak_memory_mib": 10 * speed} for speed in speeds]

    found = {"unet_light": {28: records(30, 10, 20), 128: records(1)}, "dit_small": {28: records(5), 128: records(2)}}
    lines = sizes.table(found, "machine").splitlines()
    assert lines[0] == "machine" and [cell.strip() for cell in lines[4].split("|")[1:-1]] == [
        *("28×28", "20 (10 – 30)", "200 MiB", "5", "50 MiB")
    ]
    assert lines[5].split("|")[1].strip() == "128×128" and len(lines) == 6
