"""What a device sends, on its way into the server's step: weighed, aggregated."""

from fedlab.updates.mean import weighted_average

__all__ = ["weighted_average"]
