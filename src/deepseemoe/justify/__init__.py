"""Whether a dictionary across layers beats one for each layer, which layers, and how many."""
