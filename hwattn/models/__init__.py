"""Bundled trained models, one folder each."""
