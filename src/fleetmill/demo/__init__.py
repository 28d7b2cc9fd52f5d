"""The simulated fleet, the demo and its report."""
