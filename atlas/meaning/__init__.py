"""What a neuron means: its place among the sentence embeddings, made of the prompts it fires on (method: section 8).

In reading order: `neuron_vectors` (each neuron's vector, and what random topics are like, kept in the file), `described` (what
a reader knows neurons by), `vector_memory` (vectors that are asked for again), `vector_products` (the inner products of texts
with vectors), `search` (the neurons that are closest to texts), `terms` (the words and phrases of texts), `label_quality`
(whether a label tells the prompts on which its neuron fires), `labels` (a few words for every neuron), `label_import` (labels
from elsewhere), `label_comparison` (their quality beside that of tokens and random words), `matching` (the neurons of the same
meaning elsewhere), `neuron_map` (two numbers for every neuron, so that those that are alike lie together), `notes` (what a
person says of neurons, in lists).
"""
