"""Vectors wherever they are: files of many formats and databases, read by batches."""
