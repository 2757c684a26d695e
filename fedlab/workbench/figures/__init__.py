"""Figures, each from one tidy frame."""
