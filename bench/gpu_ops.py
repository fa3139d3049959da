"""How a case on the GPU is made: an op's inputs, our call and the peers', its bytes and operations.

Nothing is computed when this file is imported: a case only says how its inputs are drawn and how each
engine computes it, given the libraries as `Tools`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from math import prod
from typing import Any, NamedTuple

Call = Callable[[], Any]
Inputs = Any  # a nest of tensors
Build = Callable[["Tools", Inputs], Call]

SIZE = {"float32": 4, "float16": 2, "bfloat16": 2}
SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
# Of the value and of the root mean square: engines add in different orders, and a 16-bit peer may
# round between the steps of an op where we round once.
TOLERANCE = {"float32": 2e-4, "tf32": 5e-3, "float16": 2e-2, "bfloat16": 5e-2}


@dataclass
class Tools:
    """The libraries at hand, and where inputs are drawn.

    Attributes
    ----------
    torch, ann : module
        PyTorch, and arraynn or what stands for it.
    device : str
    cupy, kernels : module or None
        CuPy, and the peers written in Triton.
    """

    torch: Any
    ann: Any
    device: str
    cupy: Any = None
    kernels: Any = None
    generator: Any = field(init=False)

    def __post_init__(self) -> None:
        self.generator = self.torch.Generator(self.device).manual_seed(0)

    def dtype(self, name: str) -> Any:
        return getattr(self.torch, name)

    def normal(self, *shape: int, dtype: str, channels_last: bool = False, scale: float = 1.0) -> Any:
        """Return normal variates with standard deviation `scale`."""
        drawn = self.torch.randn(shape, generator=self.generator, device=self.device)
        drawn = drawn.mul_(scale).to(self.dtype(dtype))
        return drawn.contiguous(memory_format=self.torch.channels_last) if channels_last else drawn

    def labels(self, classes: int, *shape: int) -> Any:
        """Return int64 class indices."""
        return self.torch.randint(0, classes, shape, generator=self.generator, device=self.device)


@dataclass(frozen=True)
class Case:
    """One line of the result.

    Attributes
    ----------
    name, group, op : str
        The name is unique; ``--case`` looks into it.
    dtype : str
        What the arrays hold.
    flops, bytes : float
        Arithmetic of the product-like part, and the memory traffic that no implementation can avoid.
    make : callable
        Draws inputs; called once for every set that the timing rotates through.
    ours : callable
        Returns our call on such inputs. What a pullback needs beforehand is computed here, untimed.
    peers : dict
        The same for each peer, the first is PyTorch. A peer raises `Unavailable` if it has no way.
    tf32 : bool
        Products of float32 may be computed in TF32, by all.
    verify : callable or None
        ``verify(tools, inputs, result)`` says what is wrong with ours, or '', beside the comparison.
    compared : bool
        Whether results must agree with the peer's; random masks cannot.
    graph : bool
        A small case, so engines are also captured in a CUDA graph.
    graph_peers : tuple of str
        The peers that are.
    in_place : bool
        A call changes its inputs, of which every engine has copies.
    rotates : bool
        Input sets are rotated until they are beyond the cache.
    """

    name: str
    group: str
    op: str
    dtype: str
    flops: float
    bytes: float
    make: Callable[[Tools], Inputs]
    ours: Build
    peers: Mapping[str, Build]
    tf32: bool = False
    verify: Callable[[Tools, Inputs, Any], str] | None = None
    compared: bool = True
    graph: bool = False
    graph_peers: tuple[str, ...] = ("torch",)
    in_place: bool = False
    rotates: bool = True

    @property
    def precision(self) -> str:
        """The matrix peak that bounds the case."""
        return "tf32" if self.tf32 else self.dtype

    @property
    def tolerance(self) -> float:
        # Sums over a million products, and cuDNN's transforms, cost float32 a digit.
        loose = self.dtype == "float32" and self.op in ("conv2d", "lstm", "gru", "linear") and not self.tf32
        return 1e-3 if loose else TOLERANCE[self.precision]


class Unavailable(Exception):
    """A peer has no kernel for the case, or is not installed."""


def _with(case: Case, changed: Mapping[str, Any]) -> Case:
    """Return a case with other attributes."""
    return replace(case, **changed)


def text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _array(t: Tools, x: Any) -> Any:
    """Return a CuPy array on a tensor's memory."""
    if t.cupy is None:
        raise Unavailable("not installed")
    if x.dtype == t.torch.bfloat16:
        raise Unavailable("no bfloat16")
    return t.cupy.from_dlpack(x)


