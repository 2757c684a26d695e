"""Experiments too long for a cell, one notebook's each."""
