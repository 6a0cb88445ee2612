-- one row per behaviour, SAE and kind: the vector that steering uses
select v.vector_id, v.name, v.kind, v.sae_key, v."position", v.tau, v.pairs
from vectors as v
where v.is_current
order by v.name, v.sae_key, v.kind
