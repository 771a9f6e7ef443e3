"""From probabilities to scores, and from scores to a page."""
