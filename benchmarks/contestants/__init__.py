"""One module a contestant; each is started as a process of its own."""
