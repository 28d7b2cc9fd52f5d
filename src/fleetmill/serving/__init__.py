"""A home's gateway: the relay of `serve/` with the home's accounts, servers and models behind it."""
