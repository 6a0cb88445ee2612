-- two behaviours with current vectors for an SAE: the entries that both vectors have, and the cosine
select o.* exclude (sae_key)
from vector_overlap as o
order by o.sae_key, o.kind desc, o.a, o.b
