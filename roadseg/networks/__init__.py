"""Frozen encoders behind one interface, a SavedModel with named tensors, and SegNet's decoder."""
