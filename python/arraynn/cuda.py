"""The GPU."""

from __future__ import annotations

from . import _core


def is_available() -> bool:
    """Tell whether this build has its CUDA side and the machine a device for it.

    `show_config` prints the device's name, or why there is none.
    """
    return bool(_core.cuda_status()[0])
