-- an SAE whose labels of words were made before its last prompts were read, or that has none (outdated is false) while others have
with made as (
    select l.sae_key, min(l.created_at) as first_made from labels as l where l.source = 'words' group by l.sae_key
), finished as (
    select h.sae_key, max(h.finished_at) as last_read from shards as h group by h.sae_key
)
select s.sae_key, s.sae_id, m.first_made is not null as outdated
from saes as s
left join made as m on m.sae_key = s.sae_key
left join finished as f on f.sae_key = s.sae_key
where (select count(*) from made) > 0 and (m.first_made is null or m.first_made < f.last_read)
order by s.sae_key
