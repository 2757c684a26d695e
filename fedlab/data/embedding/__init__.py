"""Texts and sparse rows become vectors, with what that loses."""
