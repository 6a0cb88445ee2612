-- one of $bins equal ranges of activation, from 0 to the largest: how many prompts a neuron fires on at most so much
with fired as (
    select a.act_max, max(a.act_max) over () as highest
    from activations as a
    where a.sae_key = $sae_key and a.neuron = $neuron and isfinite(a.act_max)
), bins as (
    select h.bin, h.highest, count(f.act_max) as prompts
    from (select unnest(range($bins::integer))::integer as bin, max(f.highest) as highest from fired as f) as h
    left join fired as f on least(floor(coalesce(f.act_max / nullif(f.highest, 0), 0) * $bins::integer), $bins::integer - 1) = h.bin
    group by h.bin, h.highest
)
select b.bin * b.highest / $bins::integer as low, (b.bin + 1) * b.highest / $bins::integer as high, b.prompts
from bins as b
where b.highest is not null
order by b.bin
