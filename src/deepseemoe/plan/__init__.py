"""What a run will take, before anything runs: memory, disk, hours, label tokens.

From the configuration and the model's `config.json` alone. Bytes follow from the code that writes
them and are held to what it writes by tests; what cannot be counted is marked as an estimate.
"""
