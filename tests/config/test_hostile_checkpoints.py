"""Checkpoints from strangers: no code is run, no memory is taken, and what is wrong is one sentence."""

import io
import os
import pickle
import re
import warnings
import zipfile

import pytest
import torch
from config_helpers import compose, saved_run
from hostile import Call, archive, careful, read_or_refused, told, two_directories
from omegaconf import OmegaConf

from diffusion.config import build, opening, resuming, settings, starting, trained, training_run, trust
from diffusion.records import checkpoint
from diffusion.system.errors import UserError

pytestmark = careful

CPU = {"_target_": "diffusion.system.device.Device", "type": "cpu"}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The state of a run's checkpoint."""
    return checkpoint.load(saved_run(tmp_path_factory.mktemp("run")) / "last.pt")


class Local:
    """A class that is defined in the file."""


def tensor_of(numbers, stored):
    """A pickle of {"network": {"w": a tensor of so many floats}}, whose storage says it has `stored`."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", stored) if value == "STORAGE" else None

    file = io.BytesIO()
    rebuild = Call(torch._utils._rebuild_tensor_v2, "STORAGE", 0, (numbers,), (1,), False, {})
    Pickler(file, protocol=2).dump({"network": {"w": rebuild}})
    return file.getvalue()


def added(path, good, name):
    """A whole checkpoint with one entry more."""
    torch.save(good, path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"x")


def nested(depth, leaf=0):
    for _ in range(depth):
        leaf = [leaf]
    return leaf


def with_config(good, **changes):
    return {**good, "config": {**good["config"], **changes}}


HOSTILE = {
    "builtins.open": lambda path, good: archive(path, pickle.dumps(Call(open, "owned", "w"), 2)),
    "os.system": lambda path, good: archive(path, pickle.dumps(Call(os.system, "touch owned"), 2)),
    "os.system by its alias posix": lambda path, good: archive(path, b"cposix\nsystem\n(S'touch owned'\ntR."),
    "torch.load": lambda path, good: archive(path, pickle.dumps(Call(torch.load, "x"), 2)),
    "getattr": lambda path, good: archive(path, b"cbuiltins\ngetattr\n(cos\nsystem\nS'x'\ntR."),
    "eval": lambda path, good: archive(path, pickle.dumps(Call(eval, "open('owned','w')"), 2)),
    "a class of the file": lambda path, good: archive(path, pickle.dumps(Local(), 2)),
    "a bare pickle": lambda path, good: path.write_bytes(pickle.dumps(Call(os.system, "touch owned"))),
    "STACK_GLOBAL": lambda path, good: archive(path, pickle.dumps(Call(os.system, "touch owned"), 4)),
    "a bytearray of 20 GiB": lambda path, good: archive(path, pickle.dumps(Call(bytearray, 20 * 2**30), 2)),
    "a tensor of 10 TB": lambda path, good: archive(
        path, tensor_of(10**13 // 4, 10**13 // 4), [("archive/data/0", bytes(64))]
    ),
    "a tensor beyond its storage": lambda path, good: archive(
        path, tensor_of(10**6, 16), [("archive/data/0", bytes(64))]
    ),
    "a storage beyond its entry": lambda path, good: archive(
        path, tensor_of(10**6, 10**6), [("archive/data/0", bytes(64))]
    ),
    "a bomb of zeros": lambda path, good: archive(
        path, tensor_of(10**7, 10**7), [("archive/data/0", bytes(4 * 10**7))], zipfile.ZIP_DEFLATED
    ),
    "an absolute name": lambda path, good: added(path, good, "/etc/owned"),
    "a name with ..": lambda path, good: added(path, good, "file/../../owned"),
    "a drive in a name": lambda path, good: added(path, good, "C:\\owned"),
    "a name of Windows": lambda path, good: added(path, good, "..\\owned"),
    "a name in capitals": lambda path, good: added(path, good, "file/DATA.PKL"),
    "two directories": lambda path, good: two_directories(path),
    "lists in lists": lambda path, good: torch.save({**good, "extra": nested(200)}, path),
    "a billion laughs": lambda path, good: archive(path, laughs()),
    "a deep config": lambda path, good: torch.save(with_config(good, more=nested(30)), path),
    "a wide config": lambda path, good: torch.save(with_config(good, more=list(range(20_000))), path),
    "the environment": lambda path, good: torch.save(with_config(good, seed="${oc.env:HOME}"), path),
    "a target of the system": lambda path, good: torch.save(
        with_config(good, model={"_target_": "os.system", "command": "touch owned"}), path
    ),
    "a target through our imports": lambda path, good: torch.save(
        with_config(
            good, model={"_target_": "diffusion.data.datasets.known.gzip.open", "filename": "owned", "mode": "w"}
        ),
        path,
    ),
    "a target that loads": lambda path, good: torch.save(
        with_config(good, schedule={"_target_": "torch.load", "f": "x"}), path
    ),
    "a sampler without steps": lambda path, good: torch.save(
        with_config(good, sampler={"_target_": "diffusion.sampler.Sampler", "steps": 3}), path
    ),
    "a target that is the owner's": lambda path, good: torch.save(
        with_config(good, model={"_target_": "my_parts.Net", "width": 8}), path
    ),
    "a target with trust of its own": lambda path, good: torch.save(
        {**with_config(good, model={"_target_": "os.system"}, trust=["os"]), "trust": "os", "own_parts": {"os": "x"}},
        path,
    ),
    "own parts that are none": lambda path, good: torch.save({**good, "own_parts": {"my_parts": 3}}, path),
    "a huge network": lambda path, good: torch.save(
        with_config(good, model={**good["config"]["model"], "width": 2**22}), path
    ),
    "huge images": lambda path, good: torch.save({**good, "image": {**good["image"], "size": 10**9}}, path),
    "a million classes": lambda path, good: torch.save(
        {**good, "image": {**good["image"], "class_names": ["x"] * 1_000_000}}, path
    ),
    "a class that is a folder above": lambda path, good: torch.save(
        {**good, "image": {**good["image"], "class_names": [*good["image"]["class_names"][:-1], "../../owned"]}}, path
    ),
    "a class that is a folder elsewhere": lambda path, good: torch.save(
        {**good, "image": {**good["image"], "class_names": [*good["image"]["class_names"][:-1], "/etc/owned"]}}, path
    ),
    "a class with a long name": lambda path, good: torch.save(
        {**good, "image": {**good["image"], "class_names": ["x" * 3_000_000] * 250}}, path
    ),
    "long texts": lambda path, good: torch.save(with_config(good, more=["x" * 10**6] * 1000), path),
    "averages of nothing": lambda path, good: torch.save({**good, "ema": {"network": {}}}, path),
    "other weights": lambda path, good: torch.save({**good, "ema": {"network": {"w": torch.zeros(3)}}}, path),
    "one tensor a thousand times": lambda path, good: archive(path, aliased(), [("archive/data/0", bytes(4 * 10**6))]),
    "tuples in tuples": lambda path, good: archive(path, b"\x80\x02)" + b"\x85" * 10**6 + b"."),
    "ten million lists": lambda path, good: archive(path, b"\x80\x02(" + b"]" * 10**7 + b"l."),
    "an average without weights": lambda path, good: torch.save({**good, "ema": {}}, path),
    "a weight that is a number": lambda path, good: torch.save({**good, "network": {"w": 3}}, path),
    "a step that is a text": lambda path, good: torch.save({**good, "step": "x"}, path),
    "a group that is a text": lambda path, good: torch.save(with_config(good, guidance="abc"), path),
    "a loss that is a list": lambda path, good: torch.save(with_config(good, loss=[1]), path),
    "a table of 17 GiB": lambda path, good: torch.save(
        {
            **with_config(good, model={"_target_": "diffusion.networks.dit.DiT", "width": 256, "patch": 1}),
            "image": {**good["image"], "size": 1024},
        },
        path,
    ),
    "steps without end": lambda path, good: torch.save(
        with_config(good, sampler={**good["config"]["sampler"], "steps": 10**12}), path
    ),
    "nothing": lambda path, good: path.write_bytes(b""),
    "text": lambda path, good: path.write_text("hello\n" * 100),
    "a truncated file": lambda path, good: cut(path, good),
    "no dictionary": lambda path, good: torch.save([1, 2, 3], path),
}


def aliased():
    """A pickle of {"network": ten thousand names of views of one tensor, each over the whole of it}."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", 10**6) if value == "STORAGE" else None

    file = io.BytesIO()
    views = {
        f"w{k}": Call(torch._utils._rebuild_tensor_v2, "STORAGE", 0, (1000, 10**6 - k), (0, 1), False, {})
        for k in range(1000)
    }
    Pickler(file, protocol=2).dump({"network": views})
    return file.getvalue()


