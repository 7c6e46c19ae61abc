"""What routers do, from the experts that tokens chose.

Measures are functions of plain arrays, ids (T, K) and weights (T, K) of a layer, and return
NamedTuples: `load.load`, `coactivation.coactivation`, `specialisation.domain_shares` and
`.specialisation`, `divergence.domain_divergences`, `vocabulary.vocabulary`, `paths.cross_layer` and
`.top_paths`, `saturation.saturation`, `centroids.centroids`, `relevance.relevance` and `.select`.
`legacy` has what other tools' code computes instead. The stages of the workflow (`tabulate`,
`specialise`, `trace`, `compare_centroids`, `saturate`) stream stores through the same functions.
"""