def _kernels(t: Tools) -> Any:
    if t.kernels is None:
        raise Unavailable("not installed")
    return t.kernels


# Activations


def activation(op: str, shape: tuple[int, ...], dtype: str, **changed: Any) -> Case:
    def call(t: Tools, x: Any) -> Call:
        if op.endswith("softmax"):
            function = getattr(t.torch.nn.functional, op)
            return lambda: function(x, -1)
        function = getattr(t.torch, op)
        return lambda: function(x)

    def ours(t: Tools, x: Any) -> Call:
        function = getattr(t.ann, op)
        return lambda: function(x)

    def cupy(t: Tools, x: Any) -> Call:
        a, xp = _array(t, x), t.cupy
        if op == "relu":
            return lambda: xp.maximum(a, 0)
        if op == "tanh":
            return lambda: xp.tanh(a)
        from cupyx.scipy import special

        if op == "sigmoid":
            return lambda: special.expit(a)
        function = getattr(special, op)
        return lambda: function(a, axis=-1)

    def triton(t: Tools, x: Any) -> Call:
        function = getattr(_kernels(t), op, None)
        if function is None:
            raise Unavailable("not written")
        return lambda: function(x)

    case = Case(
        name=f"{op} {text(shape)} {SHORT[dtype]}",
        group="activation forward",
        op=op,
        dtype=dtype,
        flops=0,
        bytes=2 * prod(shape) * SIZE[dtype],
        make=lambda t: t.normal(*shape, dtype=dtype),
        ours=ours,
        peers={"torch": call, "cupy": cupy, "triton": triton},
    )
    return _with(case, changed)


def activation_backward(op: str, shape: tuple[int, ...], dtype: str) -> Case:
    def ours(t: Tools, i: Inputs) -> Call:
        _, pullback = t.ann.vjp(getattr(t.ann, op), i[0])
        return lambda: pullback(i[1])[0]

    def call(t: Tools, i: Inputs) -> Call:
        x, dy = i
        aten = t.torch.ops.aten
        if op == "relu":
            y = t.torch.relu(x)
            return lambda: aten.threshold_backward(dy, y, 0)
        if op.endswith("softmax"):
            y = getattr(t.torch.nn.functional, op)(x, -1)
            backward = aten._softmax_backward_data if op == "softmax" else aten._log_softmax_backward_data
            return lambda: backward(dy, y, -1, y.dtype)
        y = getattr(t.torch, op)(x)
        backward = getattr(aten, f"{op}_backward")
        return lambda: backward(dy, y)

    return Case(
        name=f"{op} backward {text(shape)} {SHORT[dtype]}",
        group="activation backward",
        op=op,
        dtype=dtype,
        flops=0,
        bytes=3 * prod(shape) * SIZE[dtype],
        make=lambda t: (t.normal(*shape, dtype=dtype), t.normal(*shape, dtype=dtype)),
        ours=ours,
        peers={"torch": call},
    )


# Pooling


