"""Notebooks run in batch, killable, with a record of each run."""
