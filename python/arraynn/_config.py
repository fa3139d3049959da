"""The machine: threads, and which kernels run."""

from __future__ import annotations

import os
from operator import index

from . import _core


def set_num_threads(n: int) -> None:
    """Set how many threads the CPU kernels may use.

    Parameters
    ----------
    n : int
        At least 1. Results are the same bits for any number.

    Raises
    ------
    TypeError, ValueError
        `n` is not an integer, or is below 1.
    """
    try:
        count = index(n)
    except TypeError:
        raise TypeError(f"set_num_threads: n is {n!r}, expected an int of at least 1") from None
    if not 1 <= count <= 4096:
        raise ValueError(f"set_num_threads: n is {count}, expected 1 to 4096")
    _core.set_num_threads(count)


def get_num_threads() -> int:
    """Return how many threads the CPU kernels may use.

    By default the smaller of the CPU affinity and the cgroup's quota, and no more than OpenMP
    allows (``OMP_NUM_THREADS``, threadpoolctl); ``ARRAYNN_NUM_THREADS`` sets another number. 1 in a
    process forked from one that had used threads.
    """
    threads: int = _core.num_threads()
    return threads


def show_config() -> None:
    """Print the version, the instruction sets (compiled, supported, chosen) and the threads."""
    from . import __version__

    rows = []
    for name, supported in _core.isas():
        rows.append(f"{name}{'' if supported else ' (not on this machine)'}")
    print(f"arraynn {__version__}")
    print(f"  compiled for:  {', '.join(rows)}")
    pairs = ", bfloat16 products" if _core.multiplies_bfloat16() else ""
    print(f"  running:       {_core.isa()}{pairs}  (force one with ARRAYNN_ISA)")
    print(f"  threads:       {get_num_threads()} of {_core.available_cpus()} CPUs  (ARRAYNN_NUM_THREADS)")
    available, detail = _core.cuda_status()
    print(f"  CUDA:          {'' if available else 'not available: '}{detail}")


def _threads_from_environment() -> None:
    text = os.environ.get("ARRAYNN_NUM_THREADS", "")
    if not text:
        return
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise ValueError(f"ARRAYNN_NUM_THREADS: got {text!r}, expected 1 to 4096")
    _core.set_num_threads(int(text))


def _cuda_checks_from_environment() -> None:
    text = os.environ.get("ARRAYNN_CUDA_CHECKS", "")
    if text not in ("", "0", "1"):
        raise ValueError(f"ARRAYNN_CUDA_CHECKS: got {text!r}, expected 0 or 1")
    _core.set_cuda_checks(text == "1")


_threads_from_environment()
_cuda_checks_from_environment()
