"""Recurrent layers and cells."""

from __future__ import annotations

from typing import Any, NamedTuple

from .case import Call, Case, Inputs, Tools, changed_case


class Net(NamedTuple):
    """A recurrent layer over `steps` steps of `batch` sequences."""

    kind: str
    steps: int
    batch: int
    inputs: int
    hidden: int
    projection: int = 0  # of an LSTM

    @property
    def width(self) -> int:
        return self.projection or self.hidden

    @property
    def gates(self) -> int:
        return {"lstm": 4, "gru": 3, "rnn": 1}[self.kind]

    @property
    def weights(self) -> int:
        return self.hidden * (self.gates * (self.inputs + self.width + 2) + self.projection)

    @property
    def flops(self) -> float:
        columns = self.gates * (self.inputs + self.width) + self.projection
        return 2.0 * self.steps * self.batch * self.hidden * columns


def rnn(net: Net, training: bool, **changed: Any) -> Case:
    def make(t: Tools) -> Inputs:
        wide, scale = net.gates * net.hidden, net.hidden**-0.5
        shapes: list[tuple[int, ...]] = [(wide, net.inputs), (wide, net.width), (wide,), (wide,)]
        if net.projection:
            shapes.append((net.width, net.hidden))
        return (
            t.normal(net.steps, net.batch, net.inputs, dtype="float32"),
            [t.normal(*shape, dtype="float32", scale=scale) for shape in shapes],
            t.normal(net.steps, net.batch, net.width, dtype="float32"),
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
        make_module = getattr(torch.nn, net.kind.upper())
        more = {"proj_size": net.projection} if net.projection else {}
        module = make_module(net.inputs, net.hidden, dtype=x.dtype, device=x.device, **more)
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
    x, y = cells * net.inputs, cells * net.width
    case = Case(
        name=f"{net.kind} {'training ' if training else ''}T{net.steps} N{net.batch} H{net.hidden}"
        f"{f' P{net.projection}' if net.projection else ''} fp32",
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
    return changed_case(case, changed)


def cell(kind: str, batch: int, hidden: int, **changed: Any) -> Case:
    net, states = Net(kind, 1, batch, hidden, hidden), 2 if kind == "lstm" else 1
    peer = "rnn_tanh_cell" if kind == "rnn" else f"{kind}_cell"

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
        peers={"torch": lambda t, i: call(getattr(t.torch, peer), i)},
    )
    return changed_case(case, changed)
