"""``python -m fedlab.workbench``."""

import sys

from fedlab.workbench.batch.cli import main

if __name__ == "__main__":
    sys.exit(main())
