"""The columns of the scores.

A *decision* is one expert's yes or no on one token. Bits are log loss saved, in bits a decision.
All scores are of documents that nothing was fitted or chosen on; intervals draw these again.
"""

import pyarrow as pa

from deepseemoe.runtime.tables import Column, Columns

INTERVAL = "bound of its interval over documents"

SCORES: Columns = (
    Column("layer", pa.uint16(), "", "layer of the router"),
    Column("predictor", pa.string(), "", "what routing is predicted from, see docs/prediction.md"),
    Column("expert", pa.uint16(), "", "routed expert; null: all experts of the router that have "
           "scores, the mean of f1 and auroc, and bits over all their decisions"),
    Column("n_inputs", pa.int64(), "", "features, coordinates or components that a probe reads; "
           "tokens or pairs of tokens that are counted"),
    Column("strength", pa.float32(), "", "penalty of the probe, or tokens' worth of smoothing; "
           "null where no weight was worth having, and for base"),
    Column("sees_later", pa.bool_(), "", "whether inputs hold what was written after the decision"),
    Column("n_tokens", pa.int64(), "tokens", "tokens that are tested"),
    Column("n_documents", pa.int64(), "documents", "documents that are tested"),
    Column("n_experts", pa.int64(), "experts", "experts with scores, of those in the row"),
    Column("p_e", pa.float32(), "share", "of the tested tokens that choose the expert, on average"),
    Column("f1", pa.float32(), "", "macro-F1 of the top_k experts by predicted log odds"),
    Column("f1_lo", pa.float32(), "", f"lower {INTERVAL}"),
    Column("f1_hi", pa.float32(), "", f"upper {INTERVAL}"),
    Column("f1_chance", pa.float32(), "", "the f1 of as many predictions of each expert, spread "
           "over tokens at random"),
    Column("auroc", pa.float32(), "", "of log odds, for choosing the expert or not; .5 is chance"),
    Column("auroc_lo", pa.float32(), "", f"lower {INTERVAL}"),
    Column("auroc_hi", pa.float32(), "", f"upper {INTERVAL}"),
    Column("bits_base", pa.float32(), "bits", "log loss of the base rate: all there is to save"),
    Column("bits", pa.float32(), "bits", "saved over the base rate"),
    Column("bits_lo", pa.float32(), "bits", f"lower {INTERVAL}"),
    Column("bits_hi", pa.float32(), "bits", f"upper {INTERVAL}"),
    Column("over_unigram", pa.float32(), "bits", "saved over the unigram"),
    Column("over_unigram_lo", pa.float32(), "bits", f"lower {INTERVAL}"),
    Column("over_unigram_hi", pa.float32(), "bits", f"upper {INTERVAL}"),
    Column("given_token", pa.float32(), "bits", "saved by features of the token itself over those "
           "of the same token in another document: at least I(expert; features | token) as a "
           "linear probe reads it; null but for unigram+own"),
    Column("given_token_lo", pa.float32(), "bits", f"lower {INTERVAL}"),
    Column("given_token_hi", pa.float32(), "bits", f"upper {INTERVAL}"),
    Column("reason", pa.string(), "", "why a number is missing or an expert left out; '' if none"),
)  # fmt: skip
