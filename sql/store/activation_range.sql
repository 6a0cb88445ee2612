-- an activation of a run of an SAE's neurons; which SAE is said by the folder the file lies in
select a.* exclude (sae_key)
from activations as a
where a.sae_key = $sae_key and a.neuron between $first_neuron and $last_neuron
