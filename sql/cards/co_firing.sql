-- one of the $n neurons per SAE that fire on the same prompts as a neuron: the cosine of similar_neurons, in every SAE
with own as (
    select a.prompt_id, a.act_sum::double as own_sum
    from activations as a
    where a.sae_key = $sae_key and a.neuron = $neuron
), size as (
    select sqrt(sum(o.own_sum * o.own_sum)) as length from own as o
), lengths as (
    select a.sae_key, a.neuron, sqrt(sum(a.act_sum::double * a.act_sum)) as length
    from activations as a
    group by a.sae_key, a.neuron
), products as (
    select a.sae_key, a.neuron, sum(o.own_sum * a.act_sum) as product, count(*) as shared_prompts
    from own as o
    join activations as a on a.prompt_id = o.prompt_id
    where not (a.sae_key = $sae_key and a.neuron = $neuron)
    group by a.sae_key, a.neuron
)
select p.sae_key, p.neuron, p.product / (s.length * y.length) as cosine, p.shared_prompts
from products as p
cross join size as s
join lengths as y on y.sae_key = p.sae_key and y.neuron = p.neuron
qualify row_number() over (partition by p.sae_key order by cosine desc, p.neuron) <= $n
order by p.sae_key <> $sae_key, p.sae_key, cosine desc, p.neuron
