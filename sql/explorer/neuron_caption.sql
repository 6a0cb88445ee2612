-- one row: what neuron $neuron of SAE $sae_key is known by
select s.sae_id, l.label,
    (select list(x.word order by x.first_rank)[:5] from (
        select lower(trim(e.token)) as word, min(e.rank) as first_rank
        from examples as e
        where e.sae_key = $sae_key and e.neuron = $neuron
        group by lower(trim(e.token))
    ) as x) as fires_on
from saes as s
left join neuron_labels as l on l.sae_key = s.sae_key and l.neuron = $neuron
where s.sae_key = $sae_key
