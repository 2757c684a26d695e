"""What everything stands on: addressed draws, argument checks, threads, compilation, the ledger."""
