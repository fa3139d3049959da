"""The peers as their users call them: PyTorch tensors and gradients, ONNX Runtime sessions."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# None where it is not installed: the harness then leaves its cases out
torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None

Call = Callable[[], Any]
_threads = 1


class Unsupported(Exception):
    """The peer has no kernel for the case."""


def arrays(result: Any) -> list[np.ndarray]:
    """Flatten a nest of NumPy arrays, PyTorch tensors and numbers into a list of NumPy arrays."""
    if result is None:
        return []
    if isinstance(result, tuple | list):
        return [leaf for part in result for leaf in arrays(part)]
    if hasattr(result, "detach"):
        return [to_numpy(result)]
    return [np.asarray(result)]


@dataclass(frozen=True)
class Engine:
    """One way to compute a case: the timed call, and how its result becomes NumPy arrays (not timed)."""

    call: Call
    finish: Callable[[Any], list[np.ndarray]] = arrays


def set_num_threads(threads: int) -> None:
    """Set the threads of PyTorch, and of sessions built from now on."""
    global _threads
    _threads = threads
    if torch is not None:
        torch.set_num_threads(threads)


# PyTorch


def tensor(x: np.ndarray, channels_last: bool = False) -> Any:
    """Return a tensor on the memory of `x`, or a channels-last copy."""
    if x.dtype.name == "bfloat16":
        shared = torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16)
    else:
        shared = torch.from_numpy(x)
    return shared.contiguous(memory_format=torch.channels_last) if channels_last else shared


def to_numpy(x: Any) -> np.ndarray:
    """Return a tensor's values; NumPy has no bfloat16, so those come as float32."""
    x = x.detach()
    array: np.ndarray = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    return array


def gradients(forward: Callable[[], Any], leaves: Sequence[Any], cotangent: Any = None) -> Callable[[], Any]:
    """Return a call that computes `forward` and its gradients in `leaves`."""
    for leaf in leaves:
        leaf.requires_grad_()

    def step() -> Any:
        out = forward()
        return out, torch.autograd.grad(out, leaves, cotangent)

    return step


# ONNX Runtime


def ort(
    nodes: Sequence[tuple[str, Sequence[str], str, Mapping[str, Any]]],
    inputs: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray],
    outputs: Sequence[str] = ("y",),
    post: Callable[[list[np.ndarray]], list[np.ndarray]] = lambda results: results,
) -> Engine:
    """Return an engine that runs a graph with ONNX Runtime.

    Parameters
    ----------
    nodes : sequence of (op type, input names, output name or comma-separated names, attributes)
        The graph, in order.
    inputs, constants : dict of arrays
        What is fed, and what is part of the model (so that the session can pack it once).
    outputs : sequence of str
        What is fetched.
    post : callable
        Brings the fetched arrays to our layout before the comparison; not timed.

    Inputs and outputs are bound, ONNX Runtime's fastest way: a call copies and allocates neither.
    """
    import onnxruntime
    from onnx import helper, numpy_helper

    if any(x.dtype.name == "bfloat16" for x in (*inputs.values(), *constants.values())):
        raise Unsupported("no bfloat16 CPU kernels")
    element = helper.np_dtype_to_tensor_dtype
    floating = next(element(x.dtype) for x in inputs.values() if x.dtype.kind == "f")
    graph = helper.make_graph(
        [
            helper.make_node(op, list(ins), outs.split(","), **attributes)
            for op, ins, outs, attributes in nodes
        ],
        "case",
        [helper.make_tensor_value_info(name, element(x.dtype), x.shape) for name, x in inputs.items()],
        [helper.make_tensor_value_info(name, floating, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(x, order="C"), name) for name, x in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:
        raise Unsupported(str(error).splitlines()[0]) from None
    binding = session.io_binding()
    for name, x in inputs.items():
        binding.bind_cpu_input(name, np.asarray(x, order="C"))
    for name in outputs:
        binding.bind_output(name, "cpu")
    run = session.run_with_iobinding
    try:
        run(binding)
    except RuntimeError as error:  # some kernels refuse a dtype only when they run
        if "does not support" not in str(error):
            raise
        raise Unsupported(str(error)) from None
    return Engine(lambda: run(binding), lambda _: post(binding.copy_outputs_to_cpu()))
