"""Modules that can be imported in Flower's environment alone, and what they import of it."""

OF_FLOWER = {
    "fedlab/deploy/app.py": "flwr",
    "fedlab/deploy/keys.py": "cryptography",
    "fedlab/deploy/superlink.py": "flwr",
}
