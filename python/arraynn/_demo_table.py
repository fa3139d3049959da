"""The demo's table: milliseconds of kernels here, in plain NumPy, and in PyTorch where installed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ._config import get_num_threads
from ._vjp import vjp
from .conv import conv2d
from .cross_entropy import cross_entropy
from .linear import linear
from .optimizer import adam_step
from .pool import max_pool2d
from .rnn import lstm

Array = NDArray[Any]
SECONDS_PER_CASE = 1.0


class Case(NamedTuple):
    """The same work three times; each returns an array that must agree, PyTorch's may be None."""

    title: str
    ours: Callable[[], Any]
    numpy: Callable[[], Any]
    torch: Callable[[], Any] | None


# -- plain NumPy ----------------------------------------------------------------------------


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _columns(x: Array, size: int) -> Array:
    """The input patches of a convolution with padding size // 2: (N, C * size * size, H * W)."""
    n, c, h, w = x.shape
    pad = size // 2
    windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad))), (size, size), (2, 3))
    return windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, c * size * size, h * w)


def _conv2d(x: Array, weight: Array) -> Array:
    out = weight.reshape(len(weight), -1) @ _columns(x, weight.shape[-1])
    return out.reshape(len(x), len(weight), *x.shape[2:])


def _conv2d_gradients(x: Array, weight: Array, dy: Array) -> tuple[Array, Array, Array]:
    columns = _columns(x, weight.shape[-1])
    y = (weight.reshape(len(weight), -1) @ columns).reshape(dy.shape)
    flat = dy.reshape(*dy.shape[:2], -1)
    dweight = (flat @ columns.transpose(0, 2, 1)).sum(0).reshape(weight.shape)
    # the gradient of a convolution is one with the kernel turned around
    return y, _conv2d(dy, weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)), dweight


def _max_pool2d(x: Array) -> Array:
    # four strided slices: many times faster than a reshape and a maximum over two axes
    rows = np.maximum(x[:, :, ::2], x[:, :, 1::2])
    return np.maximum(rows[..., ::2], rows[..., 1::2])


def _lstm_steps(x: Array, w_ih: Array, w_hh: Array, bias: Array) -> tuple[Array, Array, Array]:
    """Hidden and cell states (T + 1, N, H) and activated gates (T, N, 4 H)."""
    steps, n, _ = x.shape
    size = w_hh.shape[1]
    gates = x @ w_ih.T + bias
    h, c = np.zeros((2, steps + 1, n, size), x.dtype)
    for t in range(steps):
        gates[t] += h[t] @ w_hh.T
        cells = gates[t, :, 2 * size : 3 * size]
        np.tanh(cells, out=cells)
        for part in (gates[t, :, : 2 * size], gates[t, :, 3 * size :]):
            part[...] = _sigmoid(part)
        i, f, g, o = np.split(gates[t], 4, axis=1)
        c[t + 1] = f * c[t] + i * g
        h[t + 1] = o * np.tanh(c[t + 1])
    return h, c, gates


def _lstm(x: Array, w_ih: Array, w_hh: Array, bias: Array) -> Array:
    return _lstm_steps(x, w_ih, w_hh, bias)[0][1:]


def _lstm_gradients(x: Array, w_ih: Array, w_hh: Array, bias: Array, dy: Array) -> tuple[Array, ...]:
    h, c, gates = _lstm_steps(x, w_ih, w_hh, bias)
    dgates = np.empty_like(gates)
    dh, dc = np.zeros_like(h[0]), np.zeros_like(c[0])
    for t in reversed(range(len(x))):
        i, f, g, o = np.split(gates[t], 4, axis=1)
        tanh_c = np.tanh(c[t + 1])
        dh = dh + dy[t]
        dc = dc + dh * o * (1 - tanh_c**2)
        di, df, dg, do = (
            dc * g * i * (1 - i),
            dc * c[t] * f * (1 - f),
            dc * i * (1 - g**2),
            dh * tanh_c * o * (1 - o),
        )
        dgates[t] = np.concatenate([di, df, dg, do], axis=1)
        dc = dc * f
        dh = dgates[t] @ w_hh
    flat = dgates.reshape(-1, dgates.shape[-1])
    dw_ih = flat.T @ x.reshape(-1, x.shape[-1])
    return h[1:], dgates @ w_ih, dw_ih, flat.T @ h[:-1].reshape(-1, h.shape[-1]), flat.sum(0)


