"""Asking a language model: one interface, every answer kept, every failure with a name.

The rest of `labels` knows `question.Question` and `question.Asker` and no server. A run opens one
`client.Client` and gives each feature or expert an asker of it, by `ordered.in_order`.
"""
