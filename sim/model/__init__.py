"""The bit-accurate NumPy model of the machine."""
