"""Fleetmill: an AI factory that you own."""
