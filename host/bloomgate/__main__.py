"""``python -m bloomgate``: the command line."""

import sys

from bloomgate.cli import main

if __name__ == "__main__":
    sys.exit(main())
