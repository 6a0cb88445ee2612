-- an alignment text of a topic
select x.text_id, x.text
from topic_texts as x
join topics as t on t.topic_id = x.topic_id
where t.name = $topic
order by x.text_id
