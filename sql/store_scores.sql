-- append the computed scores under the scoring ids in the frame `numbered`
insert into scores (scoring_id, neuron, g, score)
select n.scoring_id, c.neuron, c.g, c.score
from computed as c
join numbered as n on n.topic_id = c.topic_id
order by n.scoring_id, c.neuron
