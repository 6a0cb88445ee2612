-- one row: the next free generation id
select coalesce(max(g.generation_id) + 1, 0) as generation_id from generations as g
