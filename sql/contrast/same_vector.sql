-- one row: the vector of a behaviour and SAE with these settings; none when there is none
select v.vector_id
from vectors as v
where v.name = $behaviour and v.sae_key = $sae_key and v.kind = $kind
    and v."position" = $position and v.tau is not distinct from $tau
