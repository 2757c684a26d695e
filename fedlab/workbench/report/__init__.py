"""Executed notebooks as pages that open anywhere, offline."""
