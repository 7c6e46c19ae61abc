"""Descriptions of features and experts, and how well they do on documents kept apart for that.

`features.label_features` and `experts.label_experts` are the stages. Labellers share one
interface, `explanation.Labeller`: `offline` states the best executable rule and is no LLM, `llm`
asks an OpenAI-compatible server.
"""