def laughs():
    """A pickle of lists that hold the list before ten times: ten to the power of thirty values."""
    value = ["ha"]
    for _ in range(30):
        value = [value] * 10
    return pickle.dumps({"extra": value}, 2)


def cut(path, good):
    torch.save(good, path)
    path.write_bytes(path.read_bytes()[:-1000])


def use(path):
    """All that sample.py does with a checkpoint before it draws."""
    return trained.load_image_model(checkpoint.load(path), build.build(CPU, "device"))


REASONS = {
    "it names code that a checkpoint does not need": (
        *("builtins.open", "os.system", "os.system by its alias posix", "torch.load", "getattr", "eval"),
        *("a class of the file", "STACK_GLOBAL", "a bytearray of 20 GiB"),
    ),
    "it is no whole archive": ("a bare pickle", "nothing", "text", "a truncated file", "two directories"),
    "PyTorch cannot read it": (*("a tensor of 10 TB", "a tensor beyond its storage", "a storage beyond its entry"),),
    "its entries announce more than it holds": ("a bomb of zeros",),
    "leads out of the archive": ("an absolute name", "a name with ..", "a drive in a name", "a name of Windows"),
    "it has two entries of one name": ("a name in capitals",),
    "it is nested deeper, or holds more, than any checkpoint": (
        "lists in lists",
        "a billion laughs",
        "a million classes",
    ),
    "its config is nested deeper, or holds more, than any": ("a deep config", "a wide config"),
    "its config holds longer texts than any": ("long texts",),
    "its config holds an interpolation": ("the environment",),
    "model._target_=os.system is not allowed": ("a target of the system",),
    "model._target_=diffusion.data.datasets.known.gzip.open is not allowed": ("a target through our imports",),
    "sampler._target_=diffusion.sampler.Sampler is not allowed: it is what": ("a sampler without steps",),
    "model._target_=my_parts.Net is code of yours": ("a target that is the owner's",),
    "model._target_=os.system is not allowed: it must be": ("a target with trust of its own",),
    "its own_parts are no names of modules": ("own parts that are none",),
    "schedule._target_=torch.load is not allowed": ("a target that loads",),
    "model.width=4194304 must be at most": ("a huge network",),
    "its images have the size 1000000000": ("huge images",),
    "it has a class of the name": (
        *("a class that is a folder above", "a class that is a folder elsewhere", "a class with a long name"),
    ),
    "do not belong to the model that its config describes": (
        *("other weights", "averages of nothing", "a table of 17 GiB"),
    ),
    "its tensors announce more than the file holds": ("one tensor a thousand times",),
    "it holds more than any checkpoint": ("tuples in tuples", "ten million lists"),
    "its ema.network holds no weights": ("an average without weights",),
    "its network holds no weights": ("a weight that is a number",),
    "its step is no number of steps": ("a step that is a text",),
    "its config chooses no guidance": ("a group that is a text",),
    "its config chooses no loss": ("a loss that is a list",),
    "steps=1000000000000 must be from 1 to 100,000": ("steps without end",),
    "no checkpoint of this project: give one": ("no dictionary",),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_checkpoint_is_refused_for_what_it_is(name, good, tmp_path):
    path = tmp_path / "file.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two entries with one name
        HOSTILE[name](path, good)
    (reason,) = (reason for reason, names in REASONS.items() if name in names)
    assert reason in told(use, path)


OWNED = """
from os import system
from pathlib import Path
Path("owned").write_text("by an import")


def helper(where="owned"):
    Path(where).write_text("by a call")


class Helper:
    def __init__(self, **settings):
        helper()
"""
GROUPS = [*"data model schedule objective loss timesteps guidance ema sampler preview optimizer features task".split()]


@pytest.fixture
def tempting(tmp_path, monkeypatch):
    """A working directory where code lies that leaves a file when it is run; and with it another, harmless module."""
    folder = tmp_path / "tempting"
    (folder / "folder").mkdir(parents=True)
    for name in ("my_parts", "sitecustom", "folder/my_parts"):
        (folder / f"{name}.py").write_text(OWNED, encoding="utf-8")
    (folder / "harmless.py").write_text("import sys\nimport my_other_parts\nfrom os import system\n", encoding="utf-8")
    (folder / "my_other_parts.py").write_text("class Net: pass\n", encoding="utf-8")
    monkeypatch.chdir(folder)
    yield folder
    assert not list(folder.rglob("owned"))


def refused(trusted, read, *arguments, **named):
    """The sentence with which `read` refuses, where a module is trusted."""
    with trust.given(trusted), pytest.raises(UserError) as error:
        read(*arguments, **named)
    return str(error.value)


@pytest.mark.parametrize("trusted", [None, "harmless"])
@pytest.mark.parametrize("name", ["my_parts.Helper", "my_parts.helper", "my_parts.system", "folder.my_parts.Helper"])
def test_nothing_of_a_module_runs_without_trust_in_it(name, trusted, good, tempting, tmp_path):
    """Whatever group names it, in whatever way the file asks for the trust itself."""

    for group in GROUPS:
        config = {**good["config"], group: {"_target_": name}, "trust": [name.rpartition(".")[0]]}
        state = {**good, "config": config, "trust": config["trust"], "own_parts": {name.rpartition(".")[0]: "0" * 16}}
        torch.save(state, tmp_path / "file.pt")
        opened = refused(trusted, opening.opened, tmp_path / "file.pt", groups=None)
        assert f"{group}._target_={name} (" in opened and "if you trust it, add trust=" in opened
        built = refused(trusted, build.build, config[group], group)
        assert f"{group}._target_={name} is code of yours or of whoever wrote it: if you trust it" in built
        for use_it in (settings.check_types, lambda c: training_run.build_trainer(c, tmp_path / "run")):
            assert "if you trust it, add trust=" in refused(trusted, use_it, config)


@pytest.mark.parametrize(
    "name",
    ["harmless.my_other_parts.Net", "harmless.sys.exit", "harmless.system", "harmless.sys.modules", "harmless.sys"],
)
def test_trust_in_a_module_is_none_in_what_it_imports(name, tempting):
    for group in GROUPS:
        told_of = refused("harmless", build.build, {"_target_": name}, group)
        assert re.search(r"is not allowed: it is defined in|There is no module harmless\.", told_of)


def test_a_checkpoint_of_ones_own_parts_gives_no_trust_to_a_run_that_goes_on(good):
    saved = {**good["config"], "trust": ["my_parts"]}
    cfg = OmegaConf.create(compose("train"))
    assert "trust" not in resuming.resumed_config(saved, cfg, [])
    assert starting.starting_config({**good, "config": saved}, cfg, []).get("trust") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step", 0),  # nothing is wrong
        *(("optimizer", value) for value in ({}, {"state": {}, "param_groups": []}, [1])),
        *(("sums", torch.zeros(3)), ("seconds", "x"), ("skipped", "x"), ("best", "x"), ("ema", {"network": {}})),
        *(("config", "without a seed"), ("config", "a text for training")),
    ],
)
def test_a_checkpoint_of_parts_that_do_not_fit_is_not_gone_on_with(name, value, good, tmp_path):
    state = {**good, name: value}
    if name == "config":
        state["config"] = {k: v for k, v in good["config"].items() if k != "seed"}
        if value != "without a seed":
            state["config"] = {**good["config"], "training": "x"}
    torch.save(state, tmp_path / "file.pt")

    def go_on():
        state = checkpoint.load(tmp_path / "file.pt")
        config = resuming.resumed_config(state["config"], OmegaConf.create(compose("train")), [])
        training_run.build_trainer(config, tmp_path / "run", state)
        raise UserError("It is whole.")

    reason = {"step": "It is whole", "config": "the config of that checkpoint holds no"}.get(name, "is not whole")
    assert reason in told(go_on)


