-- one of a neuron's strongest tokens, without its text
select e.sae_key, e.neuron, row_number() over strength as rank, e.prompt_id, e.position, e.activation
from examples as e
window strength as (partition by e.sae_key, e.neuron order by e.activation desc, e.prompt_id, e.position)
qualify row_number() over strength <= $count
order by e.sae_key, e.neuron, rank
