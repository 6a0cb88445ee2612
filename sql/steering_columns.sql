-- a neuron of an SAE, in order, with what steering reads: its score (null without one) and its largest activation
select n.neuron, s.score, n.max_activation
from neurons as n
left join scores as s on s.neuron = n.neuron and s.scoring_id = $scoring_id
where n.sae_key = $sae_key
order by n.neuron
