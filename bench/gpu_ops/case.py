"""What a case on the GPU is, and what its builders share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
        last = self.torch.channels_last_3d if len(shape) == 5 else self.torch.channels_last
        return drawn.contiguous(memory_format=last) if channels_last else drawn

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
        loose = (
            self.dtype == "float32"
            and self.op in ("conv2d", "conv3d", "conv_transpose2d", "lstm", "gru", "rnn", "linear")
            and not self.tf32
        )
        return 1e-3 if loose else TOLERANCE[self.precision]


class Unavailable(Exception):
    """A peer has no kernel for the case, or is not installed."""


def changed_case(case: Case, changed: Mapping[str, Any]) -> Case:
    """Return a case with other attributes."""
    return replace(case, **changed)


def text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def cupy_array(t: Tools, x: Any) -> Any:
    """Return a CuPy array on a tensor's memory."""
    if t.cupy is None:
        raise Unavailable("not installed")
    if x.dtype == t.torch.bfloat16:
        raise Unavailable("no bfloat16")
    return t.cupy.from_dlpack(x)


def triton_kernels(t: Tools) -> Any:
    if t.kernels is None:
        raise Unavailable("not installed")
    return t.kernels


def layout_name(channels_last: bool) -> str:
    return "channels-last" if channels_last else "NCHW"