def _cross_entropy_gradient(scores: Array, target: Array) -> tuple[Array, Array]:
    shifted = scores - scores.max(1, keepdims=True)
    exp = np.exp(shifted)
    total = exp.sum(1, keepdims=True)
    rows = np.arange(len(target))
    loss = (np.log(total[:, 0]) - shifted[rows, target]).mean()
    gradient = exp / total
    gradient[rows, target] -= 1
    return loss, gradient / len(target)


def _adam(params: list[Array], grads: list[Array], m: list[Array], v: list[Array], step: int) -> Array:
    for p, g, a, b in zip(params, grads, m, v, strict=True):
        a += 0.1 * (g - a)
        b += 0.001 * (g * g - b)
        p -= 0.001 * (a / (1 - 0.9**step)) / (np.sqrt(b / (1 - 0.999**step)) + 1e-8)
    return params[0]


# -- the cases ------------------------------------------------------------------------------


def _cases(torch: Any) -> Iterator[Case]:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape, np.float32)

    def tensor(array: Array, grad: bool = False) -> Any:
        return torch.from_numpy(array.copy()).requires_grad_(grad)

    def gradients(call: Callable[..., Any], inputs: list[Any], dy: Any = None) -> Any:
        out = call(*inputs)
        return (out, *torch.autograd.grad(out, inputs, dy))[-1]

    F: Any = torch.nn.functional if torch else None

    x, weight = draw(8, 64, 28, 28), draw(64, 64, 3, 3) / 24
    dy = draw(*x.shape)
    tx, tw, tdy = (tensor(x), tensor(weight), tensor(dy)) if torch else (None,) * 3
    yield Case(
        "conv2d 3x3, 64 channels, 8 x 28x28",
        lambda: conv2d(x, weight, padding=1),
        lambda: _conv2d(x, weight),
        lambda: F.conv2d(tx, tw, padding=1),
    )
    gx, gw = (tensor(x, True), tensor(weight, True)) if torch else (None, None)
    yield Case(
        "the same with gradients",
        lambda: vjp(conv2d, x, weight, padding=1)[1](dy)[1],
        lambda: _conv2d_gradients(x, weight, dy)[2],
        lambda: gradients(lambda a, b: F.conv2d(a, b, padding=1), [gx, gw], tdy),
    )
    big = draw(32, 64, 56, 56)
    tbig = tensor(big) if torch else None
    yield Case(
        "max_pool2d 2x2, 64 channels, 32 x 56x56",
        lambda: max_pool2d(big, 2),
        lambda: _max_pool2d(big),
        lambda: F.max_pool2d(tbig, 2),
    )
    rows, matrix, shift = draw(512, 1024), draw(1024, 1024) / 32, draw(1024)
    trows, tmatrix, tshift = (tensor(rows), tensor(matrix), tensor(shift)) if torch else (None,) * 3
    yield Case(
        "linear 1024 to 1024, 512 rows",
        lambda: linear(rows, matrix, shift),
        lambda: rows @ matrix.T + shift,
        lambda: F.linear(trows, tmatrix, tshift),
    )

    steps, dsteps = draw(28, 64, 64), draw(28, 64, 128)
    w_ih, w_hh, bias = draw(512, 64) / 11, draw(512, 128) / 11, draw(512) / 11
    params = [w_ih, w_hh, bias, np.zeros_like(bias)]

    def torch_lstm(a: Any, *parameters: Any) -> Any:
        zeros = torch.zeros(1, 64, 128)
        return torch._VF.lstm(a, (zeros, zeros), parameters, True, 1, 0.0, False, False, False)[0]

    tsteps, *tparams = [tensor(a) for a in (steps, *params)] if torch else [None]
    yield Case(
        "lstm 64 to 128, 28 steps of 64 rows",
        lambda: lstm(steps, None, params)[0],
        lambda: _lstm(steps, w_ih, w_hh, bias),
        lambda: torch_lstm(tsteps, *tparams),
    )
    gsteps = [tensor(a, True) for a in (steps, *params)] if torch else []
    tdsteps = tensor(dsteps) if torch else None
    yield Case(
        "the same with gradients",
        lambda: vjp(lstm, steps, None, params)[1]((dsteps, None))[2][3],
        lambda: _lstm_gradients(steps, w_ih, w_hh, bias, dsteps)[-1],
        lambda: gradients(torch_lstm, gsteps, tdsteps),
    )

    scores, target = draw(1024, 4096), rng.integers(0, 4096, 1024)
    one = np.ones((), np.float32)
    tscores, ttarget = (tensor(scores, True), tensor(target)) if torch else (None, None)
    yield Case(
        "cross_entropy with gradient, 1024 x 4096",
        lambda: vjp(cross_entropy, scores, target)[1](one)[0],
        lambda: _cross_entropy_gradient(scores, target)[1],
        lambda: gradients(lambda a: F.cross_entropy(a, ttarget), [tscores]),
    )

    shapes = [(512, 1024), (1024,)] * 4
    tensors = [[scale * abs(draw(*s)) for s in shapes] for scale in (1, 1, 0, 0)]
    plain = [[a.copy() for a in group] for group in tensors]
    counts = {"ours": 0, "numpy": 0}

    def counted(who: str) -> int:
        counts[who] += 1
        return counts[who]

    def adam_here() -> Array:
        adam_step(*tensors, step=counted("ours"))
        return tensors[0][0]

    optimizer = None
    if torch:
        theirs = [torch.nn.Parameter(tensor(a)) for a in tensors[0]]
        for parameter, gradient in zip(theirs, tensors[1], strict=True):
            parameter.grad = tensor(gradient)
        optimizer = torch.optim.Adam(theirs)

    def adam_torch() -> Any:
        optimizer.step()  # type: ignore[union-attr]
        return theirs[0]

    yield Case(
        "adam_step, 2.1 million parameters",
        adam_here,
        lambda: _adam(*plain, counted("numpy")),  # type: ignore[arg-type, call-arg]
        adam_torch,
    )


