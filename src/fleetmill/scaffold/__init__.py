"""A line of one's own: what stands in a table, a recording or another line becomes a small package that works."""
