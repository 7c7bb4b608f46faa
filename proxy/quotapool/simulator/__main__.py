"""`python -m quotapool.simulator`."""

import sys

from quotapool.simulator.command import main

sys.exit(main())
