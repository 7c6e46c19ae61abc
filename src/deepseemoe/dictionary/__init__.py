"""Sparse dictionaries over windows of layers: training, encoding, thresholds, metrics.

`dictionary.Dictionary` is what other stages load; `train.train_dictionary` makes one and
`evaluate.evaluate_dictionary` measures it with the model. Every metric is defined in `metrics`.
"""
