"""The RTL under cocotb, compared with the NumPy model."""
