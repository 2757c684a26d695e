"""Tables of one's own: read, typed, prepared from sums that each device forms."""
