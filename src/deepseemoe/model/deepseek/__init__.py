"""DeepSeekMoE-16B (`model_type: deepseek`) for the transformers library, which has no such model.

Its checkpoints bring remote code, written for transformers 4, which version 5 cannot import. With
these classes registered none of it is asked for, and checkpoints are read and written under their
own names.

The tokenizer is `AutoTokenizer`, always: the checkpoints name LlamaTokenizerFast, but their
tokenizer.json is a byte-level BPE. AutoTokenizer sees that; the named class gives wrong ids.
"""
