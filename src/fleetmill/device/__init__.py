"""On the device: small, offline first. Loads no torch, no SQLAlchemy, no web framework."""
