"""The one front door of the factory and the routes behind it."""
