-- a neuron of an SAE, in order, with what its controls are matched by
select n.neuron, n.support, n.decoder_norm from neurons as n where n.sae_key = $sae_key order by n.neuron
