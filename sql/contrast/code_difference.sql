-- a neuron that fired on either side of the pairs behind a dense vector: mean over the pairs of (positive - negative) codes
select c.neuron, sum(case c.side when 'positive' then c.value else -c.value end::double) / any_value(v.pairs) as value
from vectors as v
join pair_codes as c on c.name = v.name and c.sae_key = v.sae_key and c."position" = v."position"
where v.vector_id = $vector_id
group by c.neuron
order by c.neuron
