"""Who takes part, in the order of the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contestant:
    """A module under `benchmarks.contestants`, and how it is started.

    Attributes
    ----------
    name : str
        As the table and the command line have it.
    module : str
    peer : str, optional
        The environment that it runs in (a table of peers.toml); by default the one of `fedlab`.
    one_thread : bool
        Whether NumPy's BLAS is held to one thread, which is faster at these shapes. What isn't
        NumPy's (fedlab, JAX, torch) sets its own threads.
    only : tuple of str
        Workloads that it can do, if not all.
    """

    name: str
    module: str
    peer: str | None = None
    one_thread: bool = False
    only: tuple[str, ...] = ()


OURS = "fedlab"
REFERENCE = "numpy-loop"  # whose loss the others' are held against: the shortest program of all
FLOOR = "gemm-floor"

CONTESTANTS = (
    Contestant(OURS, "ours"),
    Contestant(REFERENCE, "loop", one_thread=True),
    Contestant("numpy-batched", "batched", one_thread=True),
    Contestant("numpy-sums", "sums", one_thread=True, only=("W3",)),
    Contestant("fedjax", "fedjax_jit", peer="fedjax"),
    Contestant("jax-scan", "jax_scan", peer="fedjax"),
    Contestant("pfl", "pfl_torch", peer="pfl"),
    Contestant("flower-numpy", "flower_numpy", peer="flower", one_thread=True),
    Contestant(FLOOR, "floor", one_thread=True),
)
