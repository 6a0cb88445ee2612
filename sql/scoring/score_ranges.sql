-- a topic of `computed`: how many neurons are eligible, the range of what their scores are made from, and whether every
-- figure is a finite number
select
    c.topic_id, max(c.eligible) as eligible, max(c.lowest)::double as lowest, max(c.highest)::double as highest,
    bool_and(coalesce(isfinite(c.g), true) and coalesce(isfinite(c.score), true) and coalesce(isfinite(c.se), true))
    as finite
from computed as c
group by c.topic_id
order by c.topic_id
