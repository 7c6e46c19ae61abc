"""How well routing is predicted: from features, from tokens, from what is no dictionary."""
