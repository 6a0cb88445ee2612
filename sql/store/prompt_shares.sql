-- what an activation is multiplied by to be a prompt's weight for the neuron; null for a prompt on which no neuron fired
select
    p.prompt_id,
    1 / nullif(case $summary when 'mean' then p.sum_total when 'max' then p.max_total else p.count_total end, 0) as share
from prompt_totals as p
where p.sae_key = $sae_key
order by p.prompt_id
