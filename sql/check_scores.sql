-- a topic whose neurons cannot be told apart, and how many are eligible
select c.topic_id, max(c.eligible) as eligible
from computed as c
group by c.topic_id
having not coalesce(bool_and(c.spread), false)
order by c.topic_id
limit 1
