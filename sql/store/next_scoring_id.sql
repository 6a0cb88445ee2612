-- one row: the next free scoring id
select coalesce(max(g.scoring_id) + 1, 0) as scoring_id from scorings as g
