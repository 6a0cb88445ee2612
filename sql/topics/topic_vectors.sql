-- a text of the topics $topic_ids, with its embedding
select t.topic_id, t.vector
from topic_texts as t
where list_contains($topic_ids::uinteger[], t.topic_id)
order by t.topic_id, t.text_id
