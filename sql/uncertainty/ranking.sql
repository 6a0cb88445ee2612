-- a neuron that has a score under a scoring
select s.neuron, s.score from scores as s where s.scoring_id = $scoring_id and s.score is not null
