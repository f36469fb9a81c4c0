"""Paths on the command line, read by Hydra as they are written; and settings of the options that a run brings."""

import os
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from omegaconf import OmegaConf

from diffusion.config import arguments
from diffusion.system.errors import UserError

ODD = [
    *("été d'hiver", "a&b#c;d!", 'say "hi"', '5"disk', "x(1)[2]{3}", "k=v,w", "[a]", "{a}", "2024", "1e3", "true"),
    *("C:\\photos\\cats", "ends\\", "it's\\'so", " two  spaces ", "猫 🐈", "100%", "a:b", "$HOME", "@x", "~"),
]


def read(argument):
    """What Hydra takes the value of an argument for."""
    parsed = OverridesParser.create().parse_override(argument)
    value = parsed.value()
    if isinstance(value, ChoiceSweep):
        return [each.text if isinstance(each, QuotedString) else each for each in value.list]
    return [each.text if isinstance(each, QuotedString) else each for each in value] if type(value) is list else value


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("sweep", [False, True])
def test_a_path_that_exists_is_read_as_it_is_written(tmp_path, monkeypatch, name, sweep):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    for setting in (*arguments.READ, *arguments.WRITTEN):
        (given,) = arguments.arranged([f"{setting}={name}"], sweep)
        assert read(given) == name, given


@pytest.mark.parametrize("name", [name for name in ODD if name not in (" two  spaces ", "~")])
def test_a_folder_to_be_made_is_named_as_it_is_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (given,) = arguments.arranged([f"hydra.run.dir=runs/{name}"], sweep=False)
    assert read(given) == f"runs/{name}"


def test_lists_and_sweeps_of_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a b", "k=v,w", "it's"):
        (tmp_path / name).mkdir()
    (given,) = arguments.arranged(["samples=[a b, k=v,w,~/it's]"], sweep=False)
    assert read(given) == ["a b", "k=v,w", f"{tmp_path}/it's"]
    (given,) = arguments.arranged(["data.root=a b,k=v,w,it's"], sweep=True)
    assert read(given) == ["a b", "k=v,w", "it's"]
    (given,) = arguments.arranged(["data.root='a b','k=v,w'"], sweep=True)
    assert read(given) == ["a b", "k=v,w"]
    assert arguments.arranged(["data.root=choice(a,b)", "checkpoint=a,b"], sweep=True)[0] == "data.root=choice(a,b)"
    assert arguments.arranged(["data.root=x,y"], sweep=False) == ["data.root=x,y"]  # Hydra asks for -m


def test_what_needs_no_quotes_stays():
    words = ["checkpoint=null", "resume=latest", "seed=3", "hydra.run.dir=outputs/${now:%Y-%m}", "model.width=8"]
    words += ["-m", "~ema.decay", "features.cache=data/cache", "task.mask=top"]
    assert sorted(arguments.arranged(words, sweep=False)) == sorted(words)
    assert read(*arguments.arranged(["data.root='in quotes'"], sweep=False)) == "in quotes"


def test_the_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of me")
    for setting in (*arguments.READ, *arguments.WRITTEN):
        (given,) = arguments.arranged([f"{setting}=~/x"], sweep=False)
        assert read(given) == "/home/of me/x"
    assert arguments.arranged(["--config-dir=~/c"], sweep=False) == ["--config-dir=/home/of me/c"]
    assert arguments.arranged(["--config-dir", "~/c"], sweep=False) == ["--config-dir", "/home/of me/c"]
    (tmp_path / "~").mkdir()
    assert read(arguments.arranged(["data.root=~"], sweep=False)[0]) == "~"


@pytest.mark.parametrize("value", ["", "''", '""', "  "])
@pytest.mark.parametrize("setting", [*arguments.READ, *arguments.WRITTEN, "+data.root", "--config-dir"])
def test_an_empty_path_is_refused(setting, value):
    if setting != "--config-dir" or not value.strip():
        with pytest.raises(UserError, match=f"{setting.lstrip('+')}= is empty: give a path, or leave it out"):
            arguments.arranged([f"{setting}={value}"], sweep=False)


@pytest.mark.parametrize("value", ["plain,", ",plain", "a,,b"])
def test_an_empty_path_in_a_sweep_is_refused(value):
    with pytest.raises(UserError, match="data.root= is empty"):
        arguments.arranged([f"data.root={value}"], sweep=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a\nb", r"data.root='a\\nb': a path with a line break"),
        ("a\tb", r"data.root='a\\tb': a path with a line break"),
        ("a\udce9b", r"data.root='a\\udce9b': the name of this path is not UTF-8: rename it"),
    ],
)
def test_signs_that_no_path_can_have(value, message):
    with pytest.raises(UserError, match=message):
        arguments.arranged([f"data.root={value}"], sweep=False)