# -- the table ------------------------------------------------------------------------------


def _torch() -> Any:
    """PyTorch with as many threads as we use, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(get_num_threads())
    return torch


def _array(out: Any) -> Array:
    return np.asarray(out.detach() if hasattr(out, "detach") else out)


def _milliseconds(runs: list[Callable[[], Any]]) -> list[float]:
    """The median of each, taken in turns so that whatever else the machine does hits all alike."""
    times: list[list[float]] = [[] for _ in runs]
    end = time.perf_counter() + SECONDS_PER_CASE
    while len(times[0]) < 3 or time.perf_counter() < end:
        for run, its_times in zip(runs, times, strict=True):
            _wait_for_idle_threads()
            _wake(run)
            start = time.perf_counter()
            run()
            its_times.append(time.perf_counter() - start)
    return [1e3 * statistics.median(its_times) for its_times in times]


def _wake(run: Callable[[], Any]) -> None:
    """Call for a while, untimed: threads that just woke may share a core until they are moved apart."""
    end = time.perf_counter() + min(0.015, SECONDS_PER_CASE)
    run()
    while time.perf_counter() < end:
        run()


def _wait_for_idle_threads() -> None:
    """Wait until the last turn's threads sleep: libraries let theirs spin for up to 200 ms after work."""
    end = time.perf_counter() + 0.25
    while time.perf_counter() < end:
        used, start = time.process_time(), time.perf_counter()
        time.sleep(0.005)  # running threads are charged at the scheduler's ticks, 1 to 4 ms apart
        if time.process_time() - used < 0.2 * (time.perf_counter() - start):
            return


def show() -> None:
    """Measure and print, line by line."""
    torch = _torch()
    names = ["arraynn", "NumPy"] + (["PyTorch"] if torch else [])
    print(
        f"Kernel speed in ms, float32, {get_num_threads()} threads; "
        "in parentheses how many times as long it takes as arraynn"
    )
    print(f"{'':42}{names[0]:>9}" + "".join(f"{name:>18}" for name in names[1:]))
    ratios: list[list[float]] = []
    for case in _cases(torch):
        runs = [case.ours, case.numpy] + ([case.torch] if torch and case.torch else [])
        ours, *others = [_array(run()) for run in runs]
        for name, other in zip(names[1:], others, strict=True):
            np.testing.assert_allclose(other, ours, rtol=1e-2, atol=1e-3, err_msg=f"{case.title}: {name}")
        first, *rest = _milliseconds(runs)
        ratios.append([ms / first for ms in rest])
        cells = "".join(f"{f'{ms:.2f} ({ms / first:.1f}x)':>18}" for ms in rest)
        print(f"{case.title:42}{first:9.2f}{cells}", flush=True)
    means = [statistics.geometric_mean(column) for column in zip(*ratios, strict=True)]
    print(f"{'geometric mean':51}" + "".join(f"{f'({mean:.1f}x)':>18}" for mean in means))
