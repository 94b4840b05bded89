"""`python -m selfx.cli` is `selfx`."""

import sys

from selfx.cli import main

sys.exit(main())