class Window(NamedTuple):
    """A pooling op on an input shape; `size` is the kernel's, or the output's of adaptive pooling."""

    op: str
    shape: tuple[int, ...]
    size: int
    stride: int = 1
    padding: int = 0

    @property
    def out_shape(self) -> tuple[int, ...]:
        if self.op == "adaptive_avg_pool2d":
            return (*self.shape[:2], self.size, self.size)
        planes = ((extent + 2 * self.padding - self.size) // self.stride + 1 for extent in self.shape[2:])
        return (*self.shape[:2], *planes)

    @property
    def arguments(self) -> tuple[int, ...]:
        return (self.size,) if self.op == "adaptive_avg_pool2d" else (self.size, self.stride, self.padding)

    @property
    def label(self) -> str:
        kind = (
            f"->{self.size}" if self.op == "adaptive_avg_pool2d" else f"{self.size}x{self.size}/{self.stride}"
        )
        return f"{self.op} {kind} {text(self.shape)}"


def _layout(channels_last: bool) -> str:
    return "channels-last" if channels_last else "NCHW"


def pool(w: Window, dtype: str, channels_last: bool, **changed: Any) -> Case:
    def ours(t: Tools, x: Any) -> Call:
        function = getattr(t.ann, w.op)
        return lambda: function(x, *w.arguments)

    def call(t: Tools, x: Any) -> Call:
        function = getattr(t.torch.nn.functional, w.op)
        return lambda: function(x, *w.arguments)

    case = Case(
        name=f"{w.label} {SHORT[dtype]} {_layout(channels_last)}",
        group="pool forward",
        op=w.op,
        dtype=dtype,
        flops=0,
        bytes=(prod(w.shape) + prod(w.out_shape)) * SIZE[dtype],
        make=lambda t: t.normal(*w.shape, dtype=dtype, channels_last=channels_last),
        ours=ours,
        peers={"torch": call},
    )
    return _with(case, changed)


def pool_backward(w: Window, dtype: str, channels_last: bool) -> Case:
    def make(t: Tools) -> Inputs:
        return tuple(t.normal(*s, dtype=dtype, channels_last=channels_last) for s in (w.shape, w.out_shape))

    def ours(t: Tools, i: Inputs) -> Call:
        _, pullback = t.ann.vjp(getattr(t.ann, w.op), i[0], *w.arguments)
        return lambda: pullback(i[1])[0]

    def call(t: Tools, i: Inputs) -> Call:
        x, dy = i
        aten = t.torch.ops.aten
        if w.op == "adaptive_avg_pool2d" and w.size == 1:
            # what PyTorch's autograd does for the global mean, and faster than the kernel below
            return lambda: dy.expand(x.shape) / prod(w.shape[2:])
        if w.op == "adaptive_avg_pool2d":
            return lambda: aten._adaptive_avg_pool2d_backward(dy, x)
        kernel, stride, padding = ([n, n] for n in w.arguments)
        if w.op == "avg_pool2d":
            return lambda: aten.avg_pool2d_backward(dy, x, kernel, stride, padding, False, True, None)
        _, where = aten.max_pool2d_with_indices(x, kernel, stride, padding)
        backward = aten.max_pool2d_with_indices_backward
        return lambda: backward(dy, x, kernel, stride, padding, [1, 1], False, where)

    # where the maximum lay takes a byte at least
    extra = prod(w.out_shape) if w.op == "max_pool2d" else 0
    return Case(
        name=f"{w.label} backward {SHORT[dtype]} {_layout(channels_last)}",
        group="pool backward",
        op=w.op,
        dtype=dtype,
        flops=0,
        bytes=(prod(w.shape) + prod(w.out_shape)) * SIZE[dtype] + extra,
        make=make,
        ours=ours,
        peers={"torch": call},
    )


# Dropout and losses

_P = 0.1


def _dropped(t: Tools, x: Any, y: Any) -> str:
    """Say in what `y` is no dropout of `x`, or return ''."""
    torch = t.torch
    kept = y != 0
    share, size = float(kept.double().mean()), x.numel()
    # x is zero next to never; the bound is five standard deviations
    if abs(share - (1 - _P)) > 5 * (_P * (1 - _P) / size) ** 0.5 + 1e-3:
        return f"kept {share:.4f} of the values where {1 - _P} was asked"
    expected = torch.where(kept, x.float() / (1 - _P), 0.0)
    worst = float((y.float() - expected).abs().max())
    return "" if worst <= 0.02 * float(expected.abs().max()) else f"values are off by {worst:.3g}"


def dropout(shape: tuple[int, ...], dtype: str, backward: bool, **changed: Any) -> Case:
    def make(t: Tools) -> Inputs:
        return t.normal(*shape, dtype=dtype), t.normal(*shape, dtype=dtype)

    def ours(t: Tools, i: Inputs) -> Call:
        x, dy = i
        if not backward:
            return lambda: t.ann.dropout(x, _P, True, rng=7)
        _, pullback = t.ann.vjp(t.ann.dropout, x, _P, True, rng=7)
        return lambda: pullback(dy)[0]

    def call(t: Tools, i: Inputs) -> Call:
        x, dy = i
        aten = t.torch.ops.aten
        if not backward:
            return lambda: aten.native_dropout(x, _P, True)
        _, mask = aten.native_dropout(x, _P, True)
        return lambda: aten.native_dropout_backward(dy, mask, 1 / (1 - _P))

    case = Case(
        name=f"dropout {'backward ' if backward else ''}{text(shape)} {SHORT[dtype]}",
        group="dropout, mse",
        op="dropout",
        dtype=dtype,
        flops=0,
        bytes=2 * prod(shape) * SIZE[dtype],
        make=make,
        ours=ours,
        peers={"torch": call},
        verify=lambda t, i, result: _dropped(t, i[1] if backward else i[0], result),
        compared=False,
    )
    return _with(case, changed)


def _gradient(t: Tools, forward: Callable[[Any], Any], leaf: Any) -> Call:
    """Return a call that computes a loss and its gradient."""
    leaf = leaf.detach().requires_grad_()

    def step() -> Any:
        with t.torch.enable_grad():
            loss = forward(leaf)
        return loss.detach(), t.torch.autograd.grad(loss, leaf)[0]

    return step


def _ours_loss(t: Tools, op: Any, x: Any, target: Any) -> Call:
    one = t.torch.ones((), dtype=x.dtype, device=x.device)

    def step() -> Any:
        loss, pullback = t.ann.vjp(op, x, target)
        return loss, pullback(one)[0]

    return step


def mse(shape: tuple[int, ...], dtype: str, training: bool, **changed: Any) -> Case:
    def ours(t: Tools, i: Inputs) -> Call:
        return _ours_loss(t, t.ann.mse_loss, *i) if training else lambda: t.ann.mse_loss(*i)

    def call(t: Tools, i: Inputs) -> Call:
        op = t.torch.nn.functional.mse_loss
        return _gradient(t, lambda x: op(x, i[1]), i[0]) if training else lambda: op(*i)

    case = Case(
        name=f"mse_loss {'training ' if training else ''}{text(shape)} {SHORT[dtype]}",
        group="dropout, mse",
        op="mse_loss",
        dtype=dtype,
        flops=0,
        bytes=(3 if training else 2) * prod(shape) * SIZE[dtype],
        make=lambda t: (t.normal(*shape, dtype=dtype), t.normal(*shape, dtype=dtype)),
        ours=ours,
        peers={"torch": call},
    )
    return _with(case, changed)


def _exact_rows(t: Tools, i: Inputs, result: Any) -> str:
    """Compare rows of cross-entropy's gradient with float64, element by element.

    Most of them are far below the root mean square, which the labels' own elements make, so that the
    comparison with the peer does not look at them.
    """
    torch, (x, target) = t.torch, i
    gradient, size = result[1], x.shape[0]
    rows = torch.linspace(0, size - 1, min(size, 32), device=x.device).long()
    expected = torch.softmax(x[rows].double(), -1)
    expected[torch.arange(len(rows), device=x.device), target[rows]] -= 1
    expected /= size
    bound = {torch.float32: 2e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}[x.dtype]
    error = ((gradient[rows].double() - expected).abs() / (expected.abs() + 1e-3 / size / x.shape[1])).max()
    return "" if float(error) <= bound else f"gradient is off by {float(error):.3g} of itself from float64"


def cross_entropy(rows: int, classes: int, dtype: str, training: bool, **changed: Any) -> Case:
    def ours(t: Tools, i: Inputs) -> Call:
        return _ours_loss(t, t.ann.cross_entropy, *i) if training else lambda: t.ann.cross_entropy(*i)

    def call(t: Tools, i: Inputs) -> Call:
        op = t.torch.nn.functional.cross_entropy
        return _gradient(t, lambda x: op(x, i[1]), i[0]) if training else lambda: op(*i)

    case = Case(
        name=f"cross_entropy {'training ' if training else ''}{rows}x{classes} {SHORT[dtype]}",
        group="cross-entropy",
        op="cross_entropy",
        dtype=dtype,
        flops=0,
        bytes=(2 if training else 1) * rows * classes * SIZE[dtype] + 8 * rows,
        make=lambda t: (t.normal(rows, classes, dtype=dtype, scale=2.0), t.labels(classes, rows)),
        ours=ours,
        peers={"torch": call},
        verify=_exact_rows if training else None,
    )
    return _with(case, changed)


# Optimizer steps. The learning rate is large, so that a wrong step is far outside the tolerance.

_LR, _BETAS, _EPS, _MOMENTUM = 0.1, (0.9, 0.999), 1e-8, 0.9


def _falling_bounds() -> Callable[[], float]:
    """Return the bounds of clipping from call to call: each is below the last, so that every call scales."""
    bounds = count()
    return lambda: 0.9995 ** next(bounds)


def _ours_step(op: str) -> Build:
    def build(t: Tools, i: Inputs) -> Call:
        params, grads = [p.clone() for p in i[0]], [g.clone() for g in i[1]]
        zeros = [[t.torch.zeros_like(p) for p in params] for _ in range(2)]
        if op == "adam_step":
            steps = count(1)

            def adam() -> Any:
                t.ann.adam_step(params, grads, *zeros, step=next(steps), lr=_LR, betas=_BETAS, eps=_EPS)
                return params

            return adam
        if op == "sgd_step":

            def sgd() -> Any:
                # PyTorch's buffers start as the first gradient, which zeros do too without dampening
                t.ann.sgd_step(params, grads, zeros[0], lr=_LR, momentum=_MOMENTUM)
                return params

            return sgd
        bound = _falling_bounds()
        return lambda: (t.ann.clip_grad_norm(grads, bound()), grads)

    return build


def _torch_step(op: str, **mode: bool) -> Build:
    def build(t: Tools, i: Inputs) -> Call:
        params = [p.clone().requires_grad_() for p in i[0]]
        for p, g in zip(params, i[1], strict=True):
            p.grad = g.clone()
        if op == "clip_grad_norm":
            bound, clip, grads = _falling_bounds(), t.torch.nn.utils.clip_grad_norm_, [p.grad for p in params]
            return lambda: (clip(params, bound(), **mode), grads)
        if op == "adam_step":
            capturable = {"capturable": True} if mode.get("fused") and t.device != "cpu" else {}
            optimizer = t.torch.optim.Adam(params, lr=_LR, betas=_BETAS, eps=_EPS, **mode, **capturable)
        else:
            optimizer = t.torch.optim.SGD(params, lr=_LR, momentum=_MOMENTUM, **mode)

        def step() -> Any:
            optimizer.step()
            return params

        return step

    return build


def optimizer(op: str, what: str, shapes: Sequence[tuple[int, ...]], group: str, **changed: Any) -> Case:
    def make(t: Tools) -> Inputs:
        return tuple([t.normal(*shape, dtype="float32") for shape in shapes] for _ in range(2))

    if op == "clip_grad_norm":
        peers = {"torch foreach": _torch_step(op, foreach=True)}
    else:
        peers = {"torch fused": _torch_step(op, fused=True), "torch foreach": _torch_step(op, foreach=True)}
    # adam reads p g m v and writes p m v; sgd reads p g b and writes p b; clipping reads for the norm,
    # reads and writes to scale
    passes = {"adam_step": 7, "sgd_step": 5, "clip_grad_norm": 3}[op]
    case = Case(
        name=f"{op} {what}",
        group=group,
        op=op,
        dtype="float32",
        flops=0,
        bytes=4.0 * passes * sum(prod(shape) for shape in shapes),
        make=make,
        ours=_ours_step(op),
        peers=peers,
        in_place=True,
        graph_peers=("torch fused",),
    )
    return _with(case, changed)


# Convolution


class Conv(NamedTuple):
    """A convolution: input channels and size of the square plane; output channels; kernel; options."""

    channels: int
    size: int
    out_channels: int
    kernel: int
    stride: int = 1
    groups: int = 1
    batch: int = 64

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels, self.size, self.size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.channels // self.groups, self.kernel, self.kernel)

    @property
    def out_shape(self) -> tuple[int, ...]:
        size = (self.size + 2 * self.padding - self.kernel) // self.stride + 1
        return (self.batch, self.out_channels, size, size)

    @property
    def flops(self) -> float:
        return 2.0 * prod(self.out_shape) * prod(self.weight_shape[1:])

    @property
    def label(self) -> str:
        kernel = f"{self.kernel}x{self.kernel}" + (f"/{self.stride}" if self.stride > 1 else "")
        kind = " depthwise" if self.groups > 1 else ""
        return f"{kernel}{kind} {text(self.shape)}->{self.out_channels}"


def conv(c: Conv, which: str, dtype: str, channels_last: bool, group: str, **changed: Any) -> Case:
    stride, padding, groups = c.stride, c.padding, c.groups

    def make(t: Tools) -> Inputs:
        fan_in = prod(c.weight_shape[1:])
        return (
            t.normal(*c.shape, dtype=dtype, channels_last=channels_last),
            t.normal(*c.weight_shape, dtype=dtype, channels_last=channels_last, scale=fan_in**-0.5),
            t.normal(*c.out_shape, dtype=dtype, channels_last=channels_last),
        )

    def ours(t: Tools, i: Inputs) -> Call:
        x, w, dy = i
        if which == "forward":
            return lambda: t.ann.conv2d(x, w, None, stride, padding, 1, groups)
        wrt, place = ("input", 0) if which == "dinput" else ("weight", 1)
        _, pullback = t.ann.vjp(t.ann.conv2d, x, w, None, stride, padding, 1, groups, wrt=wrt)
        return lambda: pullback(dy)[place]

    def call(t: Tools, i: Inputs) -> Call:
        x, w, dy = i
        if which == "forward":
            op = t.torch.nn.functional.conv2d
            return lambda: op(x, w, None, stride, padding, 1, groups)
        backward, place = t.torch.ops.aten.convolution_backward, 0 if which == "dinput" else 1
        mask = [place == 0, place == 1, False]
        options = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, mask)
        return lambda: backward(dy, x, w, None, *options)[place]

    elements = prod(c.shape) + prod(c.weight_shape) + prod(c.out_shape)
    case = Case(
        name=f"conv2d {which} {c.label} {SHORT[dtype]} {_layout(channels_last)}",
        group=group,
        op="conv2d",
        dtype=dtype,
        flops=c.flops,
        bytes=elements * SIZE[dtype],
        make=make,
        ours=ours,
        peers={"torch": call},
    )
    return _with(case, changed)


