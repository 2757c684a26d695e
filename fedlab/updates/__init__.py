"""What a device sends, on its way into the server's step: weighed, aggregated."""
