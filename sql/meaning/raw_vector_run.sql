-- a neuron of the temp table `raw_vectors`, of the $count from number $first on
select r.neuron, r.vector, r.square
from raw_vectors as r
where r.neuron >= $first::bigint and r.neuron < $first::bigint + $count::bigint
order by r.neuron
