-- a (sae_key, neuron) of the frame `shown`: the standard error of its score for the mean embedding $vector of a topic's texts, over
-- the prompts on which it fired (method: equation 6); null for a neuron that fired on one
with ranges as (
    select v.sae_key, max(v.square - 2 * list_inner_product(v.vector, $vector::float[])::double)
        - min(v.square - 2 * list_inner_product(v.vector, $vector::float[])::double) as width
    from neuron_vectors as v
    join neurons as r on r.sae_key = v.sae_key and r.neuron = v.neuron
    where r.support >= 20 and v.sae_key in (select w.sae_key from shown as w)
    group by v.sae_key
), weights as (
    select w.sae_key, w.neuron, w.g, r.mass_mean, r.support, a.prompt_id, a.act_sum / p.sum_total as weight
    from shown as w
    join neurons as r on r.sae_key = w.sae_key and r.neuron = w.neuron
    join activations as a on a.sae_key = w.sae_key and a.neuron = w.neuron
    join prompt_totals as p on p.sae_key = w.sae_key and p.prompt_id = a.prompt_id
), distances as (
    select e.prompt_id, list_inner_product(e.vector, e.vector) + 1 - 2 * list_inner_product(e.vector, $vector::float[])::double
        as far
    from embeddings as e
    where e.prompt_id in (select x.prompt_id from weights as x)
)
select
    x.sae_key, x.neuron,
    case when any_value(x.support) > 1 then
        sqrt(sum(x.weight * x.weight * (d.far - x.g) * (d.far - x.g))) / any_value(x.mass_mean) / nullif(any_value(r.width), 0)
    end as se
from weights as x
join distances as d on d.prompt_id = x.prompt_id
join ranges as r on r.sae_key = x.sae_key
group by x.sae_key, x.neuron
order by x.sae_key, x.neuron
