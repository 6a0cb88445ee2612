-- a contrast pair of a behaviour, in order
select p.prompt, p.positive, p.negative
from pairs as p
where p.name = $behaviour
order by p.pair_id
