"""One index, its labels, its hardware; and where devices come from: data, a table, a store."""

from fedlab.device.device import Device
from fedlab.device.profile import Profile
from fedlab.device.rows import Rows

__all__ = ["Device", "Profile", "Rows"]
