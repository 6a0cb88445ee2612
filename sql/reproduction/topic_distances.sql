-- a pair of topics of the frame `wanted`, a topic with itself too: the mean distance between a text of one and a text of
-- the other
select
    a.name as topic, b.name as other,
    count(*) as pairs, avg(list_distance(x.vector, y.vector)) as distance
from wanted as v
join wanted as w on v.topic_id <= w.topic_id
join topics as a on a.topic_id = v.topic_id
join topics as b on b.topic_id = w.topic_id
join topic_texts as x on x.topic_id = v.topic_id
join topic_texts as y on y.topic_id = w.topic_id and (v.topic_id < w.topic_id or x.text_id < y.text_id)
group by v.topic_id, w.topic_id, a.name, b.name
order by v.topic_id, w.topic_id
