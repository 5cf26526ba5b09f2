"""Devices that a plan can be made for without having them: their peaks, and what is reached.

Peaks are those of dense matrix products in bfloat16 and in float32 (without TensorFloat-32) that
the makers' data sheets state: NVIDIA's of A100 (2021), H100 (2023), H200 (2024), L40S (2023), A10
(2021), RTX 4090 (2022), V100 (2020, whose half precision is float16); AMD's of MI300X (2023). The
shares of the peak that trainings and scorings reach were measured with `make bench_gpu` on an H200
in bfloat16 (docs/benchmarks.md): 31 to 50 % in training, 31 % in scoring. They are assumed for all
other devices, and for float32, too.
"""

import dataclasses

from mdel_assets.errors import UnknownKeyError, unknown_name_message
from mdel_assets.line.price import Pace

_TRAINING_SHARE, _SCORING_SHARE = 0.4, 0.31


@dataclasses.dataclass(frozen=True)
class Device:
    """A device: its peaks in operations a second, and its memory in bytes.

    ``count`` of them work at a time. ``is_achieved``: the figures are what is reached, not peaks.
    """

    name: str
    bfloat16: float
    float32: float
    memory_bytes: float | None
    count: int = 1
    is_achieved: bool = False

    def rate(self, pace: Pace) -> float:
        """Return the operations that one device reaches in a second."""
        peak = self.bfloat16 if pace.dtype == "bfloat16" else self.float32
        if self.is_achieved:
            return peak
        return peak * (_TRAINING_SHARE if pace.work == "training" else _SCORING_SHARE)


_GIB = float(1 << 30)
DEVICES = {
    device.name: device
    for device in (
        Device("a10", 125e12, 31.2e12, 24 * _GIB),
        Device("a100", 312e12, 19.5e12, 80 * _GIB),
        Device("h100", 989.4e12, 66.9e12, 80 * _GIB),
        Device("h200", 989.4e12, 66.9e12, 141 * _GIB),
        Device("l40s", 362e12, 91.6e12, 48 * _GIB),
        Device("mi300x", 1307.4e12, 163.4e12, 192 * _GIB),
        Device("rtx4090", 165.2e12, 82.6e12, 24 * _GIB),
        Device("v100", 125e12, 15.7e12, 32 * _GIB),
    )
}


def named_device(name: str, *, count: int = 1) -> Device:
    """Return ``count`` of the device called ``name``, in any case.

    Raises:
        UnknownKeyError: there is no such device; the message lists the known ones.

    """
    if name.lower() not in DEVICES:
        raise UnknownKeyError(
            f"{unknown_name_message('device', name, sorted(DEVICES))} All: "
            f"{', '.join(sorted(DEVICES))}. For another, give the rate that it reaches: --tflops."
        )
    return dataclasses.replace(DEVICES[name.lower()], count=count)


def device_of_rate(tflops: float, *, count: int = 1) -> Device:
    """Return ``count`` of a device that reaches so many TFLOP/s in whatever it does."""
    rate = tflops * 1e12
    return Device(f"{tflops:g} TFLOP/s", rate, rate, None, count, is_achieved=True)
