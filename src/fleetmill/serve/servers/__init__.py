"""Which servers there are: as settings and nodes say, and as they say themselves."""
