"""The one rule for how close a result must be."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray


def eps(dtype: Any) -> float:
    """Return the distance from 1 to the next number of `dtype`."""
    return float(ml_dtypes.finfo(dtype).eps)


def compute_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the dtype that an op on `dtype` computes in."""
    return np.dtype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)


def assert_close(
    actual: NDArray[Any],
    expected: NDArray[Any],
    *,
    terms: float = 0,
    scale: float = 1.0,
    ulps: float = 4,
    dtype: Any = None,
    what: str = "result",
) -> None:
    """Assert that `actual` is `expected` up to the rounding that its computation explains.

    The bound, for each element, is::

        eps_out * |expected| + eps_compute * (ulps * |expected| + terms * scale) + floor

    - eps_out * |expected|: the rounding at the output, and one unit of slack.
    - ulps * |expected|: a handful of roundings relative to the value itself: a product, a
      division, an exp or tanh of 2 ulp.
    - terms * scale: a sum of `terms` products, each at most `scale` in magnitude. Partial sums of
      terms of random sign grow like sqrt(k) * scale and each addition errs by at most half an eps of
      them, so n independent errors add up to about eps * scale * n / 2; a sum all of one sign has
      larger partial sums, but is itself as large, and is added in blocks. What cancels stays
      within the same bound, which is why it does not use |expected|.
    - floor: results below the smallest normal number may lose their last bits (float32, float64);
      16-bit results are rounded from float32, so theirs is one subnormal step.

    eps_compute is float32's for the 16-bit types, which compute in float32. NaN must meet NaN and
    an infinity the same infinity. `dtype` is the one to judge by, actual's if not given: pass it
    where a coarser dtype was involved on the way.
    """
    assert isinstance(actual, np.ndarray), f"{what} is {type(actual).__name__}, not an array"
    assert actual.shape == expected.shape, f"{what} has shape {actual.shape}, expected {expected.shape}"
    judged = np.dtype(dtype if dtype is not None else actual.dtype)
    info = ml_dtypes.finfo(judged)
    floor = float(info.tiny if judged.itemsize > 2 else info.smallest_subnormal)
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(e), err_msg=f"{what}: NaN in other places")
    infinite = np.isinf(a) | np.isinf(e)
    np.testing.assert_array_equal(a[infinite], e[infinite], err_msg=f"{what}: other infinities")
    finite = np.isfinite(e)
    a, e = a[finite], e[finite]
    compute = eps(compute_dtype(judged))
    bound = eps(judged) * np.abs(e) + compute * (ulps * np.abs(e) + terms * scale) + floor
    error = np.abs(a - e)
    if np.any(error > bound):
        worst = int(np.argmax(error / bound))
        raise AssertionError(
            f"{what}: {np.count_nonzero(error > bound)} of {error.size} differ; the worst is {a[worst]}, "
            f"expected {e[worst]}, {error[worst] / bound[worst]:.2f} times the bound {bound[worst]:.3g} "
            f"(terms={terms}, scale={scale:.3g}, {judged})"
        )


def largest(*arrays: NDArray[Any] | None) -> float:
    """Return the largest finite magnitude in `arrays`, at least 1e-3."""
    found = 1e-3
    for a in arrays:
        if a is not None and a.size:
            magnitudes = np.abs(a.astype(np.float64))
            magnitudes = magnitudes[np.isfinite(magnitudes)]
            found = max(found, float(magnitudes.max(initial=0)))
    return found
