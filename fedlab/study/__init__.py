"""Studies: many runs of one notebook or function, resumed, on any executor, read as one frame."""
