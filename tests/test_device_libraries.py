"""Settings of the CUDA side, and the adapters of the libraries of CUDA arrays."""

from __future__ import annotations

import os
import subprocess
import sys

import arraynn as ann
import device
import numpy as np
import pytest
import torch
from arraynn import _core, _device
from checks import cotangent_of, refuses
from device_calls import B, W, X
from shapes import channels_last, is_channels_last

pytestmark = pytest.mark.usefixtures("emulator_in_use")


def test_settings() -> None:
    assert ann.cuda.allow_tf32() is False
    try:
        assert ann.cuda.allow_tf32(True) is True
        assert ann.cuda.allow_tf32() is True
    finally:
        ann.cuda.allow_tf32(False)
    for setting in (ann.cuda.allow_tf32, ann.cuda.set_checks):
        refuses(TypeError, "expected True or False", setting, 1)
    code = "import arraynn._core as c; print(c.cuda_checks())"
    for text, shown in (("1", "True"), ("0", "False"), ("", "False")):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "ARRAYNN_CUDA_CHECKS": text},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == shown
    bad = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ARRAYNN_CUDA_CHECKS": "yes"},
        capture_output=True,
        text=True,
    )
    assert "ARRAYNN_CUDA_CHECKS: got 'yes', expected 0 or 1" in bad.stderr


def test_a_back_end_that_is_none() -> None:
    with pytest.raises(RuntimeError, match="no-such-file"):
        _core.load_cuda_backend("/no-such-file.so")
    with pytest.raises(RuntimeError, match="is not a CUDA back end of this version of arraynn"):
        _core.load_cuda_backend(_core.__file__)


def test_channels_last_by_strides() -> None:
    for shape in ((2, 3, 4, 5), (1, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1), (2, 3, 4), (0, 3, 4, 5)):
        for a in (np.ones(shape), channels_last(np.ones(shape))):
            c_order = a.ndim == 4 and not a.flags.c_contiguous and a.transpose(0, 2, 3, 1).flags.c_contiguous
            steps = tuple(s // 8 for s in a.strides)
            assert _device.is_channels_last(a.shape, steps) == c_order, shape


def test_the_adapter_of_pytorch() -> None:
    """What of it needs no GPU."""
    x = torch.arange(6.0).reshape(2, 3)
    library = _device.library_of(x)
    assert library is not None
    assert library is _device.library_of(torch.nn.Parameter(x))
    assert (library.name, library.where(x), library.dtype_name(x)) == ("torch", (1, 0), "float32")
    assert library.strides(x.T) == (1, 3)
    assert library.permute(x, (1, 0)).shape == (3, 2)
    assert library.astype(x.T, torch.float64).stride() == (1, 3)
    total = library.sum(x, (0,))
    assert total.dtype == torch.float32
    np.testing.assert_array_equal(total.numpy(), [[3, 5, 7]])
    assert library.writable(x)
    assert "dltensor" in repr(library.dlpack(x.requires_grad_()))


def test_cotangents_of_the_harness_cover_every_leaf() -> None:
    """`ann` of the harness gives NumPy back, with the memory order of the device's result."""
    device.use("emulated")
    try:
        y, pullback = device.ann.vjp(device.ann.conv2d, channels_last(X), W, B)
        assert is_channels_last(y)
        assert all(type(g) is np.ndarray for g in pullback(cotangent_of(y)))
        out = np.empty_like(y)
        assert device.ann.conv2d(channels_last(X), W, B, out=out) is out
        np.testing.assert_array_equal(out, y)
    finally:
        device.use(None)
