"""Lowering: one file for each kind of layer, all writing through the emitter."""
