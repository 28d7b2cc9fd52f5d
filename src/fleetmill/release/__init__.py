"""An admitted model is signed and published."""
