"""Text to token shards: sources, filters, splits, the tokenizer, and packing into sequences."""
