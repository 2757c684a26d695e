"""One index, its labels, its hardware; and where devices come from: data, a table, a store."""

from fedlab.device.device import Device
from fedlab.device.following import Followed, follow
from fedlab.device.profile import Profile
from fedlab.device.profiles import profiles_of, read_availability, read_profiles, sample_profiles
from fedlab.device.rows import Rows
from fedlab.device.splits import audit_groups, hold_out_devices

__all__ = [
    "Device",
    "Followed",
    "Profile",
    "Rows",
    "audit_groups",
    "follow",
    "hold_out_devices",
    "profiles_of",
    "read_availability",
    "read_profiles",
    "sample_profiles",
]
