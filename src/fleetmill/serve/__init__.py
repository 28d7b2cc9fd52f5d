"""Serving: models behind one endpoint, on the device first, on own servers next, at a partner last and only by rule."""
