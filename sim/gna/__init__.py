"""The simulator of Generalized Neighborhood Attention."""
