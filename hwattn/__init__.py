"""hwattn: trained Vision Transformers and mixtures of experts as FPGA accelerators, bit for bit."""
