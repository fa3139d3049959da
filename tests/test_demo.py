"""The demo: reading digits, training, drawing; and its plain NumPy kernels."""

from __future__ import annotations

import builtins
import gzip
import importlib.util
import struct

import numpy as np
import pytest
from arraynn import _demo_table, demo


def write_idx(path, array, zipped):
    data = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if zipped else data)


def write_digits(folder, zipped=False, n=(40, 20)):
    rng = np.random.default_rng(0)
    for part, count in zip(("train", "t10k"), n, strict=True):
        suffix = ".gz" if zipped else ""
        images = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images, zipped)
        write_idx(
            folder / f"{part}-labels-idx1-ubyte{suffix}", (np.arange(count) % 10).astype(np.uint8), zipped
        )


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_files(tmp_path, zipped):
    write_digits(tmp_path, zipped)
    digits = demo.mnist(tmp_path)
    (x, y), (x_test, y_test) = digits.train, digits.test
    assert x.shape == (40, 28, 28)
    assert x.dtype == np.float32
    assert x_test.shape == (20, 28, 28)
    assert abs(x.mean()) < 1e-5
    assert x.std() == pytest.approx(1, rel=1e-4)
    np.testing.assert_array_equal(y, np.arange(40) % 10)
    np.testing.assert_array_equal(y_test, np.arange(20) % 10)


def test_bad_idx_files(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"no digits")
    with pytest.raises(ValueError, match="is not an IDX file"):
        demo.read_idx(path)
    write_idx(path, np.zeros((3, 4), np.uint8), zipped=False)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"is cut off: 23 bytes for the shape \(3, 4\)"):
        demo.read_idx(path)
    with pytest.raises(SystemExit, match="has no file train-images-idx3-ubyte or train-images-idx3-ubyte"):
        demo.main(["--data", str(tmp_path)])


def test_demo_on_files(tmp_path, capsys):
    write_digits(tmp_path)
    picture = tmp_path / "picture.png"
    demo.main(["--data", str(tmp_path), "--epochs", "1", "--out", str(picture), "--no-table"])
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    printed = capsys.readouterr()
    assert "CNN: test accuracy" in printed.out
    assert "LSTM: test accuracy" in printed.out
    assert "Epoch 1/1" in printed.err
    assert "val_accuracy=" in printed.err


def test_demo_on_bundled_digits(tmp_path, capsys):
    demo.main(["--epochs", "2", "--out", str(tmp_path / "a.png"), "--no-table"])
    accuracies = [
        float(line.split("accuracy ")[1].split("%")[0])
        for line in capsys.readouterr().out.splitlines()
        if "accuracy" in line
    ]
    assert len(accuracies) == 2
    assert min(accuracies) > 85


def test_bundled_split_is_stratified_and_fixed():
    a, b = demo.bundled(), demo.bundled()
    np.testing.assert_array_equal(a.test[0], b.test[0])
    assert a.train[0].shape == (1437, 8, 8)
    assert a.test[0].shape == (360, 8, 8)
    assert np.bincount(a.test[1]).min() >= 34


def test_shifted_copies():
    x = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    moved, labels = demo.shifted(x, np.array([4, 7]))
    assert moved.shape == (10, 3, 3)
    np.testing.assert_array_equal(labels, [4, 7] * 5)
    np.testing.assert_array_equal(moved[:2], x)
    np.testing.assert_array_equal(moved[2:4, 1:], x[:, :-1])  # down by one


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        SystemExit, match=r"demo: needs matplotlib and scikit-learn: pip install 'arraynn\[demo\]'"
    ):
        demo.main([])


def test_bad_options(capsys):
    with pytest.raises(SystemExit):
        demo.main(["--epochs", "0"])
    assert "--epochs must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("with_torch", [False, True])
def test_table(monkeypatch, capsys, with_torch):
    """Every row, in which `show` itself compares the results of all three."""
    if not with_torch:
        real = builtins.__import__

        def no_torch(name, *args, **kwargs):
            if name == "torch":
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", no_torch)
    monkeypatch.setattr(_demo_table, "SECONDS_PER_CASE", 0)
    _demo_table.show()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert ("PyTorch" in lines[1]) is with_torch
    assert all(line.count("x)") == 1 + with_torch for line in lines[2:])
