"""What a device's hardware can do."""

from __future__ import annotations

from dataclasses import dataclass

from fedlab.core.validation import positive, share_of_one


@dataclass(frozen=True)
class Profile:
    """What a device's hardware can do; simulated seconds follow from it.

    Parameters
    ----------
    bandwidth : float
        Bytes a second, up and down alike. The default is 10 Mbit/s.
    compute : float
        Floating-point operations a second. The default is a small processor's 1 GFLOP/s.
    availability : float
        Probability of being reachable in a round, 0 ... 1.
    """

    bandwidth: float = 1.25e6
    compute: float = 1e9
    availability: float = 1.0

    def __post_init__(self) -> None:
        positive(bandwidth=self.bandwidth, compute=self.compute)
        share_of_one(availability=self.availability)
