"""What a neuron means: its place among the sentence embeddings, made of the prompts it fires on (method: section 8).

In reading order: `neuron_vectors` (each neuron's vector, and what random topics are like, kept in the file), `search` (the
neurons that are closest to texts).
"""
