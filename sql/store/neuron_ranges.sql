-- a run of an SAE's neurons with about $rows activation rows, in the order of SAE and neuron
with counted as (
    select a.sae_key, a.neuron, count(*) as rows from activations as a group by a.sae_key, a.neuron
), running as (
    select c.*, sum(c.rows) over (partition by c.sae_key order by c.neuron) - c.rows as before from counted as c
)
select
    r.sae_key, min(r.neuron) as first_neuron, max(r.neuron) as last_neuron, sum(r.rows)::bigint as rows
from running as r
group by r.sae_key, r.before // $rows::bigint
order by r.sae_key, first_neuron
