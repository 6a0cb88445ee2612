"""Does it work? Runs of steering methods with controls, intervals and metrics (method: section 6).

In reading order: `evaluation_set` (what is evaluated on), `evaluator` (a topic's steered model, ready to run a method),
`evaluate` (a topic: every method and its controls), `calibrate` (how strongly to steer), `runs` (what is compared and
stored), `figures` (what a figure is of, and its name), `metrics` (of a text), `language_judge` (how acceptable a
language model finds it), `nearest_topic` (which topic it is about), `controls`, `intervals`, `detection` (do the
neurons find the topic?), `layer_level` (what a method does to the code), `finetune` (a baseline), `remeasure` (old texts,
new metrics), `choices`, `choice_trial` and `vector_variants` (contrastive vectors on two-choice questions).
To add a metric, write one function and its entry in `metrics.METRICS`; a control in `controls.CONTROLS`.
"""
