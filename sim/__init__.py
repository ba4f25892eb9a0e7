"""Models of the machine that run on a computer."""
