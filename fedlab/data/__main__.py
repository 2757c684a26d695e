"""``python -m fedlab.data``: list the sources, pull them, verify what was pulled."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fedlab.data.loading.pull import pull, verify
from fedlab.data.loading.registry import DataChanged, DataUnavailable, folder, sources

FINE, UNAVAILABLE, REFUSED = 0, 1, 3

_EPILOG = f"""exit status:
  {FINE}  all is there
  {UNAVAILABLE}  something is missing or can't be had now; the bundled sources still work
  2  the command line was wrong
  {REFUSED}  something was refused, because its bytes are not the pinned ones"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fedlab.data",
        description="Data for the notebooks: pinned, verified, kept offline.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", default="list", choices=("list", "pull", "verify"))
    parser.add_argument(
        "names", nargs="*", metavar="name", help="sources (all, where none is named)"
    )
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in sources()]
    if unknown:
        parser.error(f"no source {', '.join(unknown)}; there are {', '.join(sources())}")
    commands = {"list": _list, "pull": _pull, "verify": _verify}
    # What only an extra can read is pulled by name, or when it is first used.
    names = given.names or [
        n for n, s in sources().items() if not s.extra or given.command == "list"
    ]
    return max(commands[given.command](name) for name in names)


def _list(name: str) -> int:
    what = sources()[name]
    print(f"{name}: {what.description}\n  {what.package} {what.version or '(bundled)'}")
    print(f"  from: {what.origin}\n  licence: {what.licence}\n  cite: {what.citation}")
    return FINE


def _pull(name: str) -> int:
    what = sources()[name]
    if what.bundled:
        print(f"{name}: bundled with {what.package}")
        return FINE
    there = set(verify(name).values()) == {"verified"}
    if not there:
        print(f"{name}: pulling {what.package} {what.version} ...", flush=True)
    try:
        paths = pull(name)
    except (DataUnavailable, DataChanged) as error:
        print(f"{name}: {error}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            print(note, file=sys.stderr)
        return REFUSED if isinstance(error, DataChanged) else UNAVAILABLE
    print(f"{name}: {'there' if there else 'pulled'}, {len(paths)} file(s) verified")
    return FINE


def _verify(name: str) -> int:
    if sources()[name].bundled:
        print(f"{name}: bundled with {sources()[name].package}")
        return FINE
    states = verify(name)
    for file, state in states.items():
        print(f"{name}: {file} {state} in {folder() / name}")
    if "changed" in states.values():
        return REFUSED
    return UNAVAILABLE if "missing" in states.values() else FINE


if __name__ == "__main__":
    sys.exit(main())
