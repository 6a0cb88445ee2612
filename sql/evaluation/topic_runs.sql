-- a run of a topic's (or a behaviour's) evaluations, and the first SAE that steered: as the run says, else as other runs of
-- its evaluation say, else that of the scorings behind their texts; null where nothing says it
with named as (
    select r.*, (r.parameters::json -> 'sae_keys' ->> 0)::uinteger as own_key from runs as r where r.topic = $topic
), steered as (
    select r.evaluation_id, min(s.sae_key) as sae_key
    from named as r
    join generations as g on g.run_id = r.run_id
    join scorings as s on s.scoring_id = g.scoring_ids[1]
    group by r.evaluation_id
)
select
    r.run_id, r.evaluation_id, r.method, r.parameters,
    coalesce(r.own_key, min(r.own_key) over (partition by r.evaluation_id), s.sae_key) as sae_key
from named as r
left join steered as s on s.evaluation_id = r.evaluation_id
order by r.run_id
