"""How fast rounds are, against the field's frameworks, as ratios within one run (see README.md)."""
