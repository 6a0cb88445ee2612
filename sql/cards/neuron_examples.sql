-- one of a neuron's strongest tokens, per SAE
select s.release, s.sae_id, e.rank, e.activation, e.token, e.context, e.prompt_id, e.position
from examples as e
join saes as s on s.sae_key = e.sae_key
where e.neuron = $neuron and coalesce(s.sae_key::varchar = $sae::varchar, true)
order by s.sae_key, e.rank
