"""The ONNX file answers as the model does, at any batch size, and holds nothing of this machine."""

import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from models import SMALL, noisy, untrained

from diffusion.export import onnx_file
from diffusion.export.facts import facts
from diffusion.sampler import DDIM
from diffusion.system.errors import UserError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from diffusion.export import onnx_weights  # noqa: E402

BATCHES = 1, 3, 16  # the one that is traced is none of them
OBJECTIVES = {"cosine": "v", "flow": "flow", "edm": "edm"}
MODELS = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml"))


def opened(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def difference(model, path, batches=BATCHES):
    """The largest difference between a file's x̂_0 and the model's, as a share of the latter's largest value."""
    session, worst = opened(path), 0.0
    for n in batches:
        x_t, t, labels = noisy(model, n, seed=n)
        given = {"x_t": x_t.numpy(), "t": t.numpy()}
        if model.denoiser.num_classes:
            given["labels"] = labels.numpy()
        (found,) = session.run(["x_0"], given)
        expected = model.denoise(x_t, t, labels if model.denoiser.num_classes else None).numpy()
        assert found.shape == expected.shape
        worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
    return worst


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = untrained(*SMALL)
    path = model.export(tmp_path_factory.mktemp("exported") / "model.onnx", to="onnx")
    assert model.denoiser.evaluated == 0
    return model, path


@pytest.mark.slow  # the exporter alone takes seconds
def test_the_file_answers_as_the_model(exported):
    model, path = exported
    before = model.denoiser.evaluated
    assert difference(model, path) < 1e-4
    assert model.denoiser.evaluated == before + sum(BATCHES)  # which reports count on
    known = json.loads(opened(path).get_modelmeta().custom_metadata_map["simple_diffusion"])
    assert known["no_label"] == 10 and known["images"]["class_names"][7] == "Sneaker"
    for t, alpha, sigma in known["levels"]:
        assert np.allclose((alpha, sigma), model.denoiser.schedule(torch.tensor(t, dtype=torch.float64)))
    assert known["levels"][-1] == [0, 1, 0] and known["guidance_scale"] == model.config["guidance"]["scale"]
    content = path.read_bytes()
    for trace in (str(ROOT), str(Path.home()), sys.prefix, "site-packages", "stack_trace", ".py", os.sep + "tmp"):
        assert trace.encode() not in content, trace


def loop_agrees(model):
    """What docs/export.md shows, run here, draws from the same noise what our DDIM draws."""
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (loop,) = (code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "onnxruntime" in code)
    assert len([line for line in loop.splitlines() if line and not line.startswith("import")]) <= 15
    names: dict = {}
    exec(loop, names)
    noise = np.random.default_rng(0).standard_normal((16, *model.image_model.shape))
    denoiser = model.image_model.guidance.guide(model.denoiser)
    sampler, labels = DDIM(len(names["levels"]) - 1, clip=names["known"]["clip"] is not None), torch.full((16,), 7)
    ours = sampler.sample(denoiser, lambda: torch.from_numpy(noise).float(), labels)
    difference = model.image_model.to_images(ours).numpy().astype(int) - names["images"]
    assert np.abs(difference).max() <= 1 and names["images"].std() > 20


@pytest.mark.slow
def test_the_loop_of_the_page_draws_our_images(exported, monkeypatch):
    model, path = exported
    monkeypatch.chdir(path.parent)
    loop_agrees(model)


@pytest.mark.parametrize(
    "settings",
    [
        ("schedule=flow", "objective=flow", "guidance.interval=[]"),  # α = 0 where drawing begins
        ("schedule.zero_terminal_snr=true", "guidance.interval=[]"),
        ("guidance.interval=[0.2,3]",),
        ("loss.margin=0.2", "sampler.clip=true", "guidance.interval=[]"),  # estimates are clamped to ±1.2
    ],
)
def test_the_loop_guides_as_we_do_at_every_level(settings, monkeypatch):
    """With the model itself in the place of the file."""
    model = untrained(*SMALL, *settings, "guidance.scale=4", "sampler=ddim", "sampler.steps=4")

    class Session:
        def __init__(self, path):
            pass

        def get_modelmeta(self):
            return SimpleNamespace(custom_metadata_map={"simple_diffusion": json.dumps(facts(model))})

        def run(self, outputs, given):
            return [model.denoise(*map(torch.from_numpy, given.values())).numpy()]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    loop_agrees(model)


def graph_of(values, kind, **attributes):
    """A graph of one node that multiplies by a matrix of weights."""
    weight = onnx.numpy_helper.from_array(values, "weight")
    node = onnx.helper.make_node(kind, ["x", "weight"], ["y"], **attributes)
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "y")]
    return onnx.helper.make_graph([node], "graph", ends[:1], ends[1:], [weight])


