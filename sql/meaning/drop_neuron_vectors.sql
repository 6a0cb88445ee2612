-- no neuron has a vector any more
delete from neuron_vectors;
delete from embedding_moments
