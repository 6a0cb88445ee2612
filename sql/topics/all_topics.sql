-- a topic: how many texts, how many current scorings, how many stale ones
select
    t.name,
    (select count(*) from topic_texts as x where x.topic_id = t.topic_id) as texts,
    (select count(*) from scorings as g where g.topic_id = t.topic_id and g.is_current) as current_scorings,
    (select count(*) from scorings as g where g.topic_id = t.topic_id and not g.is_current) as other_scorings,
    t.created_at
from topics as t
order by t.topic_id
