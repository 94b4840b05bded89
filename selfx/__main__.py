"""`python -m selfx` is `selfx`."""

import sys

from selfx.cli import main

sys.exit(main())