# Linear


def linear(
    rows: int,
    inputs: int,
    outputs: int,
    dtype: str,
    *,
    tf32: bool = False,
    backward: bool = False,
    **changed: Any,
) -> Case:
    def make(t: Tools) -> Inputs:
        return (
            t.normal(rows, inputs, dtype=dtype),
            t.normal(outputs, inputs, dtype=dtype, scale=inputs**-0.5),
            t.normal(outputs, dtype=dtype),
            t.normal(rows, outputs, dtype=dtype),
        )

    def ours(t: Tools, i: Inputs) -> Call:
        x, w, b, dy = i
        if not backward:
            return lambda: t.ann.linear(x, w, b)
        _, pullback = t.ann.vjp(t.ann.linear, x, w, b)
        return lambda: pullback(dy)

    def call(t: Tools, i: Inputs) -> Call:
        x, w, b, dy = i
        if not backward:
            op = t.torch.nn.functional.linear
            return lambda: op(x, w, b)
        return lambda: (dy @ w, dy.t() @ x, dy.sum(0))

    def cupy(t: Tools, i: Inputs) -> Call:
        if tf32:
            raise Unavailable("no TF32 unless its environment asks for it")
        x, w, b = (_array(t, a) for a in i[:3])
        return lambda: x @ w.T + b

    def triton(t: Tools, i: Inputs) -> Call:
        if dtype == "float32":
            raise Unavailable("not written")
        linear = _kernels(t).linear
        return lambda: linear(*i[:3])

    peers: dict[str, Build] = {"torch": call} if backward else {"torch": call, "cupy": cupy, "triton": triton}
    kind = "tf32" if tf32 else SHORT[dtype]
    product = rows * inputs + inputs * outputs + rows * outputs
    case = Case(
        name=f"linear {'backward ' if backward else ''}{rows}x{inputs}->{outputs} {kind}",
        group=f"linear {kind}",
        op="linear",
        dtype=dtype,
        flops=(4.0 if backward else 2.0) * rows * inputs * outputs,
        # backward reads x, w and dy and writes dx and dw
        bytes=(2 * product - rows * outputs if backward else product) * SIZE[dtype],
        make=make,
        ours=ours,
        peers=peers,
        tf32=tf32,
    )
    return _with(case, changed)


