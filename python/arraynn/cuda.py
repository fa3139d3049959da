"""The GPU: whether there is one, and how its kernels may work.

Ops take CUDA arrays of CuPy, PyTorch and JAX as they take NumPy's, and give arrays of the same
library. They work on the arrays' device and queue their work on the library's current stream there,
so a call returns before its result is computed, as the library's own calls do; JAX has no current
stream, so there a call waits. All arrays of a call are of one library and on one device. Gradients
come from `arraynn.vjp`: PyTorch's autograd does not see through an op, and a tensor that requires
grad is read as if detached. 16-bit floats are read and written as they are, and summed in float32.
"""

from __future__ import annotations

from . import _core
from ._common import flag


def is_available() -> bool:
    """Tell whether this build has its CUDA side and the machine a device for it.

    `show_config` prints the device's name, or why there is none.
    """
    return bool(_core.cuda_status()[0])


def allow_tf32(allow: bool | None = None) -> bool:
    """Let matrix products and convolutions of float32 arrays round their factors to TF32.

    TF32 keeps 10 bits of a float32's mantissa: results are right to about three decimal digits rather
    than seven, and come several times as fast, from the tensor cores. Sums stay in float32. Other
    dtypes are not touched, nor is anything on the CPU.

    Parameters
    ----------
    allow : bool, optional
        The new setting, for all calls from now on; False until it is set. Without it nothing changes.

    Returns
    -------
    bool
        The setting.

    Raises
    ------
    TypeError
        `allow` is not a bool.
    """
    if allow is not None:
        _core.set_allow_tf32(flag("allow_tf32", "allow", allow))
    return _core.allow_tf32()


def set_checks(check: bool) -> None:
    """Look at the values of class indices and lengths that lie on a device.

    A label out of range is then a ValueError in the call, as it is on the CPU; but a call that looks
    waits for the device. Without checks, which is the default, such a label makes the loss and its
    gradient NaN, and a length out of range is taken as the nearest one in range. The environment
    variable ``ARRAYNN_CUDA_CHECKS=1`` switches checks on from the start.

    Parameters
    ----------
    check : bool

    Raises
    ------
    TypeError
        `check` is not a bool.
    """
    _core.set_cuda_checks(flag("set_checks", "check", check))
