"""Asking a language model: one interface, every answer kept, every failure with a name.

The rest of `labels` knows `question.Question` and `question.Asker` and no server.
"""
