"""Mixture-of-Experts language models behind one interface, and the tiny ones that a run makes.

`loading.load_model` gives an `adapter.MoeModel` for each family of the adapter table `spec.SPECS`.
`training.train_model` trains NanoMoE on a corpus; `planted.plant_model` sets its weights by hand so
that the map from features to experts is known.
"""
