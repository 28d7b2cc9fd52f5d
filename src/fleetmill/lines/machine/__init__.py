"""Machines in a factory, two lines: `life` (cycles until an engine fails) and `alarm` (something is wrong now).

Two line values and not one with tags: what is observed, the ports of the model, the metrics and the checks all differ,
and a line has one of each.
"""
