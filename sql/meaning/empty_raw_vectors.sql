-- temp table: a neuron of an SAE that fired, its vector and the weighted mean of the embeddings' squared lengths; still empty
create or replace temp table raw_vectors (neuron uinteger, vector float[], square double)
