"""The same datapath in C++ for high-level synthesis."""
