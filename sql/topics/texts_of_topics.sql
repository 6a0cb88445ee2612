-- an alignment text of the topics called $names, in order
select t.topic_id, t.name, x.text
from topics as t
join topic_texts as x on x.topic_id = t.topic_id
where t.name in (select unnest($names::varchar[]))
order by t.topic_id, x.text_id