def test_a_checkpoint_makes_no_folder_outside_the_working_one(good, tmp_path):
    for root in (f"{tmp_path}/elsewhere", "../elsewhere"):
        config = {**good["config"], "data": {"_target_": "diffusion.data.datasets.mnist", "root": root}}
        told_of = told(build.data_of, {**good, "config": config})
        assert "elsewhere, which the checkpoint names, is no folder here" in told_of
        taken = told(
            starting.starting_config, {**good, "config": config}, OmegaConf.create(compose("train", "checkpoint=x")), []
        )
        assert "elsewhere, which the checkpoint names, is no folder here" in taken
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["pandas", "./pandas"])
def test_a_checkpoint_chooses_no_reader_of_the_library_datasets(name, good, tmp_path, monkeypatch):
    """One of them is called pandas, looks around in the working directory, and up to version 5.1 unpickles."""
    reader = pytest.importorskip("datasets.packaged_modules.pandas.pandas").Pandas
    pandas = pytest.importorskip("pandas")

    def tables(self, files):
        for file in files:
            yield 0, pandas.read_pickle(file)

    monkeypatch.setattr(reader, "_generate_tables", tables)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "kept")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pandas").mkdir()
    (tmp_path / "pandas" / "train.pkl").write_bytes(pickle.dumps(Call(os.mkdir, "owned"), 2))
    state = with_config(good, data={"_target_": "diffusion.data.datasets.huggingface", "name": name})
    with pytest.raises(UserError, match="data.name=.* cannot be read by the library datasets"):
        build.data_of(state)
    (tmp_path / "pandas").rename(tmp_path / "train")
    with pytest.raises(UserError, match="data.name=.* is no folder here"):
        build.data_of(state)
    assert not (tmp_path / "owned").exists()


def test_averages_that_are_not_whole_are_refused(good):
    state = {**good, "ema": {**good["ema"], "averages": {0.0: {}, "x": {}}}}
    assert "ema_width=0.1" in told(trained.trained_weights, state, True, 0.1)


@pytest.mark.parametrize("kind", ["pt"])
def test_damaged_files_are_read_or_refused(kind, good, tmp_path):
    path = tmp_path / f"last.{kind}"
    torch.save({**good, "optimizer": {}}, path)
    use(path)
    read_or_refused(path, path.read_bytes(), use)
