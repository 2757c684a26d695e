"""Federated rounds and a search on the base install alone; a script for a fresh environment.

``test_packaging.py`` runs it with the interpreter of an environment that has the wheel and what it
depends on, and nothing else. It prints what it found as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.metadata import distributions

NOT_IN_THE_BASE = ("jupyter_client", "jupyterlab", "ipykernel", "IPython", "papermill", "torch")
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request")


def refuse_network(event: str, _: tuple[object, ...]) -> None:
    """Audit hook under which nothing in this process reaches a network."""
    if event in NETWORK:
        raise RuntimeError(f"the base install used the network: {event}")


def main() -> None:
    present = [name for name in NOT_IN_THE_BASE if importlib.util.find_spec(name)]
    if present:
        raise RuntimeError(f"not a base environment, as it has {', '.join(present)}")
    sys.addaudithook(refuse_network)

    import fedlab
    from fedlab import Federation, LocalSGD, SoftmaxRegression, spread
    from fedlab.data import iid, load_digits

    digits = load_digits()
    devices = spread(digits, iid(len(digits.y), 10, seed=0))
    federation = Federation(
        devices,
        SoftmaxRegression(inputs=64, classes=10),
        local=LocalSGD(epochs=1, batch_size=32, learning_rate=0.1),
        cohort=5,
        test=(digits.x, digits.y),
    )
    history = federation.run(rounds=3)
    index = devices[0].index
    keys = list(index)[:20]
    hits = index.search(index.get(keys), k=1, exact=False)
    found = {
        "fedlab": fedlab.__file__,
        "distributions": sorted(d.name.lower() for d in distributions()),
        "accuracy": history.last("test_accuracy"),
        "found themselves": sum(key == hit for key, hit in zip(keys, hits.keys[:, 0], strict=True)),
    }
    print(json.dumps(found, default=int))


if __name__ == "__main__":
    main()
