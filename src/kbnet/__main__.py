"""`python -m kbnet` is the command `kbnet`."""

import sys

from kbnet.cli import main

sys.exit(main())
