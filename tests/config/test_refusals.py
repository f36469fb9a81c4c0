"""What a config is refused for: one sentence, with the names of the settings."""

import pytest
from config_helpers import tiny_config

from diffusion.config import build, training_run
from diffusion.system.errors import UserError


def test_a_budget_with_another_length_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"training\.budget=4min and steps=4 both set the length: make one of them null"
    ):
        training_run.build_trainer(tiny_config(**{"training.budget": "4min"}), tmp_path)
    for text in ("soon", "1"):
        with pytest.raises(UserError, match=rf"training\.budget={text} must be a time with its unit"):
            training_run.build_trainer(tiny_config(**{"training.budget": text, "training.steps": "null"}), tmp_path)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ImageToImage", {"strengths": [0]}, r"task.strengths=\[0\] must be times"),
        ("Inpaint", {"variations": 0}, "task.variations=0 must be at least 1"),
        ("Inpaint", {"repeats": -1}, "task.repeats=-1 must be 0 or more"),
        ("Invert", {"steps": [1]}, r"task.steps=\[1\] must be numbers of at least 2"),
        ("Interpolate", {"columns": 1}, "task.columns=1 must be at least 2"),
        ("Interpolate", {"between": "days"}, "task.between=days must be 'seeds' or 'classes'"),
        (
            "Interpolate",
            {"between": "classes", "seeds": [1, 2]},
            r"task.seeds=\[1, 2\] has no effect with task.between",
        ),
        ("Interpolate", {"seeds": [1]}, r"task.seeds=\[1\] must be two numbers"),
        ("Interpolate", {"seed": 1}, "Unknown setting 'task.seed': did you mean 'task.seeds'"),
    ],
)
def test_settings_out_of_range_name_the_setting(name, settings, message):
    with pytest.raises(UserError, match=message):
        build.build({"_target_": f"diffusion.tasks.{name}", **settings}, "task")


def test_a_group_that_was_deleted_is_asked_for(tmp_path):
    config = tiny_config()
    config["guidance"] = {"scale": 2.0}
    with pytest.raises(UserError, match="guidance must choose one of the options of its config group"):
        training_run.build_trainer(config, tmp_path)
