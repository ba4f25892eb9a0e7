"""Networks in torch, their seeded weights and their export; only training and building workloads need it."""
