-- an SAE's part of a map, and what a map of it would be made of today
with today as (
    select
        s.sae_key, s.sae_id, b.basis,
        case b.basis
            when 'decoder' then s.sae_hash
            else md5((select max(a.reference_hash) from atlas as a) || (select string_agg(o.sae_hash, ' ' order by o.sae_key) from saes as o))
        end as made_of
    from saes as s
    cross join (select unnest(['vectors', 'decoder']) as basis) as b
    where b.basis = 'decoder' or exists (from neurons as n where n.sae_key = s.sae_key and n.mass_mean > 0)
), there as (
    select p.sae_key, p.basis, min(p.seed) as seed, min(p.made_of) as made_of, count(*) as neurons, min(p.created_at) as created_at
    from map as p
    group by p.sae_key, p.basis
)
select
    t.basis, t.sae_key, t.sae_id, h.neurons, h.seed, h.created_at, t.made_of,
    case when h.neurons is null then 'missing' when h.made_of = t.made_of then 'current' else 'stale' end as state
from today as t
left join there as h on h.sae_key = t.sae_key and h.basis = t.basis
order by t.basis desc, t.sae_key
