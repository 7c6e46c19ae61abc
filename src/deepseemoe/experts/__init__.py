"""The maps: which features make a router call an expert, and which an expert writes."""
