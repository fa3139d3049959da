"""What the op tests check, whatever the op."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from arraynn._vjp import differentiable
from device import ann, checked
from numpy.typing import NDArray
from tolerance import assert_close

Array = NDArray[Any]
Bounds = Mapping[str, tuple[float, ...]]  # terms, scale, ulps of `assert_close`, by "out" or argument name


def leaves(value: Any) -> Iterator[Array | None]:
    """Walk through arrays in nested tuples and lists."""
    if isinstance(value, tuple | list):
        for v in value:
            yield from leaves(v)
    else:
        yield value


def like(value: Any, fill: Callable[[Array], Any]) -> Any:
    """Rebuild nested tuples with `fill` of each array."""
    return tuple(like(v, fill) for v in value) if isinstance(value, tuple | list) else fill(value)


def cotangent_of(out: Any, seed: int = 0) -> Any:
    """Return a cotangent for `out`: numbers between -1 and 1, None for integers."""
    rng = np.random.default_rng(seed)
    return like(out, lambda a: None if a.dtype.kind in "iu" else rng.uniform(-1, 1, a.shape).astype(a.dtype))


def assert_same_bits(actual: Any, expected: Any, what: str = "result") -> None:
    """Assert that arrays, nested or not, are equal bit for bit."""
    pairs = list(zip(leaves(actual), leaves(expected), strict=True))
    for a, e in pairs:
        if a is None or e is None:
            assert a is e, what
            continue
        assert a.dtype == e.dtype, what
        assert a.shape == e.shape, what
        assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(e).tobytes(), f"{what}: other bits"


def assert_nested_close(actual: Any, expected: Any, bound: tuple[float, ...], what: str) -> None:
    """`assert_close` for nested arrays; integers must be equal and dtypes the same."""
    for a, e in zip(leaves(actual), leaves(expected), strict=True):
        if a is None or e is None:
            assert a is e, f"{what}: one is None"
            continue
        assert a.dtype == e.dtype, f"{what} has dtype {a.dtype}, expected {e.dtype}"
        if e.dtype.kind in "iu":
            np.testing.assert_array_equal(a, e, err_msg=what)
        else:
            assert_close(a, e, what=what, **dict(zip(("terms", "scale", "ulps"), bound, strict=False)))


def check_op(
    name: str, *args: Any, bounds: Bounds | None = None, written: Sequence[int] = (), **kwargs: Any
) -> Any:
    """Check an op against its reference, forward and gradient, and return the op's output.

    Also: arguments stay as they were, the pullback gives the same bits when called again, and with
    `wrt` each gradient alone is the one that all gave. `written` are the positions of arguments that a
    call changes: they must become what the reference makes of them, and are set back after each call.
    """
    bounds = bounds or {}
    op, reference = getattr(ann, name), getattr(ann.reference, name)
    before = [None if a is None else np.array(a) for a in leaves((*args, *kwargs.values())) if _is_array(a)]

    states = [args[i] for i in written if args[i] is not None]

    def once(call: Callable[..., Any], *arguments: Any) -> tuple[Any, list[Array]]:
        kept = [state.copy() for state in states]
        result = call(*arguments, *args, **kwargs)
        after = [state.copy() for state in states]
        for state, values in zip(states, kept, strict=True):
            state[...] = values
        return result, after

    def close(actual: Any, expected: Any, what: str) -> None:
        assert_nested_close(actual, expected, bounds.get(what, bounds.get("all", ())), f"{name} {what}")

    out, after = once(op)
    with np.errstate(all="ignore"):
        (expected, pullback_reference), right_after = once(ann.vjp, reference)
    close(out, expected, "out")
    close(after, right_after, "written")

    (out_vjp, pullback), after_vjp = once(ann.vjp, op)
    close(out_vjp, expected, "out")
    assert_same_bits(after_vjp, after, f"{name}: what vjp wrote")
    dout = cotangent_of(expected)
    gradients, names = pullback(dout), differentiable(op)
    with np.errstate(all="ignore"):
        expected_gradients = pullback_reference(dout)
    for which, actual, right in zip(names, gradients, expected_gradients, strict=True):
        close(actual, right, which)
    assert_same_bits(pullback(dout), gradients, f"{name}: pullback called again")
    if len(names) > 1:
        for i, which in enumerate(names):
            alone = once(functools.partial(ann.vjp, wrt=which), op)[0][1](dout)
            assert all(a is None for j, a in enumerate(alone) if j != i)
            close(alone[i], gradients[i], which)

    now = [a for a in leaves((*args, *kwargs.values())) if _is_array(a)]
    for a, b in zip(now, before, strict=True):
        assert_same_bits(a, b, f"{name}: an argument changed")
    return out


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def check_threads(name: str, *args: Any, **kwargs: Any) -> None:
    """Check that output and gradients are the same bits for 1, 2 and 3 threads and from run to run."""
    op = getattr(ann, name)

    def run() -> Any:
        out, pullback = ann.vjp(op, *args, **kwargs)
        return op(*args, **kwargs), out, pullback(cotangent_of(out))

    threads = ann.get_num_threads()
    try:
        ann.set_num_threads(1)
        expected = run()
        for n in (2, 3, 2):
            ann.set_num_threads(n)
            assert_same_bits(run(), expected, f"{name} with {n} threads")
    finally:
        ann.set_num_threads(threads)


def check_out(name: str, *args: Any, **kwargs: Any) -> None:
    """Check NumPy's `out=`: written and returned, or refused with nothing written."""
    op = getattr(ann, name)
    expected = op(*args, **kwargs)
    out = np.full_like(expected, 7, order="C")
    assert op(*args, out=out, **kwargs) is out
    assert_same_bits(out, expected, f"{name} with out")

    spread = np.full((*expected.shape, 3), 7, expected.dtype)
    strided = spread[..., 1]
    assert op(*args, out=strided, **kwargs) is strided
    assert_same_bits(strided, expected, f"{name} with strided out")
    assert (spread[..., ::2] == 7).all(), f"{name} wrote beside its out"

    transposed = np.full_like(expected, 7, order="F")
    assert op(*args, out=transposed, **kwargs) is transposed
    assert_same_bits(transposed, expected, f"{name} with Fortran out")

    other = np.float32 if expected.dtype == np.float64 else np.float64
    read_only = np.full_like(expected, 7)
    read_only.flags.writeable = False
    for bad, error in (
        (np.full((*expected.shape, 1), 7, expected.dtype), ValueError),
        (np.full(expected.shape, 7, other), TypeError),
        (np.full(expected.shape, 7, np.int64), TypeError),
        (read_only, ValueError),
        ([7.0], TypeError),
    ):
        refuses(error, f"{name}: .*out", op, *args, out=bad, **kwargs)
        assert np.all(np.asarray(bad) == 7), f"{name} wrote into an out it refused"


