"""Bytes from devices and foreign files become recordings."""
