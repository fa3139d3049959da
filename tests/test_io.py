"""`save` and `load`: safetensors, all or nothing."""

from __future__ import annotations

import os
import stat

import arraynn as ann
import ml_dtypes
import numpy as np
import pytest
import safetensors.torch as safetensors_torch
import torch
from arraynn.layers import LSTM, Conv2d, Flatten, LastStep, Linear, Sequential


def test_layer_round_trip(tmp_path):
    path = tmp_path / "model.safetensors"
    model, other = (
        Sequential(LSTM(3, 4, 2, rng=seed), LastStep(), Linear(4, 2, rng=seed)) for seed in (0, 1)
    )
    ann.save(path, model)
    other.load_state_dict(ann.load(path))
    x = np.random.default_rng(0).standard_normal((5, 2, 3), np.float32)
    np.testing.assert_array_equal(model.eval()(x), other.eval()(x))


def test_optimizer_round_trip(tmp_path):
    path = tmp_path / "adam.safetensors"
    model = Linear(3, 2, rng=0)
    adam = ann.optim.Adam(model.parameters(), lr=0.5)
    model(np.ones((1, 3), np.float32))
    model.backward(np.ones((1, 2), np.float32))
    adam.step()
    ann.save(path, adam)
    other = ann.optim.Adam(model.parameters())
    other.load_state_dict(ann.load(path))
    assert other.lr == 0.5
    for name, value in other.state_dict().items():
        np.testing.assert_array_equal(value, adam.state_dict()[name])


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.uint8, np.bool_]
)
def test_dtypes_and_layouts(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    base = np.arange(24).reshape(2, 3, 4).astype(dtype)
    arrays = {
        "c": base,
        "t": base.T,
        "neg": base[:, ::-1, ::2],
        "zero": base[:0],
        "scalar": base[0, 0, 1],
    }
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    ann.save(path, arrays)
    loaded = ann.load(path)
    assert loaded.keys() == arrays.keys()
    for name, value in arrays.items():
        assert loaded[name].dtype == value.dtype
        assert loaded[name].shape == value.shape
        np.testing.assert_array_equal(loaded[name], value)
        assert loaded[name].flags.writeable


def test_big_endian_arrays_are_saved_by_value(tmp_path):
    ann.save(tmp_path / "a", {"a": np.arange(3.0).astype(">f8")})
    np.testing.assert_array_equal(ann.load(tmp_path / "a")["a"], [0, 1, 2])


def test_pytorch_reads_and_writes_the_same_files(tmp_path):
    ours = Sequential(Conv2d(1, 2, 3), Flatten(), Linear(32, 2))
    theirs = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(32, 2))
    safetensors_torch.save_model(theirs, str(tmp_path / "theirs.safetensors"))
    ours.load_state_dict(ann.load(tmp_path / "theirs.safetensors"))
    x = np.random.default_rng(0).standard_normal((3, 1, 6, 6), np.float32)
    np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=1e-6)
    ann.save(tmp_path / "ours.safetensors", ours, metadata={"made": "here"})
    safetensors_torch.load_model(theirs, str(tmp_path / "ours.safetensors"))


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    ann.save(path, {"a": np.zeros(3)})
    ann.save(path, {"a": np.ones(3)})

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        ann.save(path, {"a": np.zeros(9)})
    np.testing.assert_array_equal(ann.load(path)["a"], np.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        ann.save(str(tmp_path / "a.safetensors"), {"a": np.zeros(3)})
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (np.zeros(3), "save: state must be a layer or a mapping of arrays, got ndarray"),
        ({"a": [1.0]}, "save: a must be an array of numbers, got list"),
        ({"a": np.array([None])}, "save: a must be an array of numbers, got dtype object"),
        ({1: np.zeros(3)}, "save: a name must be a str, got 1"),
        ({"a": np.zeros(3, "U5")}, "save: a must be an array of numbers, got dtype"),
    ],
)
def test_save_refuses(tmp_path, state, message):
    with pytest.raises(TypeError, match=message):
        ann.save(tmp_path / "a.safetensors", state)
    assert not list(tmp_path.iterdir())


def test_load_refuses(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError):
        ann.load(path)
    ann.save(path, {"a": np.zeros(100)})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="is not a safetensors file"):
        ann.load(path)