def check_overlap(name: str, *args: Any, **kwargs: Any) -> None:
    """Check that an `out` in the memory of each array argument is refused, the argument unchanged."""
    op = getattr(ann, name)
    shape, dtype = op(*args, **kwargs).shape, op(*args, **kwargs).dtype
    count = int(np.prod(shape))
    for i, a in enumerate(args):
        if not _is_array(a) or not a.size or not count or a.dtype != dtype:
            continue
        room = np.zeros(a.size + count, dtype)
        inner = room[: a.size].reshape(a.shape)
        inner[...] = a
        out = room[a.size - 1 : a.size - 1 + count].reshape(shape)  # they share one element
        saved = room.copy()
        refuses(ValueError, f"{name}: .*out", op, *args[:i], inner, *args[i + 1 :], out=out, **kwargs)
        assert_same_bits(room, saved, f"{name} wrote into an out it refused")


def refuses(error: Any, pattern: str, op: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Check that a call raises `error` with a message that matches."""
    with pytest.raises(error) as caught:
        op(*args, **kwargs)
    assert type(caught.value) in (ValueError, TypeError), f"{type(caught.value).__name__}: {caught.value}"
    assert re.search(pattern, str(caught.value), re.DOTALL), f"{pattern!r} is not in {str(caught.value)!r}"


def check_bad(name: str, error: Any, argument: str, *args: Any, **kwargs: Any) -> None:
    """Check that op, vjp and reference refuse a call, naming op and argument, and write nothing."""
    pattern = rf"^{name}: .*{re.escape(argument)}"
    saved = [np.array(a) for a in leaves((*args, *kwargs.values())) if _is_array(a)]
    for op in (getattr(ann, name), getattr(ann.reference, name)):
        with checked():  # a device looks at values only if it is told to
            refuses(error, pattern, op, *args, **kwargs)
            if op in ann._vjp._rules:
                refuses(error, pattern, ann.vjp, op, *args, **kwargs)
            if "out" in inspect.signature(op).parameters:
                out = np.full((2, 2), 7.0)
                refuses((ValueError, TypeError), f"^{name}: ", op, *args, out=out, **kwargs)
                assert (out == 7).all()
    now = [a for a in leaves((*args, *kwargs.values())) if _is_array(a)]
    for a, b in zip(now, saved, strict=True):
        assert_same_bits(a, b, f"{name} wrote before it refused")
