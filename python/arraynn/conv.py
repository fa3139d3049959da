"""Convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from . import _core
from ._common import Array, IntOrPair, gradient_like, integer, spatial
from ._vjp import defvjp

_Pull: TypeAlias = Callable[[Array], tuple[Any, ...]]
_modes = {"same": 1, "valid": 2}


def _options(op: str, dims: int, stride: Any, padding: Any, dilation: Any, groups: Any) -> tuple[Any, ...]:
    """Spell the options as the binding takes them: a number for each dimension."""
    mode = 0
    if isinstance(padding, str):
        if padding not in _modes:
            raise ValueError(
                f"{op}: padding is {padding!r}, expected 'same', 'valid', an int or {dims} of them"
            )
        mode, padding = _modes[padding], 0
    return (
        spatial(op, "stride", stride, dims),
        spatial(op, "padding", padding, dims),
        mode,
        spatial(op, "dilation", dilation, dims),
        integer(op, "groups", groups),
    )


def _transpose_options(
    op: str, dims: int, stride: Any, padding: Any, output_padding: Any, groups: Any, dilation: Any
) -> tuple[Any, ...]:
    """Spell the options of a transposed convolution as the binding takes them."""
    return (
        spatial(op, "stride", stride, dims),
        spatial(op, "padding", padding, dims),
        spatial(op, "output_padding", output_padding, dims),
        integer(op, "groups", groups),
        spatial(op, "dilation", dilation, dims),
    )


def conv1d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Convolve signals with a bank of kernels (cross-correlation, as in PyTorch).

    ``y[n, o, q] = bias[o] + sum_{i, s} weight[o, i, s] x[n, i, q stride + s dilation - padding]``

    Parameters
    ----------
    input : array of shape (N, C, L) or (C, L)
        Floating. A channels-last array (the transpose of an (N, L, C) array) is used as it lies.
    weight : array of shape (O, C // groups, K)
        Any strides.
    bias : array of shape (O,), optional
    stride, dilation : int or tuple, default 1
    padding : int, tuple, 'same' or 'valid', default 0
        Zeros on both sides. 'same' takes stride 1 only; its odd element is at the end.
    groups : int, default 1
        Channels are split into this many groups that do not see each other.
    out : array of shape (N, O, Q), optional
        Where to write the result.

    Returns
    -------
    array of shape (N, O, Q) or (O, Q)
        ``Q = (L + 2 padding - dilation (K - 1) - 1) // stride + 1``, in the memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, or a shape or an option does not fit.

    Notes
    -----
    On the CPU, 3 and 5 taps with stride 1 and enough channels and elements are computed by Winograd's
    F(4, 3) and F(2, 5); see `conv2d` for what that means.
    """
    result: Array = _core.conv1d(
        input, weight, bias, *_options("conv1d", 1, stride, padding, dilation, groups), out
    )
    return result


def conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: str | IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Convolve images with a bank of kernels (cross-correlation, as in PyTorch).

    ``y[n, o, p, q] = bias[o] + sum_{i, r, s} weight[o, i, r, s] x[n, i, p sh + r dh - ph, q sw + s dw - pw]``

    Parameters
    ----------
    input : array of shape (N, C, H, W) or (C, H, W)
        Floating. A channels-last array (say ``x_nhwc.transpose(0, 3, 1, 2)``) is used as it lies.
    weight : array of shape (O, C // groups, R, S)
        Any strides.
    bias : array of shape (O,), optional
    stride, dilation : int or pair of ints, default 1
    padding : int, pair of ints, 'same' or 'valid', default 0
        Zeros on all sides. 'same' takes stride 1 only; its odd element is at the end.
    groups : int, default 1
        Channels are split into this many groups that do not see each other.
    out : array of shape (N, O, P, Q), optional
        Where to write the result.

    Returns
    -------
    array of shape (N, O, P, Q) or (O, P, Q)
        ``P = (H + 2 padding - dilation (R - 1) - 1) // stride + 1``, in the memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, or a shape or an option does not fit.

    Notes
    -----
    On the CPU, 3x3 and 5x5 kernels (and 1x3 and 1x5) with stride 1 and enough channels and pixels are
    computed by Winograd's F(4x4, 3x3) and F(2x2, 5x5) (F(4, 3) and F(2, 5)), gradients too: the error in
    L2, relative to float64, is below 1e-5 in float32, and an infinity or NaN makes more outputs NaN than
    those that it reaches.
    ``ARRAYNN_WINOGRAD=0`` in the environment turns that off.

    Examples
    --------
    >>> y = ann.conv2d(images, weight, bias, padding=1)
    """
    result: Array = _core.conv2d(
        input, weight, bias, *_options("conv2d", 2, stride, padding, dilation, groups), out
    )
    return result


def conv3d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Convolve volumes with a bank of kernels: `conv2d` with one more axis in front.

    Parameters
    ----------
    input : array of shape (N, C, D, H, W) or (C, D, H, W)
        Floating. A channels-last array (say ``x_ndhwc.transpose(0, 4, 1, 2, 3)``) is used as it lies.
    weight : array of shape (O, C // groups, Q, R, S)
        Any strides.
    bias : array of shape (O,), optional
    stride, dilation : int or three ints, default 1
    padding : int, three ints, 'same' or 'valid', default 0
        Zeros on all sides. 'same' takes stride 1 only; its odd element is at the end.
    groups : int, default 1
        Channels are split into this many groups that do not see each other.
    out : array of the result's shape, optional
        Where to write the result.

    Returns
    -------
    array of shape (N, O, D', H', W') or (O, D', H', W')
        ``D' = (D + 2 padding - dilation (Q - 1) - 1) // stride + 1``, in the memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, or a shape or an option does not fit.
    """
    result: Array = _core.conv3d(
        input, weight, bias, *_options("conv3d", 3, stride, padding, dilation, groups), out
    )
    return result


def conv_transpose1d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Spread signals with a bank of kernels: `conv_transpose2d` with one axis less.

    Parameters
    ----------
    input : array of shape (N, C, L) or (C, L)
        Floating. A channels-last array is used as it lies.
    weight : array of shape (C, O // groups, K)
        Any strides.
    bias : array of shape (O,), optional
    stride, dilation : int or tuple, default 1
    padding : int or tuple, default 0
        How much the result is cut on both sides.
    output_padding : int or tuple, default 0
        How much longer the result is at the end; less than `stride` or `dilation`.
    groups : int, default 1
        Channels are split into this many groups that do not see each other.
    out : array of the result's shape, optional
        Where to write the result.

    Returns
    -------
    array of shape (N, O, L') or (O, L')
        ``L' = (L - 1) stride - 2 padding + dilation (K - 1) + output_padding + 1``, in the
        memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, or a shape or an option does not fit.
    """
    options = _transpose_options("conv_transpose1d", 1, stride, padding, output_padding, groups, dilation)
    result: Array = _core.conv_transpose1d(input, weight, bias, *options, out)
    return result


def conv_transpose2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Spread images with a bank of kernels: the gradient of `conv2d` with respect to its input, as an op.

    ``y[n, o, p sh + r dh - ph, q sw + s dw - pw] += weight[i, o, r, s] x[n, i, p, q]``, from ``bias[o]`` on.
    Upsamples by `stride`; also known as deconvolution.

    Parameters
    ----------
    input : array of shape (N, C, H, W) or (C, H, W)
        Floating. A channels-last array is used as it lies.
    weight : array of shape (C, O // groups, R, S)
        Any strides.
    bias : array of shape (O,), optional
    stride, dilation : int or pair of ints, default 1
    padding : int or pair of ints, default 0
        How much the result is cut on both sides.
    output_padding : int or pair of ints, default 0
        How much longer the result is at the end; less than `stride` or `dilation`.
    groups : int, default 1
        Channels are split into this many groups that do not see each other.
    out : array of the result's shape, optional
        Where to write the result.

    Returns
    -------
    array of shape (N, O, H', W') or (O, H', W')
        ``H' = (H - 1) stride - 2 padding + dilation (R - 1) + output_padding + 1``, in the
        memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, or a shape or an option does not fit.

    Examples
    --------
    >>> y = ann.conv_transpose2d(features, weight, stride=2, padding=1)  # 4 x 4 kernel: twice the size
    """
    options = _transpose_options("conv_transpose2d", 2, stride, padding, output_padding, groups, dilation)
    result: Array = _core.conv_transpose2d(input, weight, bias, *options, out)
    return result


def conv_transpose3d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Spread volumes with a bank of kernels: `conv_transpose2d` with one more axis in front.

    Parameters
    ----------
    input : array of shape (N, C, D, H, W) or (C, D, H, W)
        Floating. A channels-last array is used as it lies.
    weight : array of shape (C, O // groups, Q, R, S)
        Any strides.
    bias : array of shape (O,), optional
    stride, dilation : int or three ints, default 1
    padding : int or three ints, default 0
        How much the result is cut on both sides.
    output_padding : int or three ints, default 0
        How much longer the result is at the end; less than `stride` or `dilation`.
    groups : int, default 1
        Channels are split into this many groups that do not see each other.
    out : array of the result's shape, optional
        Where to write the result.

    Returns
    -------
    array of shape (N, O, D', H', W') or (O, D', H', W')
        ``D' = (D - 1) stride - 2 padding + dilation (Q - 1) + output_padding + 1``, in the
        memory order of `input`.

    Raises
    ------
    TypeError, ValueError
        An argument is not a floating array, or a shape or an option does not fit.
    """
    options = _transpose_options("conv_transpose3d", 3, stride, padding, output_padding, groups, dilation)
    result: Array = _core.conv_transpose3d(input, weight, bias, *options, out)
    return result


def _pull(
    op: Callable[..., Array], input: Array, weight: Array, bias: Any, options: Any, wanted: Any
) -> _Pull:
    """Return the pullback: the binding `<op>_backward`, whose options are the op's."""
    backward = getattr(_core, f"{op.__name__}_backward")

    def pull(cotangent: Array) -> tuple[Any, ...]:
        dx, dw, db = backward(
            cotangent, input, weight, *options, wanted[0], wanted[1], wanted[2] and bias is not None
        )
        return (
            gradient_like(dx, input),
            gradient_like(dw, weight),
            None if bias is None else gradient_like(db, bias),
        )

    return pull


def _rule(op: Callable[..., Array], dims: int) -> None:
    @defvjp(op, "input", "weight", "bias")
    def rule(
        wanted: tuple[bool, ...],
        input: Array,
        weight: Array,
        bias: Array | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> tuple[Array, _Pull]:
        out = op(input, weight, bias, stride, padding, dilation, groups)
        options = _options(op.__name__, dims, stride, padding, dilation, groups)
        return out, _pull(op, input, weight, bias, options, wanted)


def _transpose_rule(op: Callable[..., Array], dims: int) -> None:
    @defvjp(op, "input", "weight", "bias")
    def rule(
        wanted: tuple[bool, ...],
        input: Array,
        weight: Array,
        bias: Array | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> tuple[Array, _Pull]:
        out = op(input, weight, bias, stride, padding, output_padding, groups, dilation)
        options = _transpose_options(op.__name__, dims, stride, padding, output_padding, groups, dilation)
        return out, _pull(op, input, weight, bias, options, wanted)


_rule(conv1d, 1)
_rule(conv2d, 2)
_rule(conv3d, 3)
_transpose_rule(conv_transpose1d, 1)
_transpose_rule(conv_transpose2d, 2)
_transpose_rule(conv_transpose3d, 3)
