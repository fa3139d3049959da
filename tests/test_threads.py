"""Threads: callers, workers, forks and the number of them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import arraynn as ann
import numpy as np
import pytest
from checks import assert_same_bits, cotangent_of
from shapes import values

X, W = values((4, 16, 40, 40), np.float32, 1), values((32, 16, 3, 3), np.float32, 2)
SEQUENCE, PARAMS = (
    values((20, 16, 32), np.float32, 3),
    [values((256, n), np.float32, 4) / 8 for n in (32, 64)],
)
LOGITS, LABELS = values((512, 300), np.float32, 5), np.arange(512) % 300


def work() -> list[Any]:
    """Use a kernel of each kind, forward and backward."""
    results: list[Any] = []
    for op, args, kwargs in (
        (ann.conv2d, (X, W), dict(padding=1)),
        (ann.max_pool2d, (X, 2), {}),
        (ann.lstm, (SEQUENCE, None, PARAMS), {}),
        (ann.cross_entropy, (LOGITS, LABELS), {}),
        (ann.softmax, (LOGITS,), {}),
        (ann.dropout, (X,), dict(rng=1)),
    ):
        out, pullback = ann.vjp(op, *args, **kwargs)
        results += [out, pullback(cotangent_of(out))]
    return results


def test_concurrent_calls_give_the_same_bits() -> None:
    expected = work()
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(lambda _: work(), range(16)):
            assert_same_bits(result, expected)


def test_concurrent_calls_with_other_options() -> None:
    """Caches are shared between threads: each call must find its own plan."""
    cases = [(n, k, p) for n in (1, 2, 3) for k in (1, 3) for p in (0, 1)]

    def conv(case: tuple[int, int, int]) -> Any:
        n, k, p = case
        return ann.conv2d(X[:n], W[:, :, :k, :k], padding=p)

    expected = [conv(c) for c in cases]
    with ThreadPoolExecutor(8) as pool:
        for got, right in zip(pool.map(conv, cases * 10), expected * 10, strict=True):
            assert_same_bits(got, right)


def test_kernels_release_the_gil() -> None:
    """While one thread is inside a long kernel, another one runs Python code."""
    x, w = values((8, 64, 112, 112), np.float32, 1), values((64, 64, 3, 3), np.float32, 2)
    threads = ann.get_num_threads()
    ann.set_num_threads(1)
    try:
        started, done = threading.Event(), threading.Event()

        def run() -> None:
            started.set()
            ann.conv2d(x, w, padding=1)
            done.set()

        worker = threading.Thread(target=run)
        worker.start()
        started.wait()
        longest, last = 0.0, time.perf_counter()
        begin = last
        while not done.is_set():
            time.sleep(0.0005)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        worker.join()
        assert longest < 0.6 * (time.perf_counter() - begin), "the other thread stood still during the kernel"
    finally:
        ann.set_num_threads(threads)


FORK = """
import os, sys
import numpy as np
import arraynn as ann
from test_threads import work
from checks import assert_same_bits
ann.set_num_threads(2)
expected = work()
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        assert_same_bits(work(), expected)
        ann.set_num_threads(2)
        assert_same_bits(work(), expected)
        os._exit(0)
    children.append(pid)
for pid in children:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert_same_bits(work(), expected)
"""


def run_python(code: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_a_fork_of_a_process_that_used_threads() -> None:
    result = run_python(FORK)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("option", ["OMP_PROC_BIND", "OMP_PLACES"])
def test_openmp_bound_to_places(option: str) -> None:
    """It leaves the importing thread one CPU, but has the others for its workers."""
    code = "import arraynn as ann; print(ann.get_num_threads())"
    value = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}[option]
    result = run_python(code, **{option: value})
    assert result.stdout == run_python(code).stdout, result.stderr


def test_set_num_threads() -> None:
    threads = ann.get_num_threads()
    try:
        for n in (1, 2, 3, np.int64(2)):
            ann.set_num_threads(n)
            assert ann.get_num_threads() == n
            assert type(ann.get_num_threads()) is int
    finally:
        ann.set_num_threads(threads)


@pytest.mark.parametrize(
    ("n", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (10**9, ValueError),
        (1.5, TypeError),
        ("2", TypeError),
        (None, TypeError),
    ],
)
def test_bad_numbers_of_threads(n: Any, error: Any) -> None:
    threads = ann.get_num_threads()
    with pytest.raises(error, match=r"^set_num_threads: n"):
        ann.set_num_threads(n)
    assert ann.get_num_threads() == threads


def test_threads_are_visible_to_threadpoolctl() -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    ann.relu(X)
    assert any(pool["user_api"] == "openmp" for pool in threadpool_info())
    code = "import arraynn as ann\nfrom threadpoolctl import threadpool_limits\n"
    code += "with threadpool_limits(1, user_api='openmp'): print(ann.get_num_threads())"
    result = run_python(code)
    assert result.stdout == "1\n", result.stderr
    expected = work()
    with threadpool_limits(1, user_api="openmp"):
        assert_same_bits(work(), expected)


def test_many_small_calls_leave_no_memory_behind() -> None:
    """Recycled buffers are bounded: a long run of calls of many sizes does not grow the process."""
    code = """
import resource
import numpy as np
import arraynn as ann
def run():
    for n in range(1, 400, 7):
        ann.relu(np.ones((n, 2003), np.float32))
run()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(5):
    run()
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 64 * 1024, f"{grown} KiB more"
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_the_number_of_threads_may_change_during_a_call() -> None:
    """Scratch is sized by the number of threads, and must fit the one the kernel then uses."""
    x, w = values((2, 8, 24, 24), np.float32, 1), values((8, 8, 3, 3), np.float32, 2)
    expected = ann.conv2d(x, w)
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            ann.set_num_threads(1)
            ann.set_num_threads(5)

    before, flipper = ann.get_num_threads(), threading.Thread(target=flip)
    flipper.start()
    try:
        for _ in range(200):
            assert_same_bits(ann.conv2d(x, w), expected, "conv2d")
    finally:
        stop.set()
        flipper.join()
        ann.set_num_threads(before)
