-- a reference prompt behind what neuron $neuron of SAE $sae_key has to do with texts whose mean embedding is $vector, heaviest
-- first; the contributions sum to the g of search_neurons
select
    a.prompt_id, q.text, q.source, sqrt(greatest(d.far, 0)) as distance,
    a.act_sum / p.sum_total / r.mass_mean as weight, a.act_sum / p.sum_total / r.mass_mean * d.far as contribution
from activations as a
join prompt_totals as p on p.sae_key = a.sae_key and p.prompt_id = a.prompt_id
join neurons as r on r.sae_key = a.sae_key and r.neuron = a.neuron
join prompts as q on q.prompt_id = a.prompt_id
join (
    select e.prompt_id,
        list_inner_product(e.vector, e.vector) + 1 - 2 * list_inner_product(e.vector, $vector::float[])::double as far
    from embeddings as e
) as d on d.prompt_id = a.prompt_id
where a.sae_key = $sae_key and a.neuron = $neuron
order by weight desc, a.prompt_id
