-- the tokens of a topic's texts, from the frame `counts`
update topic_texts set n_tokens = c.n_tokens
from counts as c
where topic_texts.topic_id = $topic_id and topic_texts.text_id = c.text_id
