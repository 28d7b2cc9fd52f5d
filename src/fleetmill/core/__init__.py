"""What things are: no I/O, standard library and numpy only."""
