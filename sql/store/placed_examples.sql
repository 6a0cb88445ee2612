-- one of an SAE's strongest tokens in one prompt: of those that hold eight or more, or most, the shortest
with counted as (
    select e.prompt_id, least(count(*), 8) as enough, min(p.n_tokens) as n_tokens
    from examples as e
    join prompts as p on p.prompt_id = e.prompt_id
    where e.sae_key = $sae_key
    group by e.prompt_id
),

chosen as (
    select c.prompt_id
    from counted as c
    order by c.enough desc, c.n_tokens, c.prompt_id
    limit 1
)

select p.text, e.neuron, e.position, e.activation
from examples as e
join prompts as p on p.prompt_id = e.prompt_id
where e.sae_key = $sae_key and e.prompt_id in (select c.prompt_id from chosen as c)
order by e.position, e.neuron
