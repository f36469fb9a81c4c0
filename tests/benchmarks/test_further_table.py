"""The benchmark of models that are taken further: its images, its command lines, its table."""

import argparse
import gzip
import sys
from pathlib import Path

import numpy as np
from conftest import ROOT
from PIL import Image

sys.path.insert(0, str(ROOT / "benchmarks"))
import further


def write_idx(path, array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def test_three_digits_are_divided_into_training_and_test_images(tmp_path, monkeypatch):
    labels = np.arange(40) % 10
    pixels = np.broadcast_to(np.arange(40)[:, None, None], (40, 5, 4))
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", pixels)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", labels)
    monkeypatch.setattr(further, "TRAINED", 7)
    further.write_digits(tmp_path, tmp_path / "digits")
    found = {path.relative_to(tmp_path / "digits") for path in (tmp_path / "digits").rglob("*.png")}
    chosen = [i for i in range(40) if labels[i] in further.DIGITS]
    assert found == {Path("train" if k < 7 else "test") / str(labels[i]) / f"{i}.png" for k, i in enumerate(chosen)}
    image = np.asarray(Image.open(tmp_path / "digits" / "train" / "2" / "12.png"))
    assert image.shape == (5, 4) and (image == 12).all()


def test_only_where_they_begin_is_different(tmp_path):
    asked = argparse.Namespace(
        checkpoint=tmp_path, images=tmp_path, size=28, channels=1, budget="60s", n=9, words=["a=b"]
    )
    nothing, begun, frozen = (further.words(start, asked, 5) for start in further.STARTS)
    assert begun == [f"checkpoint={tmp_path}", *nothing] and set(nothing) < set(frozen)
    assert {"seed=5", "training.budget=60s", "score.n=9", "a=b"} < set(nothing)


def test_the_table_holds_medians():
    config = {"training": {"batch_size": 10}}
    runs = [
        {"step": 100 * k, "config": config, "fid": float(k), "accuracy": 0.5, "real": {"fid": 0.25}} for k in (1, 2, 9)
    ]
    text = further.table({"nothing": runs, "further": []})
    assert "| from nothing | 2,000 (1,000 – 9,000) | 2.00 (1.00 – 9.00) |" in text and "from the trained" not in text
