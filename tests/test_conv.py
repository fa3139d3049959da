"""Convolutions and transposed convolutions against the reference and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checks import check_bad, check_out, check_overlap, check_threads, cotangent_of
from conv_calls import CASES, CASES_3D, CASES_TRANSPOSED, cases, check, transpose_cases
from device import ann
from hypothesis import given
from shapes import HALF, WIDE, channels_last, is_channels_last, values
from tolerance import assert_close, largest


@given(cases(1))
def test_conv1d(case: Any) -> None:
    args, options = case
    check("conv1d", *args, **options)


@given(cases(2))
def test_conv2d(case: Any) -> None:
    args, options = case
    check("conv2d", *args, **options)


@given(cases(3))
def test_conv3d(case: Any) -> None:
    args, options = case
    check("conv3d", *args, **options)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize(("shape", "kernel", "options"), CASES, ids=str)
def test_conv2d_case(
    shape: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, Any], dtype: Any
) -> None:
    x, w, b = values(shape, dtype, 1), values(kernel, dtype, 2), values(kernel[:1], dtype, 3)
    y = check("conv2d", x, w, b, **options)
    z = check("conv2d", channels_last(x), w, b, **options)
    assert_close(z, y, terms=w[0].size, scale=largest(x) * largest(w))
    assert is_channels_last(z)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize(("shape", "kernel", "options"), CASES_3D, ids=str)
def test_conv3d_case(
    shape: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, Any], dtype: Any
) -> None:
    x, w, b = values(shape, dtype, 1), values(kernel, dtype, 2), values(kernel[:1], dtype, 3)
    y = check("conv3d", x, w, b, **options)
    z = check("conv3d", channels_last(x, 3), channels_last(w, 3), b, **options)
    assert_close(z, y, terms=w[0].size, scale=largest(x) * largest(w))
    assert is_channels_last(z, 3)


def test_a_volume_of_one_slice_is_an_image() -> None:
    x, w, b = (
        values((2, 5, 9, 10), np.float64, 1),
        values((6, 5, 3, 3), np.float64, 2),
        values((6,), np.float64, 3),
    )
    for options in ({}, dict(stride=2, padding=1), dict(groups=5, padding=1)):
        kernel = w[:5, :1] if "groups" in options else w
        y = ann.conv3d(x[:, :, None], kernel[:, :, None], b[: len(kernel)], **_with_no_depth(options))
        expected = ann.conv2d(x, kernel, b[: len(kernel)], **options)
        np.testing.assert_array_equal(y[:, :, 0], expected)


def _with_no_depth(options: dict[str, Any]) -> dict[str, Any]:
    none = {"stride": 1, "padding": 0}
    return {k: (none[k], v, v) if k in none else v for k, v in options.items()}


def test_pixels_far_outside_the_volume() -> None:
    """Positions in depth and height whose product is large, and which are all outside but one."""
    x, w = values((2, 3, 2, 3, 4), np.float64, 1), values((5, 3, 1, 1, 1), np.float64, 2)
    options = dict(stride=(5000, 6000, 1), padding=(5000, 6000, 0))
    y, pullback = ann.vjp(ann.conv3d, x, w, None, **options, wrt="weight")
    expected = np.zeros((2, 5, 3, 3, 4))
    expected[:, :, 1, 1] = ann.conv1d(x[:, :, 0, 0], w[:, :, 0, 0])
    assert_close(y, expected, terms=3, scale=largest(x) * largest(w))
    dw = pullback(np.ones_like(y))[1]
    assert_close(
        dw,
        np.broadcast_to(x[:, :, 0, 0].sum((0, 2))[:, None, None, None], w.shape),
        terms=8,
        scale=largest(x),
    )


@given(transpose_cases(1) | transpose_cases(2) | transpose_cases(3))
def test_conv_transpose(case: Any) -> None:
    args, options = case
    check(f"conv_transpose{args[1].ndim - 2}d", *args, **options)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize(("shape", "kernel", "options"), CASES_TRANSPOSED, ids=str)
def test_conv_transpose_case(
    shape: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, Any], dtype: Any
) -> None:
    axes, channels = len(kernel) - 2, kernel[1] * options.get("groups", 1)
    x, w, b = values(shape, dtype, 1), values(kernel, dtype, 2), values((channels,), dtype, 3)
    name = f"conv_transpose{axes}d"
    y = check(name, x, w, b, **options)
    last = channels_last(x, axes)
    if len(shape) == axes + 2 and not last.flags.c_contiguous:
        z = check(name, last, w, b, **options)
        assert_close(z, y, terms=w[:, 0].size, scale=largest(x) * largest(w) + largest(b))
        assert is_channels_last(z, axes)


def test_a_transposed_convolution_is_the_gradient_of_a_convolution() -> None:
    x, w = values((2, 6, 9, 8), np.float64, 1), values((4, 3, 3, 2), np.float64, 2)
    options = dict(stride=2, padding=1, groups=2)
    y, pullback = ann.vjp(ann.conv2d, x, w, None, **options, wrt="input")
    dy = cotangent_of(y)
    dx = ann.conv_transpose2d(dy, w, **options)
    np.testing.assert_array_equal(dx, pullback(dy)[0])


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("shape", [(2, 5, 40), (1, 16, 128), (3, 1, 17), (7, 33)])
def test_conv1d_case(shape: tuple[int, ...], dtype: Any) -> None:
    for out, kernel, options in (
        (3, 3, {}),
        (17, 5, dict(padding=2)),
        (8, 1, {}),
        (4, 4, dict(padding="same")),
    ):
        x, w = values(shape, dtype, 1), values((out, shape[-2], kernel), dtype, 2)
        check("conv1d", x, w, values((out,), dtype, 3), **options)


def test_no_channels() -> None:
    x, w, b = np.ones((2, 3, 5, 5)), np.ones((4, 3, 3, 3)), np.arange(4.0)
    assert check("conv2d", x, w[:0]).shape == (2, 0, 3, 3)
    y = check("conv2d", x[:, :0], w[:, :0], b)
    np.testing.assert_array_equal(y, np.broadcast_to(b[:, None, None], (2, 4, 3, 3)))


def test_same_puts_the_odd_element_at_the_end() -> None:
    x, w = np.arange(1.0, 5)[np.newaxis], np.array([[[1.0, 10, 100, 1000]]])
    np.testing.assert_array_equal(ann.conv1d(x, w, padding="same"), [[3210, 4321, 432, 43]])


def test_every_window_and_every_weight_has_its_place() -> None:
    """Whole numbers of different powers: a swap of any two axes gives other digits."""
    x = np.arange(2 * 3 * 4 * 5, dtype=np.float64).reshape(2, 3, 4, 5)
    w = np.zeros((2, 3, 2, 3))
    w[1, 2, 1, 0] = 1
    y = ann.conv2d(x, w, np.array([0.5, 0.25]))
    np.testing.assert_array_equal(y[:, 0], 0.5)
    np.testing.assert_array_equal(y[:, 1], x[:, 2, 1:, :3] + 0.25)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half(dtype: Any) -> None:
    u, t, c = values((2, 5, 6, 9), dtype, 1), values((5, 3, 4, 4), dtype, 2), values((3,), dtype, 3)
    for layout in (np.ascontiguousarray, channels_last):
        y = check("conv_transpose2d", layout(u), t, c, stride=2, output_padding=1)
        assert y.dtype == dtype
    v, k = values((2, 5, 3, 4, 9), dtype, 1), values((7, 5, 2, 3, 3), dtype, 2)
    assert check("conv3d", v, k, values((7,), dtype, 3), padding=1).dtype == dtype
    assert check("conv3d", v, k[:5, :1], None, padding=1, groups=5).dtype == dtype
    x, w, b = values((2, 5, 9, 8), dtype, 1), values((7, 5, 3, 3), dtype, 2), values((7,), dtype, 3)
    assert check("conv2d", x, w, b, padding=1).dtype == dtype
    assert check("conv1d", x[..., 0], w[..., 0], b).dtype == dtype


def test_mixed_dtypes() -> None:
    x, w, b = (
        values((2, 4, 7, 7), np.float32, 1),
        values((3, 4, 3, 3), np.float64, 2),
        values((3,), np.float16, 3),
    )
    assert check("conv2d", x, w, b).dtype == np.float64
    assert check("conv2d", x.astype(np.float16), w.astype(np.float32), b).dtype == np.float32
    big = x.astype(">f4")
    np.testing.assert_array_equal(ann.conv2d(big, w), ann.conv2d(x, w))


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv3d", "conv_transpose2d"])
def test_out(name: str) -> None:
    axes = int(name[-2])
    x, w, b = (
        values((2, 4, *(8, 9, 5)[:axes]), np.float32, 1),
        values((6, 4, *(3, 3, 3)[:axes]), np.float32, 2),
        None,
    )
    if "transpose" in name:
        w = np.ascontiguousarray(w.swapaxes(0, 1))
    for padding in (0, 1):
        check_out(name, x, w, b, padding=padding)
    check_overlap(name, x, w, values((6,), np.float32, 3))


def test_channels_last_stays_channels_last() -> None:
    x, w = channels_last(values((2, 16, 9, 10), np.float32, 1)), values((8, 16, 3, 3), np.float32, 2)
    for kernel, options in (
        (w, {}),
        (w[:, :1].repeat(2, 0), dict(groups=16)),
        (w[:, :, :1, :1], dict(stride=2)),
    ):
        y, pullback = ann.vjp(ann.conv2d, x, kernel, None, padding=1, **options)
        assert is_channels_last(y)
        assert is_channels_last(ann.conv2d(x, kernel, None, padding=1, **options))
        dx, _, _ = pullback(channels_last(cotangent_of(y)))
        assert is_channels_last(dx)


@pytest.mark.cpu_only
@pytest.mark.parametrize("layout", [np.ascontiguousarray, channels_last], ids=["c", "channels-last"])
def test_same_bits_for_any_number_of_threads(layout: Any) -> None:
    x, b = layout(values((3, 24, 33, 34), np.float32, 1)), values((40,), np.float32, 3)
    check_threads("conv2d", x, values((40, 24, 3, 3), np.float32, 2), b, padding=1)
    check_threads("conv2d", x, values((40, 24, 1, 1), np.float32, 2), b)
    check_threads("conv2d", x, values((24, 1, 3, 3), np.float32, 2), b[:24], padding=1, groups=24)
    check_threads("conv2d", x, values((40, 12, 5, 5), np.float32, 2), b, stride=2, groups=2)


@pytest.mark.cpu_only
@pytest.mark.parametrize("last", [False, True], ids=["c", "channels-last"])
def test_same_bits_in_3d_for_any_number_of_threads(last: bool) -> None:
    x, b = values((2, 24, 6, 9, 34), np.float32, 1), values((40,), np.float32, 3)
    x = channels_last(x, 3) if last else x
    check_threads("conv3d", x, values((40, 12, 3, 3, 3), np.float32, 2), b, stride=2, padding=1, groups=2)
    check_threads("conv3d", x, values((24, 1, 3, 3, 3), np.float32, 2), None, padding=1, groups=24)
    check_threads("conv_transpose3d", x, values((24, 10, 3, 3, 2), np.float32, 2), b, stride=2, groups=4)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize(
    "options", [{}, dict(stride=2, padding=1), dict(padding="same", dilation=2), dict(groups=2)], ids=str
)
@pytest.mark.parametrize("name", ["conv2d", "conv3d"])
def test_torch(name: str, options: dict[str, Any], dtype: Any) -> None:
    size, kernel = ((11, 12), (3, 3)) if name == "conv2d" else ((5, 6, 7), (3, 2, 3))
    x, b = values((2, 6, *size), dtype, 1), values((8,), dtype, 3)
    w = values((8, 6 // options.get("groups", 1), *kernel), dtype, 2)
    y, pullback = ann.vjp(getattr(ann, name), x, w, b, **options)
    tx, tw, tb = (torch.tensor(a, requires_grad=True) for a in (x, w, b))
    ty = getattr(F, name)(tx, tw, tb, **options)
    assert_close(y, ty.detach().numpy(), terms=60, scale=10)
    dy = cotangent_of(y)
    ty.backward(torch.tensor(dy))
    for g, t in zip(pullback(dy), (tx, tw, tb), strict=True):
        assert_close(g, t.grad.numpy(), terms=300, scale=4)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize(
    "options", [{}, dict(stride=2, padding=1, output_padding=1), dict(groups=2, dilation=2)], ids=str
)
def test_torch_transposed(options: dict[str, Any], dtype: Any) -> None:
    w = values((6, 8 // options.get("groups", 1), 3, 4), dtype, 2)
    x, b = values((2, 6, 7, 8), dtype, 1), values((8,), dtype, 3)
    y, pullback = ann.vjp(ann.conv_transpose2d, x, w, b, **options)
    tx, tw, tb = (torch.tensor(a, requires_grad=True) for a in (x, w, b))
    ty = F.conv_transpose2d(tx, tw, tb, **options)
    assert_close(y, ty.detach().numpy(), terms=80, scale=10)
    dy = cotangent_of(y)
    ty.backward(torch.tensor(dy))
    for g, t in zip(pullback(dy), (tx, tw, tb), strict=True):
        assert_close(g, t.grad.numpy(), terms=500, scale=4)


X, W, B = np.ones((2, 4, 6, 6), np.float32), np.ones((8, 4, 3, 3), np.float32), np.ones(8, np.float32)

BAD: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
    (TypeError, "input", (X.tolist(), W), {}),
    (TypeError, "input", (X.astype(int), W), {}),
    (TypeError, "input", (X > 0, W), {}),
    (TypeError, "input", (X.astype(complex), W), {}),
    (TypeError, "input", (X.astype(object), W), {}),
    (TypeError, "input", (None, W), {}),
    (TypeError, "weight", (X, W.tolist()), {}),
    (TypeError, "weight", (X, W.astype(np.int8)), {}),
    (TypeError, "weight", (X, None), {}),
    (TypeError, "bias", (X, W, [1.0] * 8), {}),
    (TypeError, "bias", (X, W, B.astype(int)), {}),
    (ValueError, "input", (X[0, 0], W), {}),
    (ValueError, "input", (X[None], W), {}),
    (ValueError, "weight", (X, W[0]), {}),
    (ValueError, "weight", (X, W[..., None]), {}),
    (ValueError, "input", (X[:, :3], W), {}),
    (ValueError, "input has 4 channels", (X, W[:, :3]), {}),
    (ValueError, "groups", (X, W), dict(groups=2)),
    (ValueError, "groups", (X, W[:7, :2]), dict(groups=2)),
    (ValueError, "groups", (X, W), dict(groups=0)),
    (ValueError, "groups", (X, W), dict(groups=-1)),
    (TypeError, "groups", (X, W), dict(groups=1.0)),
    (ValueError, "bias", (X, W, B[:7]), {}),
    (ValueError, "bias", (X, W, B[:1]), {}),
    (ValueError, "bias", (X, W, B[:, None]), {}),
    (ValueError, "stride", (X, W), dict(stride=0)),
    (ValueError, "stride", (X, W), dict(stride=(1, -1))),
    (ValueError, "stride", (X, W), dict(stride=(1, 1, 1))),
    (TypeError, "stride", (X, W), dict(stride=1.5)),
    (TypeError, "stride", (X, W), dict(stride="2")),
    (TypeError, "stride", (X, W), dict(stride=None)),
    (ValueError, "dilation", (X, W), dict(dilation=0)),
    (ValueError, "dilation", (X, W), dict(dilation=(1, 1, 1))),
    (TypeError, "dilation", (X, W), dict(dilation=(1, 1.0))),
    (ValueError, "padding", (X, W), dict(padding=-1)),
    (ValueError, "padding", (X, W), dict(padding=(1, 1, 1))),
    (ValueError, "padding", (X, W), dict(padding="full")),
    (ValueError, "padding", (X, W), dict(padding="same", stride=2)),
    (TypeError, "padding", (X, W), dict(padding=0.5)),
    (ValueError, "input", (X[..., :2], W), {}),
    (ValueError, "input", (X[:0, :, :2], W), {}),
    (ValueError, "input", (X, W), dict(dilation=3)),
    (ValueError, "input", (X[..., :0], W), dict(padding=1)),
    (ValueError, "input", (X[..., :0], W), dict(padding=2)),  # padding alone has room for the kernel
    (ValueError, "input", (X[..., :0, :], W), dict(padding=2)),
    (ValueError, "weight", (X, W[..., :0]), {}),
]


@pytest.mark.parametrize(("error", "argument", "args", "options"), BAD)
def test_bad(error: Any, argument: str, args: Any, options: Any) -> None:
    check_bad("conv2d", error, argument, *args, **options)


def test_bad_conv1d() -> None:
    check_bad("conv1d", ValueError, "input", X, W[..., 0])
    check_bad("conv1d", ValueError, "weight", X[..., 0], W)
    check_bad("conv1d", ValueError, "stride", X[..., 0], W[..., 0], stride=(1, 1))


def test_bad_conv3d() -> None:
    x, w = X[..., None], W[..., None]
    check_bad("conv3d", ValueError, "input", X[0], w)
    check_bad("conv3d", ValueError, "weight", x, W)
    check_bad("conv3d", ValueError, "stride", x, w, stride=(1, 1))
    check_bad("conv3d", ValueError, "dilation", x, w, dilation=(0, 1, 1))
    check_bad("conv3d", ValueError, "padding", x, w, padding="same", stride=(2, 1, 1))
    check_bad("conv3d", ValueError, "input", x[:, :, :2], w)
    check_bad("conv3d", ValueError, "input", x[:, :, :0], w, padding=3)
    check_bad("conv3d", ValueError, "weight", x, w[:, :, :0])
    with pytest.raises(ValueError, match=r"^conv3d: input has depth 2, "):
        ann.conv3d(x[:, :, :2], w)


T = W.swapaxes(0, 1)

BAD_TRANSPOSED: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
    (TypeError, "input", (X.tolist(), T), {}),
    (TypeError, "weight", (X, T.astype(int)), {}),
    (TypeError, "bias", (X, T, [1.0] * 8), {}),
    (ValueError, "input", (X[0, 0], T), {}),
    (ValueError, "weight", (X, T[0]), {}),
    (ValueError, "input has 4 channels", (X, T[:3]), {}),
    (ValueError, "groups", (X, T), dict(groups=3)),
    (ValueError, "groups", (X, T), dict(groups=0)),
    (ValueError, "bias", (X, T, B[:7]), {}),
    (ValueError, "bias", (X, T, B), dict(groups=2)),
    (ValueError, "stride", (X, T), dict(stride=(1, 0))),
    (ValueError, "dilation", (X, T), dict(dilation=0)),
    (ValueError, "padding", (X, T), dict(padding=-1)),
    (TypeError, "padding", (X, T), dict(padding="same")),
    (ValueError, "output_padding", (X, T), dict(output_padding=-1)),
    (ValueError, "output_padding", (X, T), dict(output_padding=1)),
    (ValueError, "output_padding", (X, T), dict(stride=2, dilation=(1, 3), output_padding=2)),
    (ValueError, "output_padding", (X, T), dict(stride=2, output_padding=(1, 1, 1))),
    (TypeError, "output_padding", (X, T), dict(stride=2, output_padding=0.5)),
    (ValueError, "input", (X, T), dict(padding=4)),
    (ValueError, "input", (X[..., :0], T), {}),
    (ValueError, "weight", (X, T[..., :0]), {}),
]


@pytest.mark.parametrize(("error", "argument", "args", "options"), BAD_TRANSPOSED)
def test_bad_transposed(error: Any, argument: str, args: Any, options: Any) -> None:
    check_bad("conv_transpose2d", error, argument, *args, **options)


def test_no_channels_transposed() -> None:
    b = np.arange(8.0)
    y = check("conv_transpose2d", np.ones((2, 0, 3, 3)), np.ones((0, 8, 2, 2)), b)
    np.testing.assert_array_equal(y, np.broadcast_to(b[:, None, None], (2, 8, 4, 4)))
    assert check("conv_transpose2d", np.ones((2, 3, 3, 3)), np.ones((3, 0, 2, 2))).shape == (2, 0, 4, 4)


def test_transposed_options_as_large_as_their_type() -> None:
    x, t = values((2, 3, 2, 2), np.float32, 1), values((3, 4, 2, 2), np.float32, 2)
    for options in (dict(stride=2**62), dict(dilation=2**62), dict(padding=2**62), dict(groups=2**62)):
        with pytest.raises(ValueError, match=r"^conv_transpose2d: "):
            ann.conv_transpose2d(x, t, **options)


def test_strides_beyond_all_arithmetic() -> None:
    """One window is taken whatever the stride, and it lies in the padding, or reaches over all there is."""
    huge = 2**63 - 1
    x, one = values((2, 3, 8), np.float32, 1), values((4, 3, 1), np.float32, 2)
    assert not check("conv1d", x, one, stride=huge, padding=2).any()
    check("conv1d", x, values((4, 3, 8), np.float32, 3), stride=huge)
    t = values((3, 4, 3), np.float32, 4)
    only = values((2, 3, 1), np.float32, 5)
    check("conv_transpose1d", only, t, stride=huge, padding=1, output_padding=5)


def test_options_as_large_as_their_type() -> None:
    x, w = values((2, 3, 8, 8), np.float32, 1), values((4, 3, 5, 5), np.float32, 2)
    for options in (dict(dilation=2**62), dict(padding=2**62), dict(padding=2**58), dict(stride=2**64)):
        with pytest.raises(ValueError, match=r"^conv2d: "):
            ann.conv2d(x, w, **options)
    y, pullback = ann.vjp(ann.conv2d, x, w, None, 2**62)  # one window, and a gradient without a hang
    assert y.shape == (2, 4, 1, 1)
    assert not pullback(np.ones_like(y))[0][:, :, 5:].any()
