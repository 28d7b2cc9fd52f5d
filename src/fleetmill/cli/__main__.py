"""``python -m fleetmill.cli``."""

from fleetmill.cli import main

main()
