-- an SAE that has neurons which fired, and no vectors of them
select s.sae_key
from saes as s
where exists (from neurons as n where n.sae_key = s.sae_key and n.mass_mean > 0)
    and not exists (from neuron_vectors as v where v.sae_key = s.sae_key)
order by s.sae_key
