"""The bundled workload: a two-task mixture-of-experts ViT on scanned 8x8 digits."""
