-- an (SAE, sample, size): the share of neurons that fired on at least 1, and at least 20, of the first `size` prompts of a
-- random order. The frame `orders` holds (sample, prompt_id, place from 0), the frame `sizes` the sizes.
with steps as (
    select o.sample, o.prompt_id, min(z.size) as size
    from orders as o
    join sizes as z on z.size > o.place
    group by o.sample, o.prompt_id
), counts as (
    select a.sae_key, a.neuron, s.sample, s.size, count(*) as prompts
    from activations as a
    join steps as s on s.prompt_id = a.prompt_id
    group by a.sae_key, a.neuron, s.sample, s.size
), supports as (
    select c.sae_key, c.neuron, c.sample, z.size, sum(c.prompts) as support
    from counts as c
    join sizes as z on z.size >= c.size
    group by c.sae_key, c.neuron, c.sample, z.size
)
select
    e.sae_id, s.sample, s.size,
    count(*) / e.d_sae as coverage,
    count(*) filter (where s.support >= 20) / e.d_sae as coverage_20
from supports as s
join saes as e on e.sae_key = s.sae_key
group by e.sae_key, e.sae_id, e.d_sae, s.sample, s.size
order by e.sae_key, s.sample, s.size
