"""What there is to learn from: one module per data set behind one plain description."""
