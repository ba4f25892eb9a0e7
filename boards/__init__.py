"""One file per board, the top levels and the host driver."""