# Recurrent layers


class Net(NamedTuple):
    """A recurrent layer over `steps` steps of `batch` sequences."""

    kind: str
    steps: int
    batch: int
    inputs: int
    hidden: int

    @property
    def gates(self) -> int:
        return 4 if self.kind == "lstm" else 3

    @property
    def weights(self) -> int:
        return self.gates * self.hidden * (self.inputs + self.hidden + 2)

    @property
    def flops(self) -> float:
        return 2.0 * self.steps * self.batch * self.gates * self.hidden * (self.inputs + self.hidden)


def rnn(net: Net, training: bool, **changed: Any) -> Case:
    def make(t: Tools) -> Inputs:
        wide, scale = net.gates * net.hidden, net.hidden**-0.5
        shapes = ((wide, net.inputs), (wide, net.hidden), (wide,), (wide,))
        return (
            t.normal(net.steps, net.batch, net.inputs, dtype="float32"),
            [t.normal(*shape, dtype="float32", scale=scale) for shape in shapes],
            t.normal(net.steps, net.batch, net.hidden, dtype="float32"),
        )

    def ours(t: Tools, i: Inputs) -> Call:
        x, params, dy = i
        op = getattr(t.ann, net.kind)
        if not training:
            return lambda: op(x, None, params)[0]

        def step() -> Any:
            (out, _), pullback = t.ann.vjp(op, x, None, params)
            dx, _, dparams = pullback((dy, None))
            return out, dx, list(dparams)

        return step

    def call(t: Tools, i: Inputs) -> Call:
        x, params, dy = i
        torch = t.torch
        make_module = torch.nn.LSTM if net.kind == "lstm" else torch.nn.GRU
        module = make_module(net.inputs, net.hidden, dtype=x.dtype, device=x.device)
        for parameter, value in zip(module.parameters(), params, strict=True):
            parameter.detach().copy_(value)
        if not training:
            module.eval()
            return lambda: module(x)[0]
        leaves = (x.detach().requires_grad_(), *module.parameters())

        def step() -> Any:
            with torch.enable_grad():
                out = module(leaves[0])[0]
            dx, *dparams = torch.autograd.grad(out, leaves, dy)
            return out.detach(), dx, dparams

        return step

    cells = net.steps * net.batch
    x, y = cells * net.inputs, cells * net.hidden
    case = Case(
        name=f"{net.kind} {'training ' if training else ''}T{net.steps} N{net.batch} H{net.hidden} fp32",
        group=f"{net.kind} {'training' if training else 'forward'}",
        op=net.kind,
        dtype="float32",
        flops=net.flops * (3 if training else 1),
        bytes=4.0 * (3 * (x + net.weights) + 2 * y if training else x + net.weights + y),
        make=make,
        ours=ours,
        peers={"torch": call},
        rotates=False,  # a layer reads its weights at every step, wherever they were before
        graph=True,
    )
    return _with(case, changed)


