-- one row: the next free id of each kind; that of a vector is one that no text was generated with either
select
    (select coalesce(max(t.topic_id) + 1, 0) from topics as t) as topic_id,
    (select coalesce(max(g.scoring_id) + 1, 0) from scorings as g) as scoring_id,
    (select coalesce(max(n.null_id) + 1, 0) from nulls as n) as null_id,
    (select coalesce(max(r.evaluation_id) + 1, 0) from runs as r) as evaluation_id,
    (select coalesce(max(r.run_id) + 1, 0) from runs as r) as run_id,
    (select coalesce(max(g.generation_id) + 1, 0) from generations as g) as generation_id,
    (
        select coalesce(max(v.vector_id) + 1, 0)
        from (select vector_id from vectors union all select unnest(vector_ids) from generations) as v (vector_id)
    ) as vector_id
