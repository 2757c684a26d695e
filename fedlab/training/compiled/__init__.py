"""The compiled engine, which must equal the plain loop (`fedlab.training.local`)."""
