"""`python -m proxy.simulator`."""

import sys

from proxy.simulator.command import main

sys.exit(main())
