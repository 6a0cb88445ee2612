-- one row: an id that no vector has, nor had when a text was generated with it
select coalesce(max(n.vector_id) + 1, 0) as vector_id
from (
    select v.vector_id from vectors as v
    union all
    select unnest(g.vector_ids) as vector_id from generations as g
) as n
