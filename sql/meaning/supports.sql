-- a neuron of the SAEs $sae_keys, in no order: on how many prompts it fired
select n.sae_key, n.neuron, n.support from neurons as n where list_contains($sae_keys::uinteger[], n.sae_key)
