-- temp table: a (topic, prompt) of the topics in the frame `wanted`, and the Euclidean distance to the nearest text.
-- Differences are taken, not inner products: those lose half the digits near 0.
create or replace temp table distances as
select t.topic_id, e.prompt_id, min(list_distance(e.vector, t.vector))::double as euclidean
from wanted as w
join topic_texts as t on t.topic_id = w.topic_id
cross join embeddings as e
group by t.topic_id, e.prompt_id