def cell(kind: str, batch: int, hidden: int, **changed: Any) -> Case:
    net, states = Net(kind, 1, batch, hidden, hidden), 2 if kind == "lstm" else 1

    def make(t: Tools) -> Inputs:
        wide, scale = net.gates * hidden, hidden**-0.5
        shapes = ((wide, hidden), (wide, hidden), (wide,), (wide,))
        return (
            t.normal(batch, hidden, dtype="float32"),
            tuple(t.normal(batch, hidden, dtype="float32") for _ in range(states)),
            [t.normal(*shape, dtype="float32", scale=scale) for shape in shapes],
        )

    def call(op: Any, i: Inputs) -> Call:
        x, state, params = i
        before = state if kind == "lstm" else state[0]
        return lambda: op(x, before, *params)

    case = Case(
        name=f"{kind}_cell N{batch} H{hidden} fp32",
        group="small calls",
        op=f"{kind}_cell",
        dtype="float32",
        flops=net.flops,
        bytes=4.0 * (net.weights + batch * hidden * (1 + 2 * states)),
        make=make,
        ours=lambda t, i: call(getattr(t.ann, f"{kind}_cell"), i),
        peers={"torch": lambda t, i: call(getattr(t.torch, f"{kind}_cell"), i)},
    )
    return _with(case, changed)
