-- two behaviours with current vectors for an SAE: the entries that both vectors have, and the cosine
with entries as (
    select v.sae_key, v.kind, v.name, x."index", x.value
    from vectors as v
    join vector_entries as x on x.vector_id = v.vector_id
    where v.is_current
), sizes as (
    select x.sae_key, x.kind, x.name, count(*) as entries, sqrt(sum(x.value * x.value)) as length
    from entries as x
    group by x.sae_key, x.kind, x.name
), products as (
    select a.sae_key, a.kind, a.name as a, b.name as b, count(*) as both, sum(a.value * b.value) as product
    from entries as a
    join entries as b on b.sae_key = a.sae_key and b.kind = a.kind and b."index" = a."index" and b.name > a.name
    group by a.sae_key, a.kind, a.name, b.name
)
select
    s.sae_id, x.name as a, y.name as b, x.kind, x.entries as entries_a, y.entries as entries_b,
    coalesce(p.both, 0) as both, coalesce(p.both, 0) / (x.entries + y.entries - coalesce(p.both, 0)) as jaccard,
    coalesce(p.product, 0) / (x.length * y.length) as cosine
from sizes as x
join sizes as y on y.sae_key = x.sae_key and y.kind = x.kind and y.name > x.name
join saes as s on s.sae_key = x.sae_key
left join products as p on p.sae_key = x.sae_key and p.kind = x.kind and p.a = x.name and p.b = y.name
order by x.sae_key, x.kind desc, x.name, y.name
