-- an example of an SAE so far
select e.neuron, e.activation from examples as e where e.sae_key = $sae_key
