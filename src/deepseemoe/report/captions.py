"""One sentence for each kind of figure, as the page prints it below."""

CAPTIONS = {
    "map_heatmap": "Which features call which experts: red where a feature's tokens choose the "
    "expert more often than other tokens do, blue where less often, grey where it is not clear.",
    "map_concentration": "How concentrated routing is on a feature's tokens, against chance "
    "(dashed), and how many experts of a router a feature calls.",
    "map_evidence": "How far regression, weights and ablation bear each other out, and how many "
    "pairs reach which tier of evidence.",
    "prediction": "How well routing is predicted from features, and from what is no dictionary: "
    "the token, all coordinates, random features.",
    "expert_load": "How often each expert is chosen, over how often a uniform router would.",
    "domain_load": "How much more or less often an expert is chosen in a domain than overall; "
    "white where the interval covers no difference.",
    "coactivation": "Which experts of a layer are chosen together more often than by chance; "
    "blocks on the diagonal are teams.",
    "reconstruction": "What the dictionaries keep of the model: the features explain only that.",
    "density": "On what share of the test tokens features fire; very frequent ones rarely mean one "
    "thing.",
    "label_scores": "How well labels tell where their features fire, on documents that they were "
    "not made from.",
    "training_dictionaries": "Training of the dictionaries: error, sparsity and dead features.",
    "training_model": "Training of the model under study.",
}