@pytest.mark.parametrize(("kind", "attributes", "axis"), [("MatMul", {}, 1), ("Gemm", {"transB": 1}, 0)])
def test_a_row_is_off_by_half_a_step_of_its_own_at_most(kind, attributes, axis, tmp_path):
    """Rounding to whole multiples of max|w|/127: each weight is at most half of that away. Rows differ 1,000 times."""
    sizes = np.logspace(-1.5, 1.5, 64, dtype=np.float32)
    values = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    values *= sizes[None] if axis == 1 else sizes[:, None]
    graph = graph_of(values, kind, **attributes)
    onnx_weights.store(graph, "int8")
    path = tmp_path / "int8.onnx"
    opset = [onnx.helper.make_opsetid("", onnx_file.OPSET)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    (found,) = opened(path).run(None, {"x": np.eye(64, dtype=np.float32)})
    error = np.abs((found.T if attributes else found) - values)
    steps = np.abs(values).max(axis=1 - axis, keepdims=True) / 127
    assert (error <= 0.5001 * steps).all() and error.max() > 0
    assert path.stat().st_size < 64 * 64 + 64 * 4 + 400


def test_a_small_tensor_stays_exact_in_int8():
    graph = graph_of(np.ones((32, 32), np.float32), "MatMul")
    onnx_weights.store(graph, "int8")
    assert [node.op_type for node in graph.node] == ["MatMul"]
    assert graph.initializer[0].data_type == onnx.TensorProto.FLOAT


def test_half_is_ieee_half_precision(tmp_path):
    values = np.random.default_rng(0).standard_normal((32, 32), dtype=np.float32)
    graph, path = graph_of(values, "MatMul"), tmp_path / "fp16.onnx"
    onnx_weights.store(graph, "fp16")
    opset = [onnx.helper.make_opsetid("", onnx_file.OPSET)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    (found,) = opened(path).run(None, {"x": np.eye(32, dtype=np.float32)})
    assert np.array_equal(found, values.astype(np.float16).astype(np.float32))


def test_what_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    model = untrained(*SMALL)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"needs the package onnxscript: pip install"):
        model.export(tmp_path / "model.onnx", to="onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("schedule", OBJECTIVES)
@pytest.mark.parametrize("option", MODELS)
def test_every_network_with_every_kind_of_schedule(option, schedule, tmp_path):
    model = untrained(f"model={option}", f"schedule={schedule}", f"objective={OBJECTIVES[schedule]}", scale=0.02)
    assert difference(model, model.export(tmp_path / "model.onnx", to="onnx")) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("settings", [["guidance=none"], ["loss=hybrid"], ["model.patch=1", "objective=epsilon"]])
def test_models_of_other_kinds(settings, tmp_path):
    model = untrained(*SMALL, *settings, size=[8, 12], channels=3, padding=2)
    assert difference(model, model.export(tmp_path / "model.onnx", to="onnx")) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("option", ["unet_light", "dit_small"])
def test_smaller_weights_are_smaller_and_nearly_the_same(option, tmp_path):
    model = untrained(f"model={option}", scale=0.02)
    sizes = {}
    for weights, limit in (("fp32", 1e-4), ("fp16", 5e-3), ("int8", 5e-2)):
        path = model.export(tmp_path / f"{weights}.onnx", to="onnx", weights=weights)
        sizes[weights] = path.stat().st_size
        assert difference(model, path) < limit
    assert sizes["fp16"] <= 0.52 * sizes["fp32"] and sizes["int8"] <= 0.28 * sizes["fp32"]
