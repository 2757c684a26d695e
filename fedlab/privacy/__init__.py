"""Mechanisms on arrays: sums that hide their summands, noise that hides rows, shares, budgets."""
