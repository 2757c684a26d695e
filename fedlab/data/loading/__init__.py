"""Known sources, pinned and verified: pulled once, then read from disk."""
