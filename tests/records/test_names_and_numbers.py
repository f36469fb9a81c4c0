"""Names of classes in checkpoints, and lists of numbers in metrics.json."""

import json

import pytest

from diffusion.records.checkpoint import check_image
from diffusion.records.results import write_json

IMAGE = {"size": 8, "channels": 3, "padding": 0}


@pytest.mark.parametrize("name", ["T - shirt / top", "猫", "a\nb", "a\\b", " ", "x" * 255, "\u202e", "...", "$x$"])
def test_a_class_may_have_any_name_that_a_folder_can_have(name):
    check_image({**IMAGE, "class_names": [name]})  # or a run could not read its own checkpoint


@pytest.mark.parametrize("name", ["", ".", "..", "a//b", "a/../b", "../up", "/etc", "a\0b", "x" * 256])
def test_no_other_name_is_taken_from_a_checkpoint(name):
    with pytest.raises(ValueError, match="empty, a path, or too long"):
        check_image({**IMAGE, "class_names": ["good", name]})


@pytest.mark.parametrize("given", [None, 5, ["ab"], "x", "AB", "ab\n", "a" * 17, "../ab"])
def test_what_a_checkpoint_calls_a_hash_of_its_labels_is_one(given):
    check_image({**IMAGE, "class_names": [], "labels": "0123456789abcdef", "test": ""})
    for name in ("labels", "test"):
        with pytest.raises(ValueError, match=f"for a hash of their {name}, which is none"):
            check_image({**IMAGE, "class_names": [], name: given})


@pytest.mark.parametrize(
    "content",
    [
        {"confusion": [[1, 2], [0, 3]], "none": [None, 1.5, True], "empty": [], "deep": [[[1]]]},
        {"text": "[\n 1,\n 2\n]", "texts": ["a", "[ 1, 2 ]"], "mixed": [1, "a", {"b": [2]}]},
        {"numbers": [float("inf"), -1e-9, 10**20]},
    ],
)
def test_numbers_stand_in_one_line_and_mean_the_same(content, tmp_path):
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == content and list(json.loads(text)) == list(content)


def test_a_confusion_matrix_has_a_line_for_each_class(tmp_path):
    write_json(tmp_path / "a.json", {"confusion": [[1, 2], [0, 3]]})
    lines = (tmp_path / "a.json").read_text(encoding="utf-8").splitlines()
    assert lines == ["{", '  "confusion": [', "    [1, 2],", "    [0, 3]", "  ]", "}"]
