"""The cycle model and the roofline."""
