-- one row: the strength picked last under these conditions; none when there is none
select c.strength
from calibrations as c
where c.topic = $topic and c.sae_keys = $sae_keys and c.method = $method and c.parameters = $parameters
order by c.created_at desc
limit 1