def test_a_terminal_that_is_not_utf8_is_told_apart_from_a_name_that_is_not(monkeypatch):
    """The bytes of é as Python reads them under LC_ALL=C with PYTHONUTF8=0."""
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("ascii", "surrogateescape"))
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(UserError, match=r"is UTF-8, and the locale of this terminal \(ascii\) is not: set .*UTF8=1"):
        arguments.arranged(["data.root=\udcc3\udca9"], sweep=False)
    with pytest.raises(UserError, match="is not UTF-8: rename it"):
        arguments.arranged(["data.root=\udce9"], sweep=False)


@pytest.mark.parametrize("name", ["hydra.run.dir", "hydra.sweep.dir"])
@pytest.mark.parametrize("folder", ["a,b/${now:%H-%M}", "it's/${now:%H-%M}", "${now:%H-%M}, x(1) #2", "a,~/${seed}"])
def test_a_reference_may_stand_beside_any_sign(name, folder):
    (given,) = arguments.arranged([f"{name}={folder}"], sweep=False)
    assert read(given) == folder
    node = OmegaConf.create({"seed": 7, "folder": read(given)})
    OmegaConf.register_new_resolver("now", lambda form: f"<{form}>", replace=True)
    assert node.folder == folder.replace("${now:%H-%M}", "<%H-%M>").replace("${seed}", "7")


def test_a_root_of_null_is_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="data.root=null is empty: give a path, or leave it out"):
        arguments.arranged(["data.root=null"], sweep=False)
    (tmp_path / "null").mkdir()
    assert read(*arguments.arranged(["data.root=null"], sweep=False)) == "null"


def test_paths_of_composed_configs(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    cfg = OmegaConf.create({"data": {"root": "~/x"}, "samples": ["~/y", "z"], "checkpoint": None})
    arguments.settle(cfg)
    assert cfg == {"data": {"root": "/home/me/x"}, "samples": ["/home/me/y", "z"], "checkpoint": None}
    with pytest.raises(UserError, match="data.root= is empty"):
        arguments.settle(OmegaConf.create({"data": {"root": ""}}))


def test_options_may_stand_between_settings():
    given = ["seed=1", "--config-dir", "mine", "-m", "model.width=8", "--info", "all", "--config-name=x"]
    assert arguments.options_first(given) == [
        *("--config-dir", "mine", "-m", "--info", "all", "--config-name=x", "seed=1", "model.width=8")
    ]


def test_settings_of_the_options_that_a_run_brings():
    brought = arguments.of_the_run
    assert brought(["resume=x", "data.root=y", "seed=1"], "train") == ["resume=x", "++data.root=y", "seed=1"]
    assert brought(["resume=x", "data=image_folder", "data.root=y"], "train")[2] == "data.root=y"
    assert brought(["resume=x", "preview.order=2"], "train")[1] == "++preview.order=2"
    assert brought(["checkpoint=x", "data.root=y", "loss.k=1"], "train")[1:] == ["++data.root=y", "loss.k=1"]
    assert brought(["checkpoint=x", "data.root=y"], "evaluate")[1] == "++data.root=y"
    assert brought(["samples=x", "data.root=y"], "evaluate")[1] == "data.root=y"
    for words in (["resume=null", "data.root=y"], ["data.root=y"]):
        assert brought(words, "train") == words
    assert brought(["checkpoint=x", "sampler.steps=2"], "sample") == ["checkpoint=x", "sampler.steps=2"]


@pytest.mark.parametrize(
    "option", [["--cfg", "job"], ["-c", "job"], ["--config-name", "classifier"], ["--info", "all"]]
)
def test_an_option_keeps_its_value_wherever_it_stands(option):
    assert arguments.options_first(["seed=1", *option, "n=2"]) == [*option, "seed=1", "n=2"]


@pytest.mark.parametrize("name", ["hydra.run.dir", "hydra.sweep.dir"])
def test_a_comma_in_the_folder_of_a_sweep_is_part_of_its_name(name):
    (given,) = arguments.arranged([f"{name}=out/a, b"], sweep=True)
    assert read(given) == "out/a, b"


def test_an_apostrophe_is_no_quote_between_the_paths_of_a_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("It's", "Bob's", "'tis", "dogs", "a, b"):
        (tmp_path / name).mkdir()
    for paths in (["It's", "Bob's"], ["'tis", "dogs"], ["a, b", "It's"]):
        (given,) = arguments.arranged([f"data.root={','.join(paths)}"], sweep=True)
        assert read(given) == paths, given
