-- one row: how many pairs of a behaviour were run at a position for an SAE; null when they were not
select v.pairs
from vectors as v
where v.name = $behaviour and v.sae_key = $sae_key and v."position" = $position
limit 1
