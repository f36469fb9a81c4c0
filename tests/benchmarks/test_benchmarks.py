"""The benchmarks: tables come to their place."""

import sys

from conftest import ROOT

from diffusion.records.results import write_json

sys.path.insert(0, str(ROOT / "benchmarks"))
import common
import roofline
import scaling
import search
import sizes
import time_to_quality


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


def finish(contest, name, seed, fid, deviations=(), drawing=(), evaluations=20, accuracy=None):
    """What a contender leaves behind, as if it had trained, drawn and been scored."""
    training, drawn, score = contest.records(name, seed)
    score.parent.mkdir(parents=True)
    if training.parent == score.parent.parent:
        write_json(training, {"images": 600, "seconds": 60, "deviations": list(deviations)})
    write_json(drawn, {"seconds": 2.0, "evaluations": evaluations, "deviations": list(drawing)})
    write_json(score, {"fid": fid, "inception_score": 8.0, "accuracy": accuracy, "real": {"fid": 0.2}})


def test_the_table_of_qualities(tmp_path):
    """Medians over the seeds, ratios to ours, deviations; what is not finished is left out."""
    contest = time_to_quality.Contest(tmp_path, "1min", 8, "cpu")
    for name, fids in {"ours": [0.5, 1.0, 0.75], "diffusers": [3.0], "diffusers_decay": [2.0]}.items():
        for seed, fid in enumerate(fids):
            finish(contest, name, seed, fid, ["another batch size"] if name == "diffusers" else [])
    contest.folder("smalldiffusion", 0).mkdir()
    table = contest.table(time_to_quality.TABLES[""])
    assert "| **ours** | 600 (600 – 600) | 10.0 (10.0 – 10.0) | 20 | 0.750 (0.500 – 1.000) | 1.0 | 0.200" in table
    assert "| diffusers | 600 | 10.0 | 20 | 3.000 | 4.0 | 0.200 | 8.00 | – | 2.0 |" in table
    assert "| diffusers_decay | 600 | 10.0 | 20 | 2.000 |" in table
    assert "medians of up to 3 trainings" in table
    assert "- diffusers: another batch size." in table and "smalldiffusion" not in table
    assert contest.table(time_to_quality.TABLES["_labelled"]) == ""  # nothing but ours


def test_contenders_with_labels_have_a_table_of_their_own(tmp_path):
    """The same training drawn otherwise is a row with the images of that training and its own evaluations."""
    contest = time_to_quality.Contest(tmp_path, "4min", 8, "cpu")
    finish(contest, "ours", 0, 0.5, accuracy=0.9)
    finish(contest, "ours_unlabelled", 0, 1.0, evaluations=12)
    finish(contest, "nanoflow", 0, 2.0, ["rewritten"], ["ten steps"], accuracy=0.8)
    finish(contest, "nanoflow_own", 0, 1.5, drawing=["200 steps"], evaluations=400, accuracy=0.85)
    finish(contest, "diffusers", 0, 3.0)
    labelled, others = (contest.table(time_to_quality.TABLES[kind]) for kind in ("_labelled", ""))
    assert "| nanoflow | 600 | 10.0 | 20 | 2.000 | 4.0 | 0.200 | 8.00 | 0.800 | 2.0 |" in labelled
    assert "| nanoflow_own | 600 | 10.0 | 400 | 1.500 | 3.0 | 0.200 | 8.00 | 0.850 | 2.0 |" in labelled
    assert "- nanoflow: rewritten; ten steps.\n- nanoflow_own: rewritten; 200 steps." in labelled
    assert "diffusers" not in labelled and "unlabelled" not in labelled
    assert "| **ours_unlabelled** | 600 | 10.0 | 12 | 1.000 | 2.0 |" in others and "nanoflow" not in others
    assert {name for rows in time_to_quality.TABLES.values() for name in rows} >= time_to_quality.PEERS.keys()


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
