"""The word that cannot be read is the one that is named."""

import sys

import pytest

from diffusion.config.advice import hydra_sentence
from diffusion.config.arguments import arranged


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["-m", "seed=1,2", "model.width=8)"], "'model.width=8)'"),
        (["--config-dir", "my options", "model.width=8)"], "'model.width=8)'"),
        (["--cfg", "job", "seed=1", "x y=)"], "'x y=)'"),
    ],
)
def test_options_are_not_blamed(monkeypatch, words, named):
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    assert hydra_sentence("Error: see https://hydra.cc/docs/advanced/override_grammar").startswith(named)


def test_a_path_that_the_shell_parted_is_found_in_the_home(monkeypatch, tmp_path):
    (tmp_path / "my photos").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["train.py", *arranged(["data.root=~/my", "photos"], sweep=False)])
    sentence = hydra_sentence("Error: see https://hydra.cc/docs/advanced/override_grammar")
    assert sentence.endswith(f"'data.root={tmp_path}/my photos'.")
