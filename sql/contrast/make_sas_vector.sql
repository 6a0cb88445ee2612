-- a neuron that fires on a side of the pairs in at least tau of them: its mean over the pairs in which it fires, and
-- whether it is kept on both sides; the sparse vector is positive - negative over those kept on one (method: section 5)
with kept as (
    select c.side, c.neuron, avg(c.value::double) as value  -- the rows there are the non-zero ones
    from pair_codes as c
    where c.name = $behaviour and c.sae_key = $sae_key and c."position" = $position
    group by c.side, c.neuron
    having count(*) >= $tau * $pairs - 1e-9 and avg(c.value::double) <> 0
)
select
    k.side, k.neuron as "index", case k.side when 'positive' then k.value else -k.value end as value,
    count(*) over (partition by k.neuron) = 2 as shared
from kept as k
order by k.neuron, k.side
