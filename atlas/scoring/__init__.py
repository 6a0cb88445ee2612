"""The stage that scores every neuron for a topic (method: sections 1 to 3).

In reading order: `scorers` (the ways to score), `summaries` and `distances` (the choices within one), `config`
(ScoringConfig), `score` (the stage), `topics` (their texts in the store), `products` (many topics' sums at once),
`centroids` (scorer centroid) and `centroid_errors` (of the scores that are shown),
`resolution` (are scores more than rounding?), `random_topics` (z), `stability` (of a ranking), `evidence` and
`model_evidence` (scorers that run the model), `scored` (a topic's current scorings). To add a scorer, add its entry to
`scorers.SCORERS` and write sql/scoring/compute_NAME.sql, which fills the temp table `computed`; to add a summary or a
distance, add a function and its entry.
"""
