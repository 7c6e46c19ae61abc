"""Features on held-out text: sparse shards in text order, how often features fire, and where."""
