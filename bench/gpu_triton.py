"""Peers written in Triton, in the manner of its tutorials: one pass over the data, one tiled product.

Imported only where Triton is installed.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit
def _relu(x, y, size, block: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * block + tl.arange(0, block)
    mask = at < size
    tl.store(y + at, tl.maximum(tl.load(x + at, mask), 0.0), mask)


@triton.jit
def _sigmoid(x, y, size, block: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * block + tl.arange(0, block)
    mask = at < size
    value = tl.load(x + at, mask).to(tl.float32)
    tl.store(y + at, (1 / (1 + tl.exp(-value))).to(y.dtype.element_ty), mask)


@triton.jit
def _softmax(x, y, columns, log: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64) * columns
    at = tl.arange(0, block)
    mask = at < columns
    value = tl.load(x + row + at, mask, -float("inf")).to(tl.float32)
    value -= tl.max(value, 0)
    power = tl.exp(value)
    total = tl.sum(power, 0)
    result = value - tl.log(total) if log else power / total
    tl.store(y + row + at, result.to(y.dtype.element_ty), mask)


@triton.jit
def _linear(  # type: ignore[no-untyped-def]
    x, w, b, y, m, n, k, tile_m: tl.constexpr, tile_n: tl.constexpr, tile_k: tl.constexpr, band: tl.constexpr
):
    # programs that run together take a band of rows of tiles, so that they share operands in the L2
    program, rows, columns = tl.program_id(0), tl.cdiv(m, tile_m), tl.cdiv(n, tile_n)
    first = program // (band * columns) * band
    height = min(rows - first, band)
    inside = program % (band * columns)
    at_m = (first + inside % height) * tile_m + tl.arange(0, tile_m)
    at_n = (inside // height) * tile_n + tl.arange(0, tile_n)
    at_k = tl.arange(0, tile_k)
    xs = x + (at_m % m)[:, None] * k + at_k[None, :]
    ws = w + (at_n % n)[None, :] * k + at_k[:, None]
    total = tl.zeros((tile_m, tile_n), tl.float32)
    for done in range(0, k, tile_k):
        left = k - done
        total = tl.dot(tl.load(xs, at_k[None, :] < left, 0.0), tl.load(ws, at_k[:, None] < left, 0.0), total)
        xs += tile_k
        ws += tile_k
    total += tl.load(b + at_n, at_n < n, 0.0).to(tl.float32)[None, :]
    out = y + at_m.to(tl.int64)[:, None] * n + at_n[None, :]
    tl.store(out, total.to(y.dtype.element_ty), (at_m < m)[:, None] & (at_n < n)[None, :])


def _elementwise(kernel: Any, x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    block = 4096
    kernel[(triton.cdiv(x.numel(), block),)](x, y, x.numel(), block=block, num_warps=8)
    return y


def relu(x: torch.Tensor) -> torch.Tensor:
    return _elementwise(_relu, x)


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    return _elementwise(_sigmoid, x)


def _rows(x: torch.Tensor, log: bool) -> torch.Tensor:
    y = torch.empty_like(x)
    rows, columns = x.shape
    block = triton.next_power_of_2(columns)
    _softmax[(rows,)](x, y, columns, log=log, block=block, num_warps=4 if block <= 2048 else 8)
    return y


def softmax(x: torch.Tensor) -> torch.Tensor:
    """Normalise the rows of a matrix."""
    return _rows(x, False)


def log_softmax(x: torch.Tensor) -> torch.Tensor:
    """Normalise the rows of a matrix and take the logarithm."""
    return _rows(x, True)


def linear(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return x w^T + b for 16-bit matrices."""
    (m, k), n = x.shape, w.shape[0]
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    tile_m, tile_n, tile_k = 128, 256 if n >= 2048 else 128, 64
    grid = (triton.cdiv(m, tile_m) * triton.cdiv(n, tile_n),)
    options = {"num_warps": 8, "num_stages": 3}
    _linear[grid](x, w, b, y, m, n, k, tile_m=tile_m, tile_n=tile_n, tile_k=tile_k, band=8, **options)
    return y
