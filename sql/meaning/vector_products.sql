-- a neuron of the SAEs $sae_keys that has a vector, in no order: the inner product of its vector and $vector
select v.sae_key, v.neuron, coalesce(list_inner_product(v.vector, $vector::float[]), 'nan') as product
from neuron_vectors as v
where list_contains($sae_keys::uinteger[], v.sae_key)
