"""Runs the `kbnet` command as `python -m kbnet`."""

import sys

from kbnet.cli import main

sys.exit(main())
