"""The stage that fills an atlas: prompts -> embeddings + activations -> tables.

In reading order: `build` (look, load, plan, run, finish), `plan` (what is to be done, written down first), `shards`
(a run of prompts through model, SAEs and encoder), `strongest` (the strongest tokens of each neuron), `finish` (the
tables once more, sorted, and the text around the strongest tokens), `staging` (where shards that Spark computed
wait). To add an engine, write a function like `shards.run_here`.
"""
